"""Evaluation reports beside a checkpoint, read into the rows that a card prints.

Each `eval/*/report.json` enters; an `Evaluation` leaves with its scores, their intervals and the
floors measured with them. A report without a weights hash is kept but never called verified.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.layout import EVAL_REPORT_FILE
from medllava.store import read_json

REAL = "real"
GAIN = "real minus permuted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of a report."""

    condition: str
    """`real`, the floor it was measured under (`permuted`, `blank`, ...), or the visual gain."""
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval; None where the report gives none."""
    count: int | None = None
    """Questions it was computed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One report."""

    task: str
    path: Path
    weights_sha256: str | None
    protocol: str | None
    split: str | None
    num_questions: int | None
    num_images: int | None
    data_file: str | None
    data_sha256: str | None
    limit: int | None
    max_new_tokens: int | None
    conditions: tuple[str, ...]
    scores: tuple[Score, ...]

    def command(self, repo_id: str) -> str:
        """Return the command that repeats this evaluation, from the settings it recorded."""
        is_own_file = self.data_file is not None and Path(self.data_file).stem == self.task
        words = ["medllava", "eval", self.data_file or "" if is_own_file else self.task]
        words += ["--ckpt", repo_id]
        controls = ",".join(name for name in self.conditions if name != REAL)
        for option, value in (
            ("--split", self.split),
            ("--protocol", self.protocol),
            ("--controls", controls),
            ("--limit", self.limit),
            ("--max-new-tokens", self.max_new_tokens),
        ):
            if value:
                words += [option, str(value)]
        return shlex.join(words)


def load_evaluations(paths: Iterable[Path]) -> tuple[Evaluation, ...]:
    """Read reports, given as folders or files, in the given order.

    Raises:
        DataError: a report is absent or not JSON; names the file.
    """
    files = [path if path.suffix == ".json" else path / EVAL_REPORT_FILE for path in paths]
    return tuple(_evaluation(path) for path in files)


def _evaluation(path: Path) -> Evaluation:
    report = read_json(path)
    task, model = _table(report, "task"), _table(report, "model")
    conditions = _table(report, "conditions")
    return Evaluation(
        task=str(task.get("name") or path.parent.name),
        path=path,
        weights_sha256=model.get("weights_sha256"),
        protocol=report.get("protocol"),
        split=task.get("split"),
        num_questions=report.get("num_questions"),
        num_images=report.get("num_images"),
        data_file=Path(str(task["file"])).name if task.get("file") else None,
        data_sha256=task.get("file_sha256"),
        limit=task.get("limit"),
        max_new_tokens=_table(report, "decoding").get("max_new_tokens"),
        conditions=tuple(conditions),
        scores=(
            *(score for name, table in conditions.items() for score in _iter_scores(name, table)),
            *_iter_scores(GAIN, report.get("visual_gain")),
        ),
    )


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _iter_scores(condition: str, estimates: object) -> Iterator[Score]:
    """Yield the numbers of one table of metric to {value, low, high, num_questions}."""
    for metric, estimate in estimates.items() if isinstance(estimates, Mapping) else ():
        if isinstance(estimate, Mapping) and isinstance(estimate.get("value"), int | float):
            yield Score(
                condition=condition,
                metric=str(metric),
                value=float(estimate["value"]),
                low=estimate.get("low"),
                high=estimate.get("high"),
                count=estimate.get("num_questions"),
            )
