"""Records out to other trainers: LLaVA's JSON, LLaMA-Factory's messages, ms-swift's lines.

What those layouts have no place for (license, teacher, split, stage, modality, figure, provenance)
is written beside the conversation under its own name: other readers pass over it, ours takes it
back, so that a file that was written and read again holds the same records.
"""

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from medllava.data.layouts.conversation import DOMAINS
from medllava.records import InstructionRecord, Split, Stage
from medllava.store import atomic_path, write_json

_SENDERS = {"user": "human", "assistant": "gpt", "system": "system"}
DATASET_INFO = "dataset_info.json"
"""What LLaMA-Factory reads to find and understand a file of messages."""


class Layout(StrEnum):
    """Layouts that records can be written in."""

    LLAVA = "llava"
    """One JSON array of `{id, image, conversations}`; LLaVA, TinyLLaVA and their kin."""
    MESSAGES = "messages"
    """One JSON array of `{messages, images}`, with `dataset_info.json` for LLaMA-Factory."""
    SWIFT = "swift"
    """One `{messages, images}` a line; ms-swift, and most loaders of the `datasets` library."""


FILES: Mapping[Layout, str] = {
    Layout.LLAVA: "llava.json",
    Layout.MESSAGES: "messages.json",
    Layout.SWIFT: "swift.jsonl",
}
"""Layout to the name of its file in an instructions folder."""


def write_layout(layout: Layout, folder: Path, records: Iterable[InstructionRecord]) -> Path:
    """Write records in a layout into a folder; return the file."""
    path = folder / FILES[layout]
    if layout is Layout.LLAVA:
        write_llava_json(path, records)
    elif layout is Layout.MESSAGES:
        _write_array(path, map(to_messages_item, records))
        write_json(folder / DATASET_INFO, {path.stem: _dataset_info(path.name)})
    else:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
            for record in records:
                handle.write(json.dumps(to_messages_item(record), ensure_ascii=False) + "\n")
    return path


def to_llava_item(record: InstructionRecord) -> dict[str, Any]:
    """Return the record as one item of a LLaVA JSON array.

    A single image is a string, several are a list, none leaves the key out. LLaVA-Med's five
    domain flags are written where the modality is known.
    """
    item: dict[str, Any] = {"id": record.record_id}
    if record.images:
        item["image"] = record.images[0] if len(record.images) == 1 else list(record.images)
    if record.modality is not None:
        item["domain"] = {name: record.modality is value for name, value in DOMAINS.items()}
    item |= _kept(record)
    types = {turn.answer_type for turn in record.turns if turn.role == "assistant"}
    is_one = len(types) == 1 and None not in types
    if is_one:
        item["answer_type"] = str(types.pop()).upper()
    item["conversations"] = [
        {"from": _SENDERS.get(turn.role, turn.role), "value": turn.content}
        | ({"answer_type": str(turn.answer_type)} if turn.answer_type and not is_one else {})
        for turn in record.turns
    ]
    return item


def to_messages_item(record: InstructionRecord) -> dict[str, Any]:
    """Return the record as `{id, messages: [{role, content}], images, ...}`."""
    return {
        "id": record.record_id,
        "messages": [
            {"role": turn.role, "content": turn.content}
            | ({"answer_type": str(turn.answer_type)} if turn.answer_type else {})
            for turn in record.turns
        ],
        "images": list(record.images),
        **_kept(record),
    }


def write_llava_json(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write records as a LLaVA JSON array, one item a line; return how many."""
    return _write_array(path, map(to_llava_item, records))


def _kept(record: InstructionRecord) -> dict[str, Any]:
    """Return the fields that the layout itself has no place for, where they say something."""
    fields: dict[str, Any] = {
        "license": record.license,
        "teacher": record.teacher,
        "split": None if record.split is Split.TRAIN else record.split.value,
        "stage": None if record.stage is Stage.INSTRUCT else record.stage.value,
        "figure_id": record.figure_id,
        "modality": record.modality.value if record.modality else None,
        "provenance": record.provenance,
    }
    return {name: value for name, value in fields.items() if value}


def _write_array(path: Path, items: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.write("[")
        for count, item in enumerate(items, start=1):
            handle.write(",\n" if count > 1 else "\n")
            handle.write(json.dumps(item, ensure_ascii=False))
        handle.write("\n]\n")
    return count


def _dataset_info(file_name: str) -> dict[str, Any]:
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
