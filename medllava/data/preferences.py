"""Pairs of replies: our own files, POVID's layout, and TRL's.

A path enters, `PreferenceRecord`s leave in the order of their file, with what had to be left out
and why. `sides` makes each pair the two conversations that tokenizing and image checks know.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medllava.data.conversation import ASSISTANT, user_turn
from medllava.data.dropped import Dropped, DropReason, UnusableRecordError
from medllava.data.layouts.conversation import image_names, item_id, parse_llava_item
from medllava.data.layouts.items import iter_items
from medllava.errors import DataError, RecordError
from medllava.layout import PREFERENCES_FILE
from medllava.records import InstructionRecord, PreferenceRecord, Stage, Turn
from medllava.score.normalize import words

CHOSEN, REJECTED = " (chosen)", " (rejected)"
"""Put behind a pair's id to name its two conversations."""


def read_preferences(path: Path) -> Iterator[PreferenceRecord | Dropped]:
    """Yield every pair of a folder or a file, or why it is none.

    Read are our `preferences.jsonl`; POVID's items, a conversation beside `rejected_conversations`;
    and TRL's, `prompt`, `chosen` and `rejected` as texts or messages.

    Raises:
        DataError: nothing is there, or it is not JSON.
    """
    file = path / PREFERENCES_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"no preferences: {file}. Make them with medllava generate-instructions --stage prefer."
        )
    seen: set[str] = set()
    for item in iter_items(file):
        name = item_id(item.value, default=f"{file.name}#{item.number}")
        try:
            record = _read(item.value, name, where=f"{file}, {item.place}")
            if record.record_id in seen:
                raise UnusableRecordError(DropReason.SCHEMA, "its id occurs twice")
            if words(record.chosen) == words(record.rejected):
                raise UnusableRecordError(DropReason.SCHEMA, "both replies say the same")
        except UnusableRecordError as error:
            yield Dropped(
                record_id=name, reason=error.reason, detail=f"{item.place} {error.detail}"
            )
            continue
        except RecordError as error:
            yield Dropped(record_id=name, reason=DropReason.SCHEMA, detail=str(error))
            continue
        seen.add(record.record_id)
        yield record


def pair_id(record_id: str) -> str:
    """Return the id of the pair that one of its sides is of."""
    return record_id.removesuffix(CHOSEN).removesuffix(REJECTED)


def sides(records: Iterable[PreferenceRecord | Dropped]) -> Iterator[InstructionRecord | Dropped]:
    """Yield both conversations of every pair, the chosen one first."""
    for record in records:
        if isinstance(record, Dropped):
            yield record
            continue
        for suffix, reply in ((CHOSEN, record.chosen), (REJECTED, record.rejected)):
            yield InstructionRecord(
                record_id=record.record_id + suffix,
                images=record.images,
                turns=(*record.turns, Turn(role=ASSISTANT, content=reply)),
                stage=Stage.PREFER,
                teacher=record.teacher,
                figure_id=record.figure_id,
                modality=record.modality,
                license=record.license,
                split=record.split,
            )


def _read(item: Any, name: str, *, where: str) -> PreferenceRecord:  # noqa: ANN401 - JSON is any
    if not isinstance(item, Mapping):
        raise UnusableRecordError(DropReason.SCHEMA, "no object")
    if "rejected_conversations" in item:
        return _read_povid(item, name, where=where)
    if "prompt" in item:
        return _read_trl(item, name)
    record = PreferenceRecord.from_json(item, where=where)
    _check_replies(record.chosen, record.rejected)
    return record


def _read_povid(item: Mapping[str, Any], name: str, *, where: str) -> PreferenceRecord:
    chosen, _ = parse_llava_item(item, where=where)
    other = {**item, "conversations": item["rejected_conversations"]}
    rejected, _ = parse_llava_item(other, where=where)
    if chosen.turns[:-1] != rejected.turns[:-1]:
        raise UnusableRecordError(DropReason.SCHEMA, "the two conversations have other questions")
    _check_replies(chosen.turns[-1].content, rejected.turns[-1].content)
    return PreferenceRecord(
        record_id=name,
        images=chosen.images,
        turns=chosen.turns[:-1],
        chosen=chosen.turns[-1].content,
        rejected=rejected.turns[-1].content,
    )


def _read_trl(item: Mapping[str, Any], name: str) -> PreferenceRecord:
    images = tuple(image_names(item.get("images", item.get("image"))))
    prompt, chosen, rejected = (_said(item.get(key)) for key in ("prompt", "chosen", "rejected"))
    _check_replies(chosen, rejected)
    return PreferenceRecord(
        record_id=name,
        images=images,
        turns=(user_turn(prompt, num_images=len(images)),),
        chosen=chosen,
        rejected=rejected,
    )


def _said(value: Any) -> str:  # noqa: ANN401 - JSON is any
    """Return the words of a text, or of the one message of a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    if isinstance(value, list):
        value = "\n".join(str(p["text"]) for p in value if isinstance(p, Mapping) and "text" in p)
    if not isinstance(value, str):
        raise UnusableRecordError(DropReason.NOT_TEXT, "prompt, chosen and rejected must be text")
    return value


def _check_replies(chosen: str, rejected: str) -> None:
    if not chosen.strip() or not rejected.strip():
        raise UnusableRecordError(DropReason.EMPTY_REPLY)
