"""One row of any circulating benchmark format to a `Question`.

The formats differ in the names of their fields and in little else, so one table of names reads them
all: VQA-RAD's own JSON, the MEVF layout, SLAKE, PathVQA's Parquet, PMC-VQA's CSV, OmniMedVQA, LLaVA
conversations, and rows of the user's own. Rows that say too little are rejected with the reason.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medllava.data.benchmarks.row_answers import (
    QUESTION,
    Row,
    first_of,
    is_empty,
    read_alternatives,
    read_answers,
    read_box,
    read_choices,
    read_text,
)
from medllava.data.dropped import DropReason, UnusableRecordError
from medllava.data.layouts.conversation import is_llava_item, parse_llava_item
from medllava.errors import RecordError
from medllava.records import IMAGE_TOKEN, AnswerType, Question

FIELD_RULE = "the answer_type of each question"
CHOICE_RULE = "multiple choice, all closed"
YES_NO_RULE = "closed where the answer is yes or no, else open"

_ID = ("id", "qid", "question_id", "index")
_IMAGE = ("image", "image_name", "img_name", "figure_path", "image_path")
_MANY_IMAGES = ("images", "image_paths", "image_list")
_NUMBERED_IMAGE = re.compile(r"image_\d+")
_FIRST_MARK = re.compile(r"^(?:<image(?: 1)?>\s*)+(?=\S)")
_MARK = re.compile(r"<image(?: (\d+))?>")
"""A place for an image in the words, as MMMU has it; images are shown before the words."""
_MODALITY = ("modality", "modality_type", "image_modality", "image_organ")
"""Of the image; VQA-RAD states its organ, which tells as much about how it was made."""
_CATEGORY = ("category", "question_type", "content_type", "modality_type", "modality")
_YES_NO = frozenset({"yes", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A question, and what decides whether it is kept."""

    question: Question
    rule: str
    """How its answer type was told."""
    language: str | None
    split: str | None
    """As the row itself says, where one file holds several splits."""


def parse_row(row: Row, *, default_id: str, where: str) -> Iterator[Parsed]:
    """Yield the question of a row; a LLaVA conversation has one per pair of turns.

    Raises:
        RecordError: there is no question, no answer, or an answer that is none of the choices.
    """
    if is_llava_item(row):
        for flat in _flatten_llava(row, default_id=default_id, where=where):
            yield _parse_flat(flat, default_id=default_id, where=where)
        return
    named = ((key, value) for key, value in row.items() if isinstance(key, str))
    flat = {key.strip().lower().replace(" ", "_"): value for key, value in named}
    yield _parse_flat(flat, default_id=default_id, where=where)


def _parse_flat(row: Row, *, default_id: str, where: str) -> Parsed:
    choices = read_choices(row, where=where)
    answer, answers = read_answers(row, choices, where=where)
    answer_type, rule = _answer_type(row, answer, choices, where=where)
    identifier = first_of(row, _ID)
    if isinstance(identifier, bool | dict | list):
        raise RecordError(f"id must be text or a number: {where}.")
    images = _images(row, where=where)
    return Parsed(
        question=Question(
            id=default_id if identifier is None else str(identifier),
            image=images[0] if images else None,
            question=_asked(read_text(row, QUESTION, where=where), num_images=len(images)),
            answer=answer,
            answer_type=answer_type,
            choices=choices,
            category=_name(first_of(row, _CATEGORY)),
            modality=_name(first_of(row, _MODALITY)),
            answers=answers,
            alternatives=read_alternatives(row, where=where),
            more_images=tuple(images[1:]),
            box=read_box(row, where=where),
            group=_name(row.get("group")),
            key_steps=_key_steps(row, where=where),
        ),
        rule=rule,
        language=row["q_lang"] if isinstance(row.get("q_lang"), str) else None,
        split=_own_split(row),
    )


