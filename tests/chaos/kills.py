"""Every step killed at random moments: what lies there in the end is what an undisturbed run left.

Each step runs once in peace, which gives its length and its output. Then it is started again and
again in a new folder and killed (SIGKILL) after a random share of that length, until its kills are
used up; the last start may finish. Files that say when and how something ran are not compared.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl
from tests.pmc_bucket import BucketArticle, write_mirror

ROOT = Path(__file__).parents[2]
ARTICLES = 60
_CHANGING = {
    "run.json", "summary.json", "report.html", "report.json", "metrics.jsonl", "README.md",
    "ledger.jsonl", "run_key.json", "index.html",
}  # fmt: skip
"""Names whose content holds times, speeds or paths."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, the folder it writes, and its command line behind `medllava`."""

    name: str
    arguments: Sequence[str]


def print_kills(folder: Path, *, kills: int, seed: int) -> int:
    """Print one row a step; return 1 where an output differs or a step did not end."""
    steps = _steps(folder)
    failed = 0
    print(f"{'step':<36} {'seconds':>7} {'kills':>6} {'hit':>5}  output")
    for step in steps:
        row = _kill_step(step, folder, kills=-(-kills // len(steps)), rng=random.Random(seed))
        failed |= row[3] != "identical"
        print(f"{step.name:<36} {row[0]:>7.1f} {row[1]:>6} {row[2]:>5}  {row[3]}", flush=True)
    return int(failed)


def _kill_step(
    step: Step, folder: Path, *, kills: int, rng: random.Random
) -> tuple[float, int, int, str]:
    """Return seconds in peace, starts that were to be killed, how many were, and the verdict."""
    calm, killed = folder / f"{step.name}-calm", folder / f"{step.name}-killed"
    started = time.monotonic()
    done = _start(step, calm).wait(timeout=900)
    seconds = time.monotonic() - started
    if done:
        return seconds, 0, 0, f"exit {done} without a kill"
    hits = 0
    for _ in range(kills):
        process = _start(step, killed)
        try:
            process.wait(timeout=rng.uniform(0.05, 1.05) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits += 1
            continue
        if not _same(calm, killed):
            return seconds, kills, hits, "DIFFERS after a start that ended by itself"
        shutil.rmtree(killed)  # finished: begin anew, so that each kill meets work
    done = _start(step, killed).wait(timeout=900)
    if done:
        return seconds, kills, hits, f"exit {done} at the end"
    return seconds, kills, hits, "identical" if _same(calm, killed) else "DIFFERS"


def _start(step: Step, output_dir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "medllava", *step.arguments, "-o", str(output_dir), "--json"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _same(left: Path, right: Path) -> bool:
    return _contents(left) == _contents(right)


def _contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file that says nothing of time."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in _CHANGING
        # Journals of the steps (.fetch and the like) may hold the same in other bytes.
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _steps(folder: Path) -> list[Step]:
    """Make the inputs of each step, by the steps before it."""
    archive = write_mirror(folder / "archive", [BucketArticle(n) for n in range(1, ARTICLES + 1)])
    figures, align, base = folder / "figures", folder / "align", folder / "base"
    fetch = Step("fetch-pmc", ["fetch-pmc", "--input", str(archive)])
    generate = Step(
        "generate-instructions", ["generate-instructions", str(figures), "--stage", "align"]
    )
    train = ["train", "debug", "--max-steps", "6", "--set", "checkpoint.every_steps=1"]
    first = Step("train-stage-1", [*train, "--stage", "1", "--data", str(align)])
    for step, made in ((fetch, figures), (generate, align), (first, base)):
        if code := _start(step, made).wait(timeout=900):
            raise SystemExit(f"{step.name} ended with {code} before anything was killed")
    questions = folder / "questions.jsonl"
    questions.write_text(
        "".join(
            json.dumps(_question(number, image).to_json()) + "\n"
            for number, image in enumerate(_images(align, figures))
        )
    )
    return [
        fetch,
        generate,
        first,
        Step(
            "train-stage-2",
            [*train, "--stage", "2", "--data", str(align), "--init", str(base)],
        ),
        Step("eval", ["eval", str(questions), "--ckpt", str(base), "--controls", "permuted,blank"]),
        Step("push", ["push", str(base), "nobody/nothing", "--dry-run"]),
    ]


def _images(align: Path, figures: Path) -> list[str]:
    lines = iter_jsonl(align / "instructions.jsonl")
    root = Path(os.path.relpath(figures, align.parent))
    return [str(root / values["images"][0]) for _, values in lines][:40]


def _question(number: int, image: str) -> Question:
    return Question(
        id=str(number),
        image=image,
        question="Is this a CT?",
        answer="yes" if number % 2 else "no",
        answer_type=AnswerType.CLOSED,
    )
