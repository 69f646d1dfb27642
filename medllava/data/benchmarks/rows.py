"""One row of any circulating benchmark format to a `Question`.

The formats differ in the names of their fields and in little else, so one table of names reads them
all: VQA-RAD's own JSON, the MEVF layout, SLAKE, PathVQA's Parquet, PMC-VQA's CSV, OmniMedVQA, LLaVA
conversations, and rows of the user's own. Rows that say too little are rejected with the reason.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medllava.data.layouts.llava import is_llava_item, parse_llava_item
from medllava.errors import RecordError
from medllava.records import IMAGE_TOKEN, AnswerType, Question

Row = Mapping[str, Any]

FIELD_RULE = "the answer_type of each question"
CHOICE_RULE = "multiple choice, all closed"
YES_NO_RULE = "closed where the answer is yes or no, else open"

_ID = ("id", "qid", "question_id", "index")
_IMAGE = ("image", "image_name", "img_name", "figure_path", "image_path")
_QUESTION = ("question",)
_ANSWER = ("answer", "gt_answer", "anwser")
_LABEL = ("answer_label",)
_CATEGORY = ("category", "question_type", "content_type", "modality_type", "modality")
_OPTION = re.compile(r"(?:choice|option)_[a-h]")
_LETTER = re.compile(r"\s*\(?([A-Ha-h])\)?\s*[:.)]\s*")
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
    text = _text(row, _QUESTION, where=where)
    choices = _choices(row, where=where)
    answer = _reference(row, choices, where=where)
    answer_type, rule = _answer_type(row, answer, choices, where=where)
    image = _first(row, _IMAGE)
    if image is not None and not isinstance(image, str):
        raise RecordError(f"image must be a file name, not {type(image).__name__}: {where}.")
    category = _first(row, _CATEGORY)
    identifier = _first(row, _ID)
    if isinstance(identifier, bool | dict | list):
        raise RecordError(f"id must be text or a number: {where}.")
    return Parsed(
        question=Question(
            id=default_id if identifier is None else str(identifier),
            image=image or None,
            question=text,
            answer=answer,
            answer_type=answer_type,
            choices=choices,
            category=str(category).strip() or None if category is not None else None,
        ),
        rule=rule,
        language=row["q_lang"] if isinstance(row.get("q_lang"), str) else None,
        split=_own_split(row),
    )


def _first(row: Row, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON is any
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Row, names: tuple[str, ...], *, where: str) -> str:
    """Return a text field; numbers occur as answers in released files."""
    value = _first(row, names)
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise RecordError(f"no {names[0]!r}: {where}.")
    return str(value).strip()


def _choices(row: Row, *, where: str) -> tuple[str, ...]:
    listed = row.get("choices") or row.get("options")
    if listed is None:
        named = sorted(key for key in row if _OPTION.fullmatch(key))
        listed = [row[key] for key in named if row[key] not in (None, "")]
    if not isinstance(listed, list | tuple):
        raise RecordError(f"choices must be a list: {where}.")
    choices = tuple(_LETTER.sub("", str(choice), count=1).strip() for choice in listed)
    if not all(choices):
        raise RecordError(f"a choice is empty: {where}.")
    return choices


def _reference(row: Row, choices: tuple[str, ...], *, where: str) -> str:
    """Return the reference answer; for multiple choice the text of the right choice."""
    if not choices:
        return _text(row, _ANSWER, where=where)
    label = _first(row, _LABEL)
    stated = _text(row, _LABEL if label else _ANSWER, where=where)
    bare = _LETTER.sub("", stated, count=1).strip()
    for choice in choices:
        if choice.casefold() in (stated.casefold(), bare.casefold()):
            return choice
    letter = ord(stated[0].upper()) - ord("A")
    if len(stated.strip("().: ")) == 1 and 0 <= letter < len(choices):
        return choices[letter]
    raise RecordError(f"the answer is none of the choices: {where} ({stated!r:.40}).")


def _answer_type(
    row: Row, answer: str, choices: tuple[str, ...], *, where: str
) -> tuple[AnswerType, str]:
    stated = row.get("answer_type")
    if isinstance(stated, str) and stated.strip():
        name = stated.strip().lower()
        if name not in list(AnswerType):
            raise RecordError(f"answer_type is not open or closed: {where} ({stated!r:.40}).")
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
    record, _ = parse_llava_item(row, where=where)
    asked = [turn for turn in record.turns if turn.role == "user"]
    answers = [turn for turn in record.turns if turn.role == "assistant"]
    if not asked or len(asked) != len(answers):
        raise RecordError(f"questions and answers do not alternate: {where}.")
    shared = {key: row[key] for key in ("answer_type", *_CATEGORY, "q_lang", "split") if key in row}
    name = str(row.get("id", default_id))
    for number, (question, answer) in enumerate(zip(asked, answers, strict=True), start=1):
        yield shared | {
            "id": name if len(asked) == 1 else f"{name}-{number}",
            "image": record.images[0] if record.images else None,
            "question": question.content.replace(IMAGE_TOKEN, "").strip(),
            "answer": answer.content,
        }