def _key_steps(row: Row, *, where: str) -> tuple[tuple[str, ...], ...]:
    """Return the steps of reasoning, each in its wordings; one wording may stand without a list.

    Raises:
        RecordError: they are no list of texts.
    """
    steps = row.get("key_steps") or []
    listed = [[step] if isinstance(step, str) else step for step in steps]
    if not isinstance(steps, list) or not all(
        isinstance(step, list) and step and all(isinstance(w, str) for w in step) for step in listed
    ):
        raise RecordError(f"key_steps must be a list of lists of texts: {where}.")
    return tuple(tuple(step) for step in listed)


def _asked(text: str, *, num_images: int) -> str:
    """Return the words without places for images; of several, a place becomes "image 2"."""
    if num_images < 2:
        return _MARK.sub("the image", _FIRST_MARK.sub("", text))
    return _MARK.sub(lambda mark: f"image {mark[1]}" if mark[1] else "", text).strip()


def _images(row: Row, *, where: str) -> list[str]:
    """Return the images of a row in the order in which they are shown.

    Raises:
        RecordError: one is no file name.
    """
    image = first_of(row, (*_IMAGE, *_MANY_IMAGES))
    listed = list(image) if isinstance(image, list | tuple) else [image]
    numbered = [key for key in row if _NUMBERED_IMAGE.fullmatch(key)]
    listed += [row[key] for key in sorted(numbered, key=lambda key: int(key.split("_")[1]))]
    images = [one for one in listed if not is_empty(one)]
    for one in images:
        if not isinstance(one, str):
            raise RecordError(f"image must be a file name, not {type(one).__name__}: {where}.")
    return images


def _name(value: Any) -> str | None:  # noqa: ANN401 - JSON is any
    """Return the name of a group of questions; an empty cell is none."""
    return None if is_empty(value) else str(value).strip() or None


def _answer_type(
    row: Row, answer: str, choices: tuple[str, ...], *, where: str
) -> tuple[AnswerType, str]:
    stated = row.get("answer_type")
    if isinstance(stated, str) and stated.strip():
        name = stated.strip().lower()
        if name not in list(AnswerType):
            raise RecordError(
                f"answer_type is not open or closed, nor report: {where} ({stated!r:.40})."
            )
        return AnswerType(name), FIELD_RULE
    if choices:
        return AnswerType.CLOSED, CHOICE_RULE
    is_yes_no = answer.casefold().strip(" .!") in _YES_NO
    return (AnswerType.CLOSED if is_yes_no else AnswerType.OPEN), YES_NO_RULE


def _own_split(row: Row) -> str | None:
    phrase = row.get("phrase_type")
    if isinstance(phrase, str):
        return "test" if phrase.strip().lower().startswith("test") else "train"
    split = row.get("split")
    return split.strip().lower() if isinstance(split, str) else None


def _flatten_llava(row: Row, *, default_id: str, where: str) -> Iterator[dict[str, Any]]:
    try:
        record, _ = parse_llava_item(row, where=where)
    except UnusableRecordError as error:
        if error.reason in (DropReason.ROLE_ORDER, DropReason.NO_REPLY):
            raise RecordError(f"questions and answers do not alternate: {where}.") from None
        raise
    asked = [turn for turn in record.turns if turn.role == "user"]
    answers = [turn for turn in record.turns if turn.role == "assistant"]
    if not asked or len(asked) != len(answers):
        raise RecordError(f"questions and answers do not alternate: {where}.")
    shared = {key: row[key] for key in ("answer_type", *_CATEGORY, "q_lang", "split") if key in row}
    name = str(row.get("id", default_id))
    for number, (question, answer) in enumerate(zip(asked, answers, strict=True), start=1):
        yield shared | {
            "id": name if len(asked) == 1 else f"{name}-{number}",
            "images": list(record.images),
            "question": question.content.replace(IMAGE_TOKEN, "").strip(),
            "answer": answer.content,
        }
