"""Questions to replies, once each, whoever answers; a kill at any byte loses one batch at most.

Questions and conditions become `Ask`s; an `Answerer` returns them in batches; every batch is
appended to a partial file that the next run reads. The batches are planned over all asks, done or
not, so a resumed run computes what an uninterrupted one would have computed.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medllava.data.conversation import question_text
from medllava.errors import DataError, RecordError
from medllava.eval.ask.others import is_own, read_others
from medllava.eval.baselines import image_kinds
from medllava.eval.config import Condition
from medllava.eval.probes import Probed
from medllava.progress import Progress
from medllava.records import Prediction, Question
from medllava.store import JsonlWriter, iter_jsonl

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

BLANK = "blank:"
"""Stands for the uniform gray image where a path would stand."""

_GREY = (128, 128, 128)
_BLANK_SIDE = 336

Key = tuple[str, str, int]
"""Question id, condition, seed."""


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
    more: tuple[str, ...] = ()
    """Further images of the question, as `image`; they are shown after it."""
    options: tuple[str, ...] = ()
    """What it must choose from by likelihood; empty: it replies in words."""
    content: str = ""
    """SHA-256 of the image files; another picture under the same name is another ask."""

    @property
    def images(self) -> tuple[str, ...]:
        """All images in the order in which they are shown."""
        return () if self.image is None else (self.image, *self.more)

    @property
    def key(self) -> Key:
        """What makes it unique in a run."""
        return self.id, self.condition, self.seed

    @property
    def digest(self) -> str:
        """What was shown and said; another picture or wording must not take an old reply."""
        shown = self.content or " ".join(self.images)
        return hashlib.sha256(f"{shown}\n{self.text}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """In place of a reply: a server's model was asked and would not, or did not, say anything."""

    reason: str
    """`refusal`, `content_filter`, `empty_reply`, `length` (thoughts only) or `tool_calls`."""


Batch = list[tuple[Ask, str | Refused]]


def blank_image() -> "Image.Image":
    """Return the picture that `BLANK` stands for."""
    from PIL import Image  # noqa: PLC0415 - scoring opens no picture

    return Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE), _GREY)


