"""Rows of a task's copy, as its task file says they are to be read.

Rows and a `Task` enter; rows under our names leave, without those of other tasks. `rows` reads
them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from medllava.data.benchmarks.row_answers import ANSWER, QUESTION, Row, first_of
from medllava.data.benchmarks.task import Task


def prepared_rows(rows: Iterable[tuple[int, Row]], task: Task | None) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of a task, renamed, with its groups and the answer that "nothing" is."""
    for number, row in rows:
        if task is None:
            yield number, row
        elif all(_value(row, key) in kept for key, kept in task.where.items()):
            yield number, _prepared(row, task)


def _prepared(row: Row, task: Task) -> Row:
    made: dict[str, Any] = {ours: _at(row, theirs) for ours, theirs in task.keys.items()}
    if task.group_by:
        values = (re.sub(task.strip_group, "", _value(row, key)) for key in task.group_by)
        made["group"] = " ".join(values)
    if task.image_suffix and isinstance(row.get("image"), str):
        made["image"] = row["image"] + task.image_suffix
    if task.empty_answer is not None and first_of(row, ANSWER) == []:
        made["answer"] = task.empty_answer
    if task.kind:
        made["answer_type"] = task.kind
    if task.ask and first_of(row, QUESTION) is None:
        made["question"] = task.ask
    return {**row, **made} if made else row


def _value(row: Row, key: str) -> str:
    return str(_at(row, key)).strip()


def _at(row: Row, key: str) -> Any:  # noqa: ANN401 - JSON is any
    """Return a field; `a.b` is field b inside field a."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
