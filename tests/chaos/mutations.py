"""Faults put into the code on purpose: each must turn a quick test red.

The package and its tests are copied, one line is changed, and the tests that hold it are run.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SECONDS = 60
"""Of a core: on a busy machine the clock tells nothing of a test."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line that is wrong, and who should notice."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


MUTATIONS = (
    Mutation(
        "a permuted image is the image itself",
        "eval/baselines.py",
        "zip(keys, [*keys[1:], keys[0]], strict=True)",
        "zip(keys, keys, strict=True)",
        "unit/eval/test_eval_echo.py",
    ),
    Mutation(
        "an old reply of another picture is accepted",
        "eval/ask/predict.py",
        "if digests.get(key) == digest",
        "if digests.get(key)",
        "unit/eval/test_eval_echo.py",
    ),
    Mutation(
        "exit 6 is never raised",
        "eval/run.py",
        "complete=unread == 0,",
        "complete=True,",
        "unit/eval/test_eval_echo.py",
    ),
    Mutation(
        "one checkpoint too many is kept",
        "train/checkpoint.py",
        "[: -max(keep, 1)]",
        "[: -max(keep, 1) - 1]",
        "unit/train/test_train_checkpoint.py",
    ),
    Mutation(
        "projector_learning_rate is ignored",
        "train/stages.py",
        "return config.projector_learning_rate",
        "return config.learning_rate",
        "unit/train/test_train_optimizer.py",
    ),
    Mutation(
        "the held-out share is another one",
        "data/benchmarks/disjoint.py",
        "_TEST_SHARE = 0.2\n",
        "_TEST_SHARE = 0.22\n",
        "unit/eval/test_eval_echo.py",
    ),
    Mutation(
        "a text is cut one token short",
        "data/tokenize.py",
        'np.searchsorted(width, max_length, side="right")',
        'np.searchsorted(width, max_length, side="left")',
        "unit/data/test_data_tokenize.py",
    ),
    Mutation(
        "half an image is kept in the cache",
        "data/pixels.py",
        "_decode(path)\n        row[:-1] = pixels.reshape(-1)",
        "_decode(path)\n        row[: len(row) // 2] = pixels.reshape(-1)[: len(row) // 2]",
        "unit/data/test_data_pixels.py",
    ),
    Mutation(
        "optimizer bytes 12 -> 8",
        "train/settings.py",
        "is Optimizer.EIGHT_BIT else 12",
        "is Optimizer.EIGHT_BIT else 8",
        "unit/train/test_train_optimizer.py",
    ),
    Mutation(
        "one random stream for all requests",
        "eval/ask/engine.py",
        "repr(ask.key).encode()",
        'b""',
        "unit/eval/test_eval_echo.py",
    ),
)


def print_mutations(folder: Path) -> int:
    """Print for each mutation whether its tests turned red, and in what time; 1 if one did not."""
    for name in ("medllava", "tests", "recipes", "pyproject.toml"):
        copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
        copy(_ROOT / name, folder / name)
    alive = 0
    for mutation in MUTATIONS:
        path = folder / "medllava" / mutation.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.right) != 1:
            raise SystemExit(f"{mutation.file} has not one {mutation.right!r}")
        path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
        started, before = time.monotonic(), _processor_seconds()
        code, seen = _run(folder, mutation.tests)
        seconds, busy = time.monotonic() - started, _processor_seconds() - before
        path.write_text(text, encoding="utf-8")
        is_killed = code == 1 and busy < _SECONDS
        alive += not is_killed
        verdict = "killed" if is_killed else f"ALIVE (exit {code})"
        times = f"{seconds:5.1f} s, {busy:4.1f} s of a core"
        print(f"{mutation.name:<46} {verdict:<16} {times}  {seen}", flush=True)
    return int(alive > 0)


def _run(folder: Path, tests: str) -> tuple[int, str]:
    """Run tests on the copy until one fails; return pytest's exit code and the test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", f"tests/{tests}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return done.returncode, failed[0].split("::")[-1][:70] if failed else ""


def _processor_seconds() -> float:
    """Return what the processes that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
