"""Checkpoints that survive a kill: written beside, synced, renamed; the last good one is found.

A checkpoint folder `checkpoints/step-N` is complete or does not exist: it is a model folder that
loads by itself, and beside the weights what is needed to go on bitwise. What a run was asked for is
kept in `run_key.json`, so that a later run only continues what is the same.
"""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.layout import CHECKPOINTS_DIR, DROPPED_FILE, METRICS_FILE, RUN_FILE
from medllava.store import read_json, write_json

KEY_FILE = "run_key.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RANKS_KEY = "ranks"
"""Name in the key of how many ranks a run began with; its steps are laid out for them."""
PACK_KEY = "tokens_per_pack"
"""Name in the key of the length of its packs, which more ranks and memory would change."""
PRECISION_KEY = "precision"
"""Name in the key of what the run computes in, which another machine might choose otherwise."""
_STEP = re.compile(r"step-(\d+)$")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Return the final name of a step's checkpoint."""
    return output_dir / CHECKPOINTS_DIR / f"step-{step}"


def partial_folder(output_dir: Path, step: int) -> Path:
    """Return the name under which a step's checkpoint is written."""
    return output_dir / CHECKPOINTS_DIR / f".step-{step}.partial"


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints, (step, folder), oldest first."""
    found = []
    for path in (output_dir / CHECKPOINTS_DIR).glob("step-*"):
        match = _STEP.match(path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return sorted(found)


def seal_checkpoint(output_dir: Path, step: int, *, keep: int) -> Path:
    """Sync what was written for `step`, give it its final name and remove older ones.

    Args:
        output_dir: of the run.
        step: whose partial folder is complete.
        keep: how many checkpoints stay.
    """
    partial, final = partial_folder(output_dir, step), checkpoint_folder(output_dir, step)
    for path in partial.rglob("*"):
        _sync(path)
    _sync(partial)
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)
    _sync(final.parent)
    for _, old in list_checkpoints(output_dir)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def clear_partial(output_dir: Path) -> None:
    """Remove what a kill left half written."""
    for path in (output_dir / CHECKPOINTS_DIR).glob(".step-*"):
        shutil.rmtree(path)


def clear_run(output_dir: Path) -> None:
    """Remove everything an earlier run left that this one would write."""
    shutil.rmtree(output_dir / CHECKPOINTS_DIR, ignore_errors=True)
    for name in (RUN_FILE, KEY_FILE, METRICS_FILE, DROPPED_FILE):
        (output_dir / name).unlink(missing_ok=True)


def check_run_key(output_dir: Path, key: dict[str, Any]) -> None:
    """Make sure that an earlier run in this folder was asked for the same; note this one.

    Args:
        output_dir: of the run.
        key: JSON values that decide every number of the run; names that were not noted before are
            added.

    Raises:
        DataError: the earlier run differs; names the first differences.
    """
    path = output_dir / KEY_FILE
    noted = read_json(path) if path.exists() else {}
    key = json.loads(json.dumps(key, default=str))
    shared = noted.keys() & key.keys()
    differences = _differences({k: noted[k] for k in shared}, {k: key[k] for k in shared}, "")
    if differences:
        raise DataError(
            f"an earlier run in {output_dir} was asked for something else: "
            f"{'; '.join(differences[:3])}. Name another -o, or add --no-resume to start anew."
        )
    if noted != {**noted, **key}:
        write_json(path, {**noted, **key})


def noted(output_dir: Path, name: str) -> Any:  # noqa: ANN401 - JSON is any
    """Return a value that the run in a folder began with; None where there is none."""
    path = output_dir / KEY_FILE
    return read_json(path).get(name) if path.exists() else None


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tell whether an error, or what it came from, is a disk that takes no more.

    Writers in other languages tell it by text only, and torch's says just that it failed.
    """
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        if isinstance(chain, OSError) and chain.errno in _FULL:
            return True
        if any(f"(os error {number})" in text for number in _FULL):
            return True
        if "PytorchStreamWriter" in text or "iostream" in text or "unexpected pos" in text:
            return True
        chain = chain.__cause__ or chain.__context__
    return shutil.disk_usage(folder).free == 0


def _differences(old: Any, new: Any, prefix: str) -> list[str]:  # noqa: ANN401 - JSON is any
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in _differences(old.get(name), new.get(name), f"{prefix}{name}.")
        ]
    return [] if old == new else [f"{prefix.rstrip('.')} was {old!r:.40}, now {new!r:.40}"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
