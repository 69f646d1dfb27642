"""Questions to replies, once each, whoever answers; a kill at any byte loses one batch at most.

Questions and conditions become `Ask`s; an `Answerer` returns them in batches; every batch is
appended to a partial file that the next run reads. The batches are planned over all asks, done or
not, so a resumed run computes what an uninterrupted one would have computed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medllava.errors import DataError, RecordError
from medllava.eval.config import Condition
from medllava.progress import Progress
from medllava.records import AnswerType, Question
from medllava.store import JsonlWriter, iter_jsonl

_log = logging.getLogger(__name__)

BLANK = "blank:"
"""Stands for the uniform grey image where a path would stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One thing a model is asked."""

    id: str
    """Of the question."""
    condition: str
    seed: int
    image: str | None
    """Path of the image file, `BLANK`, or None for text only."""
    text: str
    """What the user says, without the image."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it unique in a run."""
        return self.id, self.condition, self.seed


Batch = list[tuple[Ask, str]]


class Answerer(Protocol):
    """A model behind whatever backend."""

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies in batches, leaving out batches that are wholly done.

        Raises:
            RemoteError: a server gave no answer after retries.
        """
        ...


def prompt_text(question: Question, *, closed_prompt: str) -> str:
    """Return what the user says: the question, its choices, and how to answer if it is closed."""
    lines = [question.question.strip()]
    lines += [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(question.choices)]
    if question.answer_type is AnswerType.CLOSED and closed_prompt:
        lines.append(closed_prompt)
    return "\n".join(lines)


def build_asks(
    questions: Sequence[Question],
    *,
    condition: Condition,
    seed: int,
    image_paths: dict[str, Path],
    shown_instead: dict[str, str],
    closed_prompt: str,
) -> list[Ask]:
    """Return what the model is asked under one condition.

    Args:
        questions: in order.
        condition: one for which a model is asked.
        seed: of sampling.
        image_paths: file of every image named by a question.
        shown_instead: image to image, for `permuted`.
        closed_prompt: see `prompt_text`.
    """

    def shown(image: str | None) -> str | None:
        if image is None or condition is Condition.TEXT:
            return None
        if condition is Condition.BLANK:
            return BLANK
        return str(image_paths[shown_instead.get(image, image)])

    return [
        Ask(
            id=question.id,
            condition=condition.value,
            seed=seed,
            image=shown(question.image),
            text=prompt_text(question, closed_prompt=closed_prompt),
        )
        for question in questions
    ]


def collect_replies(
    asks: Sequence[Ask], answerer: Answerer, partial: Path, *, progress: Progress
) -> dict[tuple[str, str, int], str]:
    """Return a reply for every ask, reading what an earlier run left in `partial`."""
    replies = dict(_read_partial(partial))
    wanted = {ask.key for ask in asks}
    replies = {key: text for key, text in replies.items() if key in wanted}
    progress.start("answers", total=len(asks))
    progress.advance(len(replies))
    with JsonlWriter(partial) as writer:
        for batch in answerer.answer(asks, is_done=lambda ask: ask.key in replies):
            for ask, text in batch:
                if ask.key not in replies:
                    writer.write(
                        {"id": ask.id, "condition": ask.condition, "seed": ask.seed, "text": text}
                    )
                    replies[ask.key] = text
                    progress.advance()
    return replies


def _read_partial(partial: Path) -> Iterator[tuple[tuple[str, str, int], str]]:
    if partial.exists():
        for _, line in iter_jsonl(partial, allow_torn_tail=True):
            yield (str(line["id"]), str(line["condition"]), int(line["seed"])), str(line["text"])


def read_predictions(file: Path, questions: Sequence[Question]) -> dict[tuple[str, int], list[str]]:
    """Return replies made elsewhere, by condition and seed, in the order of the questions.

    Lines hold `id` (or `record_id` or `question_id`) and `text`; `condition` and `seed` as we write
    them ourselves are `real` and 0 where they are absent. Ids that were not asked are ignored.

    Raises:
        RecordError: a line has no id or no text, or an id comes twice with different texts.
        DataError: questions without a line; names up to three of them.
    """
    found: dict[tuple[str, int], dict[str, str]] = {}
    for number, line in iter_jsonl(file):
        where = f"{file}, line {number}"
        key, text = _id_and_text(line, where=where)
        run = (str(line.get("condition", Condition.REAL.value)), int(line.get("seed", 0)))
        if found.setdefault(run, {}).setdefault(key, text) != text:
            raise RecordError(f"id {key!r} has two different texts: {where}. Keep one.")
    found.setdefault((Condition.REAL.value, 0), {})
    for replies in found.values():
        _check_complete(replies, questions, file=file)
    return {run: [replies[q.id] for q in questions] for run, replies in found.items()}


def _check_complete(replies: dict[str, str], questions: Sequence[Question], *, file: Path) -> None:
    missing = [question.id for question in questions if question.id not in replies]
    if missing:
        named = ", ".join(repr(key) for key in missing[:3])
        raise DataError(
            f"no prediction for {len(missing):,} of {len(questions):,} questions ({named}"
            f"{', ...' if len(missing) > 3 else ''}): {file}. "
            "Predict them too, or score fewer with --limit."
        )
    if len(replies) > len(questions):
        _log.warning("%s ids were not asked: %s", len(replies) - len(questions), file)


def _id_and_text(line: dict[str, Any], *, where: str) -> tuple[str, str]:
    key = next((line[k] for k in ("id", "record_id", "question_id") if k in line), None)
    if key is None or isinstance(key, bool | dict | list):
        raise RecordError(f"a prediction needs id, record_id or question_id: {where}.")
    text = line.get("text")
    if not isinstance(text, str):
        raise RecordError(f"a prediction needs text, a string: {where} (id {key!r}).")
    return str(key), text
