"""Open-ended questions about figures with a reference answer, to be judged: LLaVA-Med's file form.

A JSONL or JSON file enters, `ChatQuestion`s leave. The released file has 193 questions about 50
figures; any file with its fields, or with `id`, `question` and `answer`, is read alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.errors import DataError, RecordError
from medllava.records import IMAGE_TOKEN
from medllava.store import iter_jsonl, read_json

_NAMES = {
    "id": ("question_id", "id"),
    "text": ("text", "question"),
    "reference": ("gpt4_answer", "reference", "answer"),
    "kind": ("type", "category"),
    "label": ("fig_label", "label"),
    "caption": ("fig_caption", "caption"),
}
_RELEASED = {
    "questions": 193,
    "conversation": 143,
    "detailed_description": 50,
    "chest_xray": 37,
    "mri": 38,
    "histology": 44,
    "gross": 34,
    "ct_scan": 40,
}
"""Source: LLaVA-Med, Li et al. 2023, figure of the chat evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatQuestion:
    """One question, what is known about its figure, and the answer it is compared with."""

    id: str
    text: str
    reference: str
    image: str | None
    kind: str
    """Such as `conversation` or `detailed_description`."""
    domain: str
    """Such as `chest_xray`; `other` where the file does not say."""
    label: str = ""
    caption: str = ""
    mentions: tuple[str, ...] = ()


def read_chat_questions(file: Path) -> tuple[ChatQuestion, ...]:
    """Read a file of questions.

    Raises:
        DataError: it is not there or empty.
        RecordError: an item has no id, question or reference answer, or an id comes twice.
    """
    questions: list[ChatQuestion] = []
    seen: set[str] = set()
    for where, values in _items(file):
        question = _parse(values, where=where)
        if question.id in seen:
            raise RecordError(f"id {question.id!r} occurs twice: {where}. Make ids unique.")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise DataError(f"no question in it: {file}. Check the file.")
    return tuple(questions)


def compare_with_released(questions: Sequence[ChatQuestion]) -> str:
    """Say whether these are as many of each type and domain as LLaVA-Med published."""
    found = Counter({"questions": len(questions)})
    found.update(question.kind for question in questions)
    found.update(question.domain for question in questions)
    differences = [
        f"{name} {found[name]}, published {count}"
        for name, count in _RELEASED.items()
        if found[name] != count
    ]
    if not differences:
        return "Counts by type and domain are those of LLaVA-Med's 193 questions."
    return f"Not LLaVA-Med's 193 questions: {', '.join(differences)}."


def _items(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if file.suffix == ".json":
        values = read_json(file)
        if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
            raise DataError(f"expected an array of objects: {file}. Check how it was made.")
        return [(f"{file}, item {i}", value) for i, value in enumerate(values, start=1)]
    return [(f"{file}, line {number}", value) for number, value in iter_jsonl(file)]


def _parse(values: Mapping[str, Any], *, where: str) -> ChatQuestion:
    found = {
        name: next((values[key] for key in keys if values.get(key) is not None), "")
        for name, keys in _NAMES.items()
    }
    texts = {name: str(value).replace(IMAGE_TOKEN, "").strip() for name, value in found.items()}
    for name in ("id", "text", "reference"):
        if not texts[name]:
            raise RecordError(f"a question needs {' or '.join(_NAMES[name])}: {where}.")
    mentions = values.get("in_text_mention") or values.get("in_text_mentions") or ()
    image = values.get("image")
    return ChatQuestion(
        id=texts["id"],
        text=texts["text"],
        reference=texts["reference"],
        image=image if isinstance(image, str) and image else None,
        kind=texts["kind"] or "other",
        domain=_domain(values.get("domain")),
        label=texts["label"],
        caption=texts["caption"],
        mentions=_mentions(mentions),
    )


def _domain(value: object) -> str:
    """Return the name of a domain, given as such or as flags of which the first true one counts."""
    if isinstance(value, Mapping):
        return next((str(name) for name, is_set in value.items() if is_set), "other")
    return str(value) if value else "other"


def _mentions(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        return ()
    texts = (item.get("text", "") if isinstance(item, Mapping) else item for item in value)
    return tuple(str(text) for text in texts if text)
