"""fetch-pmc against an archive that misbehaves: nothing is lost, and nobody is told it went well.

Objects answer with random faults (errors, cut and wrong bytes, hangs, resets) and a random stretch
of an outage (a proxy's pages and refusals). A run may end complete (0), or say that it is not (6)
or that the source gives no usable answer (5); the same command goes on until it is complete, and
its folder is that of a run without faults.
"""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.chaos.steps import Step, command, environment, same
from tests.pmc_bucket import BucketArticle, article_objects
from tests.pmc_server import FAULTS, LoopbackArchive

_ARTICLES = 24
_MOST_RUNS = 8
_GO_ON = {5, 6}
"""Exit codes after which the same command is asked for again."""


def print_faults(folder: Path, *, cases: int, seed: int) -> int:
    """Print one row a case of faults; return 1 where something was lost or hidden."""
    objects: dict[str, bytes] = {}
    for number in range(1, _ARTICLES + 1):
        objects |= article_objects(BucketArticle(number))
    ids = folder / "ids.txt"
    ids.write_text("".join(f"PMC{number}\n" for number in range(1, _ARTICLES + 1)))
    with LoopbackArchive(objects).running() as archive:
        calm = folder / "calm"
        subprocess.run(
            command(_step(archive.url, ids), calm),
            env=environment(),
            capture_output=True,
            check=True,
        )
    failed = 0
    print(f"{'case':>4} {'faults':>7} {'outage':>7} {'runs':>5}  codes     output", flush=True)
    for case in range(cases):
        rng = random.Random(f"{seed}:{case}")
        archive = LoopbackArchive(objects)
        archive.hang_seconds = 0.5
        share = rng.choice((0.05, 0.2, 0.5))
        for key in objects:
            if rng.random() < share:
                archive.faults[key] = rng.choices(FAULTS, k=rng.choice((1, 1, 2, 6)))
        faults = sum(map(len, archive.faults.values()))
        outage = rng.choice((0, 10, 60))
        archive.outage_after = {rng.randint(1, 60): outage} if outage else {}
        with archive.running():
            codes = _until_complete(_step(archive.url, ids), folder / f"case-{case}")
        verdict = "identical" if same(calm, folder / f"case-{case}") else "DIFFERS"
        if codes[-1] != 0 or set(codes) - {0, *_GO_ON}:
            verdict = f"ended with {codes[-1]}"
        failed |= verdict != "identical"
        told = " ".join(f"{code}x{n}" for code, n in sorted(Counter(codes).items()))
        print(f"{case:>4} {faults:>7} {outage:>7} {len(codes):>5}  {told:<9} {verdict}", flush=True)
    return int(failed)


def _step(url: str, ids: Path) -> Step:
    return Step("fetch-pmc", ["fetch-pmc", "--base-url", url, "--ids", str(ids)])


def _until_complete(step: Step, output: Path) -> list[int]:
    codes: list[int] = []
    while len(codes) < _MOST_RUNS and (not codes or codes[-1] in _GO_ON):
        done = subprocess.run(command(step, output), env=environment(), capture_output=True)
        codes.append(done.returncode)
        if done.returncode not in {0, *_GO_ON}:
            print(done.stdout.decode(errors="replace")[-400:], file=sys.stderr)
    return codes
