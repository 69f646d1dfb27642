"""Every step on a disk that fills: it says so, ends with 6 or 7, and goes on where there is room.

Each step runs once with room, which gives what it needs. Then its output folder lies on a file
system of a random smaller size; when it has ended, the file system grows and the same command is
given again: its output must be that of the run with room.
"""

import json
import random
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.steps import Step, command, environment, make_steps, same

_ROOM = 1 << 30
_TELLS = (6, 7)
"""Exit codes that say a run is incomplete, or that this machine lacks something."""


def print_disks(folder: Path, *, cases: int, seed: int, only: Collection[str] = ()) -> int:
    """Print one row a step; return 1 where a full disk was hidden, hurt, or left no way on."""
    rng, failed = random.Random(seed), 0
    steps = make_steps(folder, only)
    print(f"{'step':<24} {'MiB':>7} {'fills':>6} {'told':>5}  findings")
    for step in steps:
        calm = folder / f"{step.name}-calm"
        subprocess.run(command(step, calm), env=environment(), capture_output=True, check=True)
        needed = sum(path.stat().st_blocks * 512 for path in calm.rglob("*") if path.is_file())
        fills = told = 0
        findings = []
        for _ in range(-(-cases // len(steps))):
            filled, finding = _fill(step, calm, size=int(rng.uniform(0.02, 0.98) * needed))
            fills += filled
            told += filled and not finding
            findings += [finding] if finding else []
        if not fills:
            findings.append("no disk was full: nothing is shown")
        failed |= bool(findings)
        print(
            f"{step.name:<24} {needed / (1 << 20):>7.1f} {fills:>6} {told:>5}"
            f"  {'; '.join(findings) or 'none'}",
            flush=True,
        )
    return int(failed)


def _fill(step: Step, calm: Path, *, size: int) -> tuple[bool, str]:
    """Return whether the step met the end of a disk of `size` bytes, and what was wrong then."""
    with _small_disk(size) as disk:
        output = disk / "out"
        first = subprocess.run(command(step, output), env=environment(), capture_output=True)
        filled = first.returncode != 0
        if filled:
            if first.returncode not in _TELLS:
                return True, f"exit {first.returncode} on {size} bytes"
            if b"Traceback" in first.stderr:
                return True, f"a traceback on {size} bytes"
            told = json.loads(first.stdout)
            told = told.get("error", {}).get("message") or told["summary"].get("stopped_by", "")
            if "space" not in told:
                return True, f"on {size} bytes it said: {told[:120]!r}"
        _mount(disk, "remount", _ROOM)
        again = subprocess.run(command(step, output), env=environment(), capture_output=True)
        if again.returncode:
            return filled, f"exit {again.returncode} with room again, after {size} bytes"
        return filled, "" if same(calm, output) else f"DIFFERS after {size} bytes"


@contextmanager
def _small_disk(size: int) -> Iterator[Path]:
    """Give a folder on a file system of its own in memory; needs the right to mount."""
    with tempfile.TemporaryDirectory() as folder:
        _mount(Path(folder), "", max(size, 1 << 14))
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def _mount(folder: Path, how: str, size: int) -> None:
    options = ",".join(filter(None, (how, f"size={size}")))
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
