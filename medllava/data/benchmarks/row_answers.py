"""Answers of a row: choices, reference, a set of answers, offered alternatives, a box.

A row with plain keys enters; what a `Question` holds of it leaves, or a `RecordError` that names
the row.
"""

import ast
import re
import string
from collections.abc import Mapping
from typing import Any

from medllava.errors import RecordError

Row = Mapping[str, Any]

ANSWER = ("answer", "gt_answer", "anwser", "gt_ans", "correct_answer", "correct_answer_text")
QUESTION = ("question", "problem", "prompt")
_LABEL = ("answer_label",)
_COLUMN = re.compile(r"[a-h]")
_OPTION = re.compile(r"(?:choice|option)_[a-h]")
_LETTER = re.compile(r"\s*\(?([A-Za-z])\)?\s*[:.)]\s*")
_LETTERS = re.compile(r"[A-Ha-h](?:\s*[,;/&]?\s*[A-Ha-h])+")
_TRUTH = {True: "yes", False: "no"}
_BOX_SIZE = 4


def first_of(row: Row, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON is any
    """Return the first field that there is."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def read_text(row: Row, names: tuple[str, ...], *, where: str) -> str:
    """Return a text field; numbers and truth values occur as answers in released files.

    Raises:
        RecordError: it is absent, empty, or of another kind.
    """
    value = first_of(row, names)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return _TRUTH[value]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise RecordError(f"no {names[0]!r}: {where}.")
    return str(value).strip()


def read_answers(row: Row, choices: tuple[str, ...], *, where: str) -> tuple[str, tuple[str, ...]]:
    """Return the reference answer and, where several are right together, all of them.

    Of multiple choice it is the text of the right choice. A set has no order and no repeats.

    Raises:
        RecordError: there is none, or one that is none of the choices.
    """
    names = (*_LABEL, *ANSWER, "label") if choices else ANSWER
    value = first_of(row, names)
    listed = list(value) if isinstance(value, list | tuple) else None
    is_word = isinstance(value, str) and value.casefold() in map(str.casefold, choices)
    if choices and isinstance(value, str) and not is_word and _LETTERS.fullmatch(value.strip()):
        listed = re.findall(r"[A-Ha-h]", value)
    if listed is None or len(listed) < 2:
        stated = read_text(row, names, where=where)
        return (_choice(choices, stated, where=where) if choices else stated), ()
    members = [read_text({"answer": one}, ("answer",), where=where) for one in listed]
    if choices:
        members = [_choice(choices, one, where=where) for one in members]
    members = list(dict.fromkeys(members))
    return ", ".join(members), (tuple(members) if len(members) > 1 else ())


def read_alternatives(row: Row, *, where: str) -> tuple[tuple[str, ...], ...]:
    """Return the wordings of each alternative of an "or" question: a list of lists, or of texts.

    Raises:
        RecordError: it is neither.
    """
    listed = row.get("alternatives") or ()
    given = [[one] if isinstance(one, str) else one for one in listed]
    if any(
        not isinstance(one, list | tuple) or not all(isinstance(w, str) and w for w in one)
        for one in given
    ):
        raise RecordError(f"alternatives must be lists of wordings: {where}.")
    return tuple(tuple(one) for one in given)


def read_box(row: Row, *, where: str) -> tuple[float, ...]:
    """Return `box` as left, top, right, bottom in fractions; empty where there is none.

    Raises:
        RecordError: it is not four numbers between 0 and 1, in this order.
    """
    box = row.get("box")
    if box is None or (isinstance(box, list | tuple) and not box):
        return ()
    if (
        not isinstance(box, list | tuple)
        or len(box) != _BOX_SIZE
        or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in box)
    ):
        raise RecordError(f"box must be four numbers: {where}.")
    left, top, right, bottom = (float(n) for n in box)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RecordError(
            f"box must be left, top, right, bottom as fractions of the image: {where} ({box})."
        )
    return left, top, right, bottom


def read_choices(row: Row, *, where: str) -> tuple[str, ...]:
    """Return the choices: listed, under their letters, or in columns of their own.

    Raises:
        RecordError: they are no list, or a letter is missing.
    """
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
        listed = [row[key] for key in keys if not is_empty(row[key])]
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
    named = sorted(key for key in row if _COLUMN.fullmatch(key) and not is_empty(row[key]))
    if named and named != list(string.ascii_lowercase[: len(named)]):
        raise RecordError(f"choices stand under {', '.join(named)}, not from A on: {where}.")
    return named if len(named) > 1 else []


def is_empty(value: Any) -> bool:  # noqa: ANN401 - JSON is any
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


def _choice(choices: tuple[str, ...], stated: str, *, where: str) -> str:
    """Return the choice that a stated answer names, by its words or its letter."""
    bare = _LETTER.sub("", stated, count=1).strip()
    for choice in choices:
        if choice.casefold() in (stated.casefold(), bare.casefold()):
            return choice
    letter = ord(stated[0].upper()) - ord("A")
    if len(stated.strip("().: ")) == 1 and 0 <= letter < len(choices):
        return choices[letter]
    raise RecordError(f"the answer is none of the choices: {where} ({stated!r:.40}).")