class Answerer(Protocol):
    """A model behind whatever backend."""

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies in batches, leaving out batches that are wholly done.

        Raises:
            RemoteError: a server gave no answer after retries.
        """
        ...


def build_asks(
    questions: Sequence[Question],
    *,
    condition: Condition,
    seed: int,
    image_paths: Mapping[str, Path],
    shown_instead: Mapping[str, str],
    closed_prompt: str,
    contents: Mapping[str, str] | None = None,
) -> list[Ask]:
    """Return what the model is asked under one condition.

    Args:
        questions: in order.
        condition: one for which a model is asked.
        seed: of sampling.
        image_paths: file of every image named by a question.
        shown_instead: image to image, for `permuted`.
        closed_prompt: see `data.conversation.question_text`.
        contents: SHA-256 of the file of every image.
    """
    known = contents or {}

    def shown(image: str | None) -> str | None:
        if image is None or condition is Condition.TEXT:
            return None
        if condition is Condition.BLANK:
            return BLANK
        return str(image_paths[shown_instead.get(image, image)])

    def content(question: Question) -> str:
        if condition in (Condition.TEXT, Condition.BLANK):
            return ""
        return " ".join(known.get(shown_instead.get(i, i), i) for i in question.images)

    def further(question: Question) -> tuple[str, ...]:
        if condition is Condition.TEXT:
            return ()
        return tuple(path for path in map(shown, question.more_images) if path is not None)

    return [
        Ask(
            id=question.id,
            condition=condition.value,
            seed=seed,
            image=shown(question.image),
            more=further(question),
            text=question_text(question, closed_prompt=closed_prompt),
            content=content(question),
        )
        for question in questions
    ]


def collect_replies(
    asks: Sequence[Ask],
    answerer: Answerer,
    partial: Path,
    *,
    progress: Progress,
    is_greedy: bool = False,
    refused: dict[Key, str] | None = None,
) -> dict[Key, str]:
    """Return a reply for every ask, reading what an earlier run left in `partial`.

    A refusal is an empty reply, which no metric takes for right.

    Args:
        asks: with unique keys.
        answerer: asked for what is not there yet.
        partial: replies as they came, one line each.
        progress: told about asks.
        is_greedy: equal asks get equal replies, so each is asked once; blank and text-only
            conditions repeat themselves a lot.
        refused: takes the reason of every ask that was refused.
    """
    firsts: dict[Key | str, Ask] = {}
    same = {ask.key: firsts.setdefault(ask.digest if is_greedy else ask.key, ask) for ask in asks}
    digests = {ask.key: ask.digest for ask in firsts.values()}
    reasons = {} if refused is None else refused
    replies: dict[Key, str] = {}
    for key, digest, text, reason in _read_partial(partial):
        if digests.get(key) == digest:
            replies[key] = text
            if reason:
                reasons[key] = reason
    progress.start("answers", total=len(firsts))
    progress.advance(len(replies))
    with JsonlWriter(partial) as writer:
        for batch in answerer.answer(list(firsts.values()), is_done=lambda ask: ask.key in replies):
            for ask, reply in batch:
                if ask.key in replies:
                    continue
                line = {"id": ask.id, "condition": ask.condition, "seed": ask.seed}
                line["asked"] = ask.digest
                if isinstance(reply, Refused):
                    reasons[ask.key] = reply.reason
                    writer.write({**line, "text": "", "refused": reply.reason})
                    replies[ask.key] = ""
                else:
                    writer.write({**line, "text": reply})
                    replies[ask.key] = reply
                progress.advance()
    for key, first in same.items():
        if first.key in reasons:
            reasons[key] = reasons[first.key]
    return {key: replies[first.key] for key, first in same.items()}


def _read_partial(partial: Path) -> Iterator[tuple[Key, str, str, str]]:
    """Yield key, digest of what was asked, reply, and why there is none."""
    if partial.exists():
        for _, line in iter_jsonl(partial, allow_torn_tail=True):
            key = (str(line["id"]), str(line["condition"]), int(line["seed"]))
            yield key, str(line.get("asked")), str(line["text"]), str(line.get("refused") or "")


def read_predictions(
    file: Path, questions: Sequence[Question]
) -> dict[tuple[str, int], list[str | None]]:
    """Return replies made elsewhere, by condition and seed, in the order of the questions.

    Lines hold `id` (or `record_id` or `question_id`) and `text`; `condition` and `seed` as we write
    them ourselves are `real` and 0 where they are absent. Files of other tools are read by
    `others`. Ids that were not asked are ignored.
    Under `permuted_within` all questions of a kind of image may be absent, as they are where an
    image is alone in its kind; their reply is None.

    Raises:
        RecordError: a line has no id or no text, or an id comes twice with different texts.
        DataError: questions without a line; names up to three of them.
    """
    if is_own(file):
        found = {run: texts for run, texts in _read_runs(file).items() if run[0] in list(Condition)}
    else:
        found = {(Condition.REAL.value, 0): read_others(file, questions)}
    if not any(condition == Condition.REAL for condition, _ in found):
        found[Condition.REAL.value, 0] = {}
    _, kinds = image_kinds(questions)
    for (condition, _), replies in found.items():
        wanted = list(questions)
        if condition == Condition.PERMUTED_WITHIN:
            asked = {kinds.get(q.image or "") for q in questions if q.id in replies} - {None}
            wanted = [q for q in questions if all(kinds.get(i) in asked for i in q.images)]
        _check_complete(replies, wanted, file=file)
    return {run: [replies.get(q.id) for q in questions] for run, replies in found.items()}


def read_texts(file: Path, ids: Sequence[str]) -> list[str]:
    """Return the texts made for these ids under the real condition, its lowest seed.

    Raises:
        DataError: an id has no text.
    """
    found = _read_runs(file)
    real = min((run for run in found if run[0] == Condition.REAL), default=None)
    texts = found[real] if real else {}
    missing = [key for key in ids if key not in texts]
    if missing:
        raise DataError(f"no prediction for {missing[0]!r} and {len(missing) - 1:,} more: {file}.")
    return [texts[key] for key in ids]


def read_probe_replies(file: Path, made: Mapping[str, Sequence[Probed]]) -> dict[str, list[str]]:
    """Return the replies to altered questions that a file of predictions holds, by variant.

    Raises:
        DataError: a variant is there, but not for every question it fits.
    """
    runs = _read_runs(file) if is_own(file) else {}
    found = {condition: texts for (condition, _), texts in runs.items()}
    replies: dict[str, list[str]] = {}
    for variant in made.keys() & found.keys():
        bases = [probed.base for probed in made[variant]]
        _check_complete(found[variant], bases, file=file)
        replies[variant] = [found[variant][question.id] for question in bases]
    return {variant: replies[variant] for variant in made if variant in replies}


def _read_runs(file: Path) -> dict[tuple[str, int], dict[str, str]]:
    """Return id to text by condition and seed.

    Raises:
        RecordError: a line has no id or no text, or an id comes twice with different texts.
    """
    found: dict[tuple[str, int], dict[str, str]] = {}
    for number, line in iter_jsonl(file):
        where = f"{file}, line {number}"
        made = _read_prediction(line, where=where)
        replies = found.setdefault((made.condition, made.seed), {})
        if replies.setdefault(made.id, made.text) != made.text:
            raise RecordError(f"id {made.id!r} has two different texts: {where}. Keep one.")
    return found


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


def _read_prediction(line: dict[str, Any], *, where: str) -> Prediction:
    """Return a line of anybody's: ids may be numbers and have other names, seeds may be text."""
    key = next((line[k] for k in ("id", "record_id", "question_id") if k in line), None)
    if key is None or isinstance(key, bool | dict | list):
        raise RecordError(f"a prediction needs id, record_id or question_id: {where}.")
    text = line.get("text")
    if not isinstance(text, str):
        raise RecordError(f"a prediction needs text, a string: {where} (id {key!r}).")
    try:
        seed = int(line.get("seed", 0))
    except (TypeError, ValueError):
        raise RecordError(f"seed {line['seed']!r} is not a number: {where}.") from None
    condition = str(line.get("condition", Condition.REAL.value))
    return Prediction(id=str(key), condition=condition, seed=seed, text=text)
