"""The six commands as small steps, each with what it needs made before, and how outputs compare."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl
from tests.pmc_bucket import BucketArticle, write_mirror

ROOT = Path(__file__).parents[2]
ARTICLES = 60
_CHANGING = {
    "run.json", "summary.json", "report.html", "report.json", "metrics.jsonl", "README.md",
    "ledger.jsonl", "run_key.json", "index.html", "browse.html",
}  # fmt: skip
"""Names whose content holds times, speeds or paths."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, the folder it writes, and its command line behind `medllava`."""

    name: str
    arguments: Sequence[str]


def command(step: Step, output_dir: Path) -> list[str]:
    """Return the whole command line, with the one JSON object asked for."""
    return [sys.executable, "-m", "medllava", *step.arguments, "-o", str(output_dir), "--json"]


def environment() -> dict[str, str]:
    """Return the environment in which steps run: this checkout, offline, one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def start(step: Step, output_dir: Path) -> "subprocess.Popen[bytes]":
    """Start a step in a process group of its own."""
    return subprocess.Popen(
        command(step, output_dir),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def same(left: Path, right: Path) -> bool:
    """Tell whether two output folders hold the same but for times, speeds and paths."""
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


def make_steps(folder: Path, only: Collection[str] = ()) -> list[Step]:
    """Make the inputs of each step, by the steps before it; return those asked for, else all."""
    archive = write_mirror(folder / "archive", [BucketArticle(n) for n in range(1, ARTICLES + 1)])
    figures, align, base = folder / "figures", folder / "align", folder / "base"
    fetch = Step("fetch-pmc", ["fetch-pmc", "--input", str(archive)])
    generate = Step(
        "generate-instructions", ["generate-instructions", str(figures), "--stage", "align"]
    )
    train = ["train", "debug", "--max-steps", "6", "--set", "checkpoint.every_steps=1"]
    first = Step("train-stage-1", [*train, "--stage", "1", "--data", str(align)])
    for step, made in ((fetch, figures), (generate, align), (first, base)):
        if code := start(step, made).wait(timeout=900):
            raise SystemExit(f"{step.name} ended with {code} before anything was killed")
    questions = folder / "questions.jsonl"
    questions.write_text(
        "".join(
            json.dumps(_question(number, image).to_json()) + "\n"
            for number, image in enumerate(_images(align, figures))
        )
    )
    steps = [
        fetch,
        generate,
        first,
        Step(
            "train-stage-2",
            [*train, "--stage", "2", "--data", str(align), "--init", str(base)],
        ),
        *(
            Step(
                f"train-stage-{stage}",
                [*train, "--stage", stage, "--data", "random", "--init", str(base)],
            )
            for stage in ("4", "5")
        ),
        Step("eval", ["eval", str(questions), "--ckpt", str(base), "--controls", "permuted,blank"]),
        Step("push", ["push", str(base), "nobody/nothing", "--dry-run"]),
    ]
    if unknown := set(only) - {step.name for step in steps}:
        raise SystemExit(f"no such step: {', '.join(sorted(unknown))}")
    return [step for step in steps if not only or step.name in only]


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
