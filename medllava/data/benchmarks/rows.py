"""One row of any circulating benchmark format to a `Question`.

The formats differ in the names of their fields and in little else, so one table of names reads them
all: VQA-RAD's own JSON, the MEVF layout, SLAKE, PathVQA's Parquet, PMC-VQA's CSV, OmniMedVQA, LLaVA
conversations, and rows of the user's own. Rows that say too little are rejected with the reason.
"""

import ast
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medllava.data.dropped import DropReason, UnusableRecordError
from medllava.data.layouts.conversation import is_llava_item, parse_llava_item
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
_MANY_IMAGES = ("images", "image_paths", "image_list")
_NUMBERED_IMAGE = re.compile(r"image_[2-9]\d*")
_FIRST_MARK = re.compile(r"^(?:<image 1>\s*)+(?=\S)")
_NUMBERED_MARK = re.compile(r"<image 1>")
"""MMMU's place for the image; further images are refused."""
_COLUMN = re.compile(r"[a-h]")
_MODALITY = ("modality", "modality_type", "image_modality", "image_organ")
"""Of the image; VQA-RAD states its organ, which tells as much about how it was made."""
_CATEGORY = ("category", "question_type", "content_type", "modality_type", "modality")
_OPTION = re.compile(r"(?:choice|option)_[a-h]")
_LETTER = re.compile(r"\s*\(?([A-Za-z])\)?\s*[:.)]\s*")
_YES_NO = frozenset({"yes", "no"})
_TRUTH = {True: "yes", False: "no"}


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
    text = _NUMBERED_MARK.sub("the image", _FIRST_MARK.sub("", _text(row, _QUESTION, where=where)))
    choices = _choices(row, where=where)
    answer = _reference(row, choices, where=where)
    answer_type, rule = _answer_type(row, answer, choices, where=where)
    category, modality = _first(row, _CATEGORY), _first(row, _MODALITY)
    identifier = _first(row, _ID)
    if isinstance(identifier, bool | dict | list):
        raise RecordError(f"id must be text or a number: {where}.")
    return Parsed(
        question=Question(
            id=default_id if identifier is None else str(identifier),
            image=_image(row, where=where),
            question=text,
            answer=answer,
            answer_type=answer_type,
            choices=choices,
            category=_name(category),
            modality=_name(modality),
        ),
        rule=rule,
        language=row["q_lang"] if isinstance(row.get("q_lang"), str) else None,
        split=_own_split(row),
    )


def _image(row: Row, *, where: str) -> str | None:
    """Return the one image of a row.

    Raises:
        RecordError: there are several; asking about the first alone would be another question.
    """
    image = _first(row, (*_IMAGE, *_MANY_IMAGES, "image_1"))
    listed = list(image) if isinstance(image, list | tuple) else [image]
    listed += [row[key] for key in row if _NUMBERED_IMAGE.fullmatch(key) and row[key]]
    if len(listed) > 1:
        raise RecordError(
            f"{len(listed)} images in one question, one can be shown: {where}. Leave it out."
        )
    only = listed[0] if listed else None
    if only is not None and not isinstance(only, str):
        raise RecordError(f"image must be a file name, not {type(only).__name__}: {where}.")
    return only or None


def _name(value: Any) -> str | None:  # noqa: ANN401 - JSON is any
    """Return the name of a group of questions; an empty cell is none."""
    return None if _is_empty(value) else str(value).strip() or None


def _first(row: Row, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON is any
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Row, names: tuple[str, ...], *, where: str) -> str:
    """Return a text field; numbers and truth values occur as answers in released files."""
    value = _first(row, names)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple):
        raise RecordError(
            f"{names[0]} has {len(value)} values, and sets of answers are not scored: {where}. "
            "Leave it out, or join them into the one text that is right."
        )
    if isinstance(value, bool):
        return _TRUTH[value]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise RecordError(f"no {names[0]!r}: {where}.")
    return str(value).strip()


def _choices(row: Row, *, where: str) -> tuple[str, ...]:
    """Return the choices: listed, under their letters, or in columns of their own."""
    listed = row.get("choices") or row.get("options")
    if isinstance(listed, str):
        listed = _listed(listed, where=where)
    if isinstance(listed, Mapping):
        named = {str(key).strip().upper(): value for key, value in listed.items()}
        if set(named) != set(string.ascii_uppercase[: len(named)]):
            raise RecordError(f"choices must be under A, B, C, ...: {where} ({sorted(named)}).")
        listed = [named[letter] for letter in sorted(named)]
    if listed is None:
        keys = sorted(key for key in row if _OPTION.fullmatch(key)) or _columns(row, where=where)
        listed = [row[key] for key in keys if not _is_empty(row[key])]
    if not isinstance(listed, list | tuple):
        raise RecordError(f"choices must be a list: {where}.")
    return _without_labels([str(choice).strip() for choice in listed], where=where)


def _listed(text: str, *, where: str) -> Any:  # noqa: ANN401 - as written
    """Read a list that circulates as a string, as MMMU's options do."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise RecordError(f"choices are no list: {where} ({text!r:.40}).") from None


def _columns(row: Row, *, where: str) -> list[str]:
    """Return the columns `a`, `b`, ... of a table of multiple choice, which has no gaps."""
    named = sorted(key for key in row if _COLUMN.fullmatch(key) and not _is_empty(row[key]))
    if named and named != list(string.ascii_lowercase[: len(named)]):
        raise RecordError(f"choices stand under {', '.join(named)}, not from A on: {where}.")
    return named if len(named) > 1 else []


def _is_empty(value: Any) -> bool:  # noqa: ANN401 - JSON is any
    """Tell an empty cell; spreadsheets write a number that is none."""
    return value is None or value == "" or value != value or str(value).strip().lower() == "nan"


def _without_labels(choices: list[str], *, where: str) -> tuple[str, ...]:
    """Take "A." and the like off, where they are labels: the letters of all choices in order.

    The C of "C. difficile" is no label.
    """
    letters = [_LETTER.match(choice) for choice in choices]
    labels = [mark.group(1).upper() if mark else "" for mark in letters]
    if choices and labels == list(string.ascii_uppercase[: len(choices)]):
        choices = [_LETTER.sub("", choice, count=1).strip() for choice in choices]
    if not all(choices):
        raise RecordError(f"a choice is empty: {where}.")
    return tuple(choices)


def _reference(row: Row, choices: tuple[str, ...], *, where: str) -> str:
    """Return the reference answer; for multiple choice the text of the right choice."""
    if not choices:
        return _text(row, _ANSWER, where=where)
    stated = _text(row, (*_LABEL, *_ANSWER, "label"), where=where)
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
            "image": record.images[0] if record.images else None,
            "question": question.content.replace(IMAGE_TOKEN, "").strip(),
            "answer": answer.content,
        }
