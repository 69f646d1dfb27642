"""Where training data comes from: a folder of ours, our JSONL, or LLaVA's JSON.

Training and evaluation read every instruction file through here, so they accept the output of
`generate-instructions` and the released LLaVA-Med files alike. Images are found by `image_root`.
"""

from collections.abc import Iterator
from pathlib import Path

from medllava.data.dropped import Dropped, DropReason
from medllava.data.layouts.conversation import is_llava_item
from medllava.data.layouts.items import iter_items
from medllava.data.layouts.stream import iter_conversations, iter_llava_json
from medllava.data.strikes import read_strikes
from medllava.errors import DataError
from medllava.layout import INSTRUCTIONS_FILE, SUMMARY_FILE
from medllava.records import InstructionRecord
from medllava.store import read_json


def read_instructions(path: Path) -> Iterator[InstructionRecord | Dropped]:
    """Yield every record of an instructions folder or a conversation file, or why it is none.

    Raises:
        DataError: nothing is there, it is not JSON, or it is in another layout.
    """
    records = iter_conversations(_instructions_file(path))
    struck = read_strikes(path) if path.is_dir() else frozenset()
    return _without(records, struck) if struck else records


def iter_instruction_records(path: Path) -> Iterator[InstructionRecord]:
    """Yield the records of instructions of which every one must be usable, such as our own.

    Those that somebody struck are left out.

    Raises:
        DataError: nothing is there, or it is not JSON.
        RecordError: a record cannot be used; names the file and the line or item.
    """
    records = iter_llava_json(_instructions_file(path))
    struck = read_strikes(path) if path.is_dir() else frozenset()
    return (record for record in records if record.record_id not in struck) if struck else records


def _without(
    records: Iterator[InstructionRecord | Dropped], struck: frozenset[str]
) -> Iterator[InstructionRecord | Dropped]:
    """Yield records, those that are struck as dropped."""
    for number, record in enumerate(records, start=1):
        if isinstance(record, InstructionRecord) and record.record_id in struck:
            yield Dropped(record_id=record.record_id, reason=DropReason.STRUCK, item=number)
        else:
            yield record


def _instructions_file(path: Path) -> Path:
    file = path / INSTRUCTIONS_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"no instruction data: {file}. Make it with medllava generate-instructions, "
            "or name a LLaVA .json file."
        )
    return file


def image_root(path: Path, image_dir: Path | None) -> Path:
    """Return the folder that the `images` of the records at `path` are relative to.

    Args:
        path: a folder or a file of instructions.
        image_dir: the user's own choice, which wins.

    Returns:
        `image_dir`; else the `image_dir` of the `summary.json` beside the file, taken from that
        folder; else the file's folder.
    """
    if image_dir is not None:
        return image_dir
    folder = path if path.is_dir() else path.parent
    summary = folder / SUMMARY_FILE
    if summary.is_file():
        values = read_json(summary)
        named = values.get("image_dir") if isinstance(values, dict) else None
        if isinstance(named, str):
            return folder / named
    return folder


def is_llava_file(file: Path) -> bool:
    """Tell LLaVA's JSON or JSONL from ours by how the file begins.

    Raises:
        DataError: it is not UTF-8, damaged, or not JSON.
    """
    first = next(iter_items(file), None)
    if first is None:
        return False
    return first.unit == "item" or (isinstance(first.value, dict) and is_llava_item(first.value))
