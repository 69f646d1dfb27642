"""What ranks leave in a run's folder for the process that launched them.

OUT/.ranks/config.json      what every rank is to do
OUT/.ranks/rank-N.json      who rank N is; at its end its outcome or its error
OUT/.ranks/progress.jsonl   rank 0's progress, to be drawn by the launching process
"""

import json
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medllava import errors
from medllava.errors import DataError, MedllavaError
from medllava.progress import Progress, SilentProgress
from medllava.recipe import recipe_from_values
from medllava.records import Stage, StepSummary
from medllava.store import JsonlWriter, read_json, write_json
from medllava.train.config import StageRunConfig

_FOLDER = ".ranks"
_CONFIG = "config.json"
_PROGRESS = "progress.jsonl"
_PATHS = ("output_dir", "image_dir", "validation_data")


def open_folder(config: StageRunConfig) -> Path:
    """Make an empty folder with the configuration of a run in it; return the folder."""
    folder = config.output_dir / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / _CONFIG, {**asdict(config), "stage": config.stage.value})
    return folder


def close_folder(config: StageRunConfig) -> None:
    """Remove the folder."""
    shutil.rmtree(config.output_dir / _FOLDER, ignore_errors=True)


def read_config(folder: Path) -> StageRunConfig:
    """Return the configuration that `open_folder` wrote."""
    values = read_json(folder / _CONFIG)
    paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    recipe = recipe_from_values(values["recipe"], file=str(folder / _CONFIG))
    return StageRunConfig(**{**values, **paths, "recipe": recipe, "stage": Stage(values["stage"])})


def note_start(folder: Path, rank: int) -> None:
    """Say who this rank is."""
    write_json(folder / f"rank-{rank}.json", {"rank": rank, **_self()})


def note_summary(folder: Path, rank: int, summary: StepSummary) -> None:
    """Say that this rank is done."""
    write_json(folder / f"rank-{rank}.json", {"rank": rank, **_self(), "summary": asdict(summary)})


def note_error(folder: Path, rank: int, error: BaseException) -> None:
    """Say what ended this rank."""
    values = {"type": type(error).__name__, "message": str(error) or repr(error)}
    write_json(folder / f"rank-{rank}.json", {"rank": rank, **_self(), "error": values})


def read_ranks(folder: Path) -> list[dict[str, Any]]:
    """Return what the ranks said so far, by rank."""
    found = []
    for path in folder.glob("rank-*.json"):
        try:
            values = read_json(path)
        except DataError:  # being replaced
            continue
        found.append({**values, "time": path.stat().st_mtime})
    return sorted(found, key=lambda values: int(values["rank"]))


def read_summary(values: dict[str, Any]) -> StepSummary:
    """Rebuild what `note_summary` wrote."""
    given = values["summary"]
    paths = {name: Path(path) for name, path in given["artifacts"].items()}
    return StepSummary(**{**given, "artifacts": paths})


def read_error(values: dict[str, Any], *, where: str) -> MedllavaError | None:
    """Rebuild the error of a rank if it is one that a user can act on."""
    kind = getattr(errors, values["error"]["type"], None)
    if isinstance(kind, type) and issubclass(kind, MedllavaError):
        return kind(f"{where}: {values['error']['message']}")
    return None


class ProgressFile(SilentProgress):
    """A `Progress` that is written down for the launching process."""

    def __init__(self, folder: Path) -> None:
        """Open the file."""
        self._writer = JsonlWriter(folder / _PROGRESS)

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Write the phase."""
        self._writer.write({"start": phase, "total": total})

    def advance(self, count: int = 1) -> None:
        """Write the count."""
        self._writer.write({"advance": count})

    def note(self, message: str) -> None:
        """Write the note."""
        self._writer.write({"note": message})


class ProgressReader:
    """Repeats what a `ProgressFile` says to another `Progress`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        """Start at the beginning."""
        self._path = folder / _PROGRESS
        self._progress = progress
        self._offset = 0

    def repeat(self) -> None:
        """Pass on what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            fresh = handle.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            values = json.loads(line)
            if "start" in values:
                self._progress.start(values["start"], total=values["total"])
            elif "advance" in values:
                self._progress.advance(values["advance"])
            else:
                self._progress.note(values["note"])


def _self() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid()}
