"""A bucket that fails in ten ways for a while, and a client that is killed: is the folder the same?

    PYTHONPATH=tests python tests/benchmarks/pmc_outage.py --faults 1000 --kills 20

One undisturbed run; then the command again and again, against a loopback bucket that answers like a
proxy, a portal or a broken mirror in spells, and that kills the client in the middle of objects,
until a run says that it is done. Every file that it hands over is compared by SHA-256.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pmc_bucket import BucketArticle, article_objects, inventory_objects
from pmc_server import LoopbackArchive

OUTPUTS = ("figures.parquet", "rejected.parquet", "ATTRIBUTION.md", "report.html")


def content_of(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in OUTPUTS] + sorted((folder / "images").rglob("*"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def run(archive: LoopbackArchive, folder: Path) -> int:
    settings = ("transfer.retry_seconds=0.01", "transfer.timeout_seconds=2")
    command = [
        *(sys.executable, "-m", "medllava", "fetch-pmc", "-o", str(folder), "--quiet"),
        *("--base-url", archive.url, "--workers", "8"),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as archive.victim:
        return archive.victim.wait(timeout=600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=150)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    objects: dict[str, bytes] = {}
    for number in range(1, options.articles + 1):
        objects |= article_objects(BucketArticle(number, num_figures=1 + number % 4))
    objects |= inventory_objects(objects)
    codes: Counter[int] = Counter()
    started = time.monotonic()
    with LoopbackArchive(objects).running() as archive, tempfile.TemporaryDirectory() as scratch:
        calm, rough = Path(scratch) / "calm", Path(scratch) / "rough"
        if run(archive, calm) != 0:
            raise SystemExit("the undisturbed run failed")
        archive.served.clear()
        killed = 0
        while 0 not in codes:
            wanted = options.faults - sum(archive.misanswered.values())
            archive.asked = 0
            # Spells of trouble, shorter and longer than what the retries of one object bridge.
            archive.outage_after = {}
            while wanted > 0 and len(archive.outage_after) < 6:
                length = min(draw.randrange(5, 45), wanted)
                archive.outage_after[draw.randrange(1, 150)] = length
                wanted -= length
            archive.outage = 0
            archive.kill_after = draw.randrange(3, 100) if killed < options.kills else None
            code = run(archive, rough)
            codes[code] += 1
            killed += code == -9
            if sum(codes.values()) > 500:
                raise SystemExit(f"no end after 500 runs: {dict(codes)}")
        expected = content_of(calm)
        same = expected == content_of(rough)
        left = list(rough.rglob(".*.tmp"))
    print(f"objects {len(objects)}, runs {sum(codes.values())}, {time.monotonic() - started:.0f} s")
    for name, count in sorted(archive.misanswered.items()):
        print(f"  answered {name:12s} {count:5d}")
    print(f"  faults in all         {sum(archive.misanswered.values()):5d}")
    for code, count in sorted(codes.items()):
        print(f"  runs that ended with {'a kill' if code == -9 else f'exit {code}':8s} {count:4d}")
    print(f"  temporary files left  {len(left):5d}")
    print(f"  files compared        {len(expected):5d}")
    print("output identical" if same else "OUTPUT DIFFERS")
    raise SystemExit(0 if same and not left else 1)


if __name__ == "__main__":
    main()
