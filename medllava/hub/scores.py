"""Evaluation reports beside a checkpoint, read into the rows that a card prints.

Each `eval/*/report.json` enters; an `Evaluation` leaves with its scores, their intervals and the
floors measured with them. A report without a weights hash is kept but never called verified.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medllava.layout import EVAL_REPORT_FILE
from medllava.records import Estimates, EvalReport
from medllava.store import read_record

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
    report = read_record(path, EvalReport)
    task = report.task
    return Evaluation(
        task=task.name or path.parent.name,
        path=path,
        weights_sha256=report.model.weights_sha256,
        protocol=report.protocol,
        split=task.split,
        num_questions=report.num_questions,
        num_images=report.num_images,
        data_file=Path(task.file).name if task.file else None,
        data_sha256=task.file_sha256,
        limit=task.limit,
        max_new_tokens=report.decoding.max_new_tokens if report.decoding else None,
        conditions=tuple(report.conditions),
        scores=(
            *(s for name, table in report.conditions.items() for s in _iter_scores(name, table)),
            *_iter_scores(GAIN, report.visual_gain or {}),
        ),
    )


def _iter_scores(condition: str, estimates: Estimates) -> Iterator[Score]:
    """Yield the numbers of one table; a metric that no question has gives none."""
    for metric, estimate in estimates.items():
        if estimate.value is not None:
            yield Score(
                condition=condition,
                metric=metric,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                count=estimate.num_questions,
            )
