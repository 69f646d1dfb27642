"""Evaluation reports beside a checkpoint, read into the rows that a card prints.

Each `eval/*/report.json` enters; an `Evaluation` leaves with its scores, their intervals and the
floors measured with them. A report without a weights hash is kept but never called verified.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.store import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of a report."""

    condition: str
    """`real`, or the floor it was measured under: `permuted`, `blank`, `majority` and the like."""
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
    data_file: str | None
    data_sha256: str | None
    command: str | None
    scores: tuple[Score, ...]


def load_evaluations(paths: Iterable[Path]) -> tuple[Evaluation, ...]:
    """Read reports, given as folders or files, in the given order.

    Raises:
        DataError: a report is absent or not JSON; names the file.
    """
    files = [path if path.suffix == ".json" else path / "report.json" for path in paths]
    return tuple(_evaluation(path) for path in files)


def _evaluation(path: Path) -> Evaluation:
    report = read_json(path)
    model, data = _table(report, "model"), _table(report, "data")
    command = report.get("command")
    return Evaluation(
        task=str(report.get("task") or path.parent.name),
        path=path,
        weights_sha256=model.get("weights_sha256") or report.get("weights_sha256"),
        protocol=report.get("protocol"),
        split=data.get("split") or report.get("split"),
        num_questions=_table(report, "counts").get("questions"),
        data_file=Path(str(data["file"])).name if data.get("file") else None,
        data_sha256=data.get("sha256") or data.get("file_sha256"),
        command=" ".join(map(str, command)) if isinstance(command, list) else command,
        scores=tuple(_iter_scores(report.get("scores"))),
    )


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _iter_scores(rows: object) -> Iterator[Score]:
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, Mapping) or not isinstance(row.get("value"), int | float):
            continue
        yield Score(
            condition=str(row.get("condition") or "real"),
            metric=str(row.get("metric") or "unknown"),
            value=float(row["value"]),
            low=row.get("low"),
            high=row.get("high"),
            count=row.get("count"),
        )
