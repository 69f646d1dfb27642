"""Every step killed at random moments: what lies there in the end is what an undisturbed run left.

Each step runs once in peace, which gives its length and its output. Then it is started again and
again in a new folder and killed (SIGKILL) after a random share of that length, until its kills are
used up; the last start may finish. Files that say when and how something ran are not compared.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from tests.chaos.steps import Step, make_steps, same, start


def print_kills(folder: Path, *, cases: int, seed: int, only: Collection[str] = ()) -> int:
    """Print one row a step; return 1 where an output differs or a step did not end."""
    steps = make_steps(folder, only)
    failed = 0
    print(f"{'step':<36} {'seconds':>7} {'kills':>6} {'hit':>5}  output")
    for step in steps:
        row = _kill_step(step, folder, kills=-(-cases // len(steps)), rng=random.Random(seed))
        failed |= row[3] != "identical"
        print(f"{step.name:<36} {row[0]:>7.1f} {row[1]:>6} {row[2]:>5}  {row[3]}", flush=True)
    return int(failed)


def _kill_step(
    step: Step, folder: Path, *, kills: int, rng: random.Random
) -> tuple[float, int, int, str]:
    """Return seconds in peace, starts that were to be killed, how many were, and the verdict."""
    calm, killed = folder / f"{step.name}-calm", folder / f"{step.name}-killed"
    started = time.monotonic()
    done = start(step, calm).wait(timeout=900)
    seconds = time.monotonic() - started
    if done:
        return seconds, 0, 0, f"exit {done} without a kill"
    hits = 0
    for _ in range(kills):
        process = start(step, killed)
        try:
            process.wait(timeout=rng.uniform(0.05, 1.05) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits += 1
            continue
        if not same(calm, killed):
            return seconds, kills, hits, "DIFFERS after a start that ended by itself"
        shutil.rmtree(killed)  # finished: begin anew, so that each kill meets work
    if not hits:
        return seconds, kills, hits, "no kill hit: nothing is shown"
    done = start(step, killed).wait(timeout=900)
    if done:
        return seconds, kills, hits, f"exit {done} at the end"
    return seconds, kills, hits, "identical" if same(calm, killed) else "DIFFERS"
