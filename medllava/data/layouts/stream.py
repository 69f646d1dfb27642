"""A conversation file to records: what can be used, and what was dropped and why."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medllava.data.dropped import Dropped, DropReason, UnusableRecordError
from medllava.data.layouts.conversation import REPAIRS, item_id, read_item
from medllava.data.layouts.items import Item, iter_items
from medllava.errors import DataError
from medllava.records import InstructionRecord

_log = logging.getLogger(__name__)

_LOOKED_AT = 100
"""Items without a conversation at the head of a file that make it a file of something else."""


def iter_conversations(path: Path) -> Iterator[InstructionRecord | Dropped]:
    """Yield every item of a conversation file as a record, or as what was dropped and why.

    Memory holds one item at a time, so the 358 MB alignment file needs no more than a small one.

    Raises:
        DataError: the file is absent, is not JSON, or is in another layout, which is named.
    """
    unknown: list[Dropped] | None = []
    first: Any = None
    repaired = 0
    for item in iter_items(path):
        try:
            outcome: InstructionRecord | Dropped = _read(item, path)
        except UnusableRecordError as error:
            outcome = _dropped(item, path, error)
            if unknown is not None and error.reason is DropReason.NO_CONVERSATION:
                first = item.value if not unknown else first
                unknown.append(outcome)
                if len(unknown) >= _LOOKED_AT:
                    raise _unknown_layout(path, first) from None
                continue
        if unknown is not None:
            yield from unknown
            unknown = None
        repaired += isinstance(outcome, InstructionRecord) and REPAIRS in outcome.provenance
        yield outcome
    if unknown:
        raise _unknown_layout(path, first)
    _tell(path, repaired)


def iter_llava_json(path: Path) -> Iterator[InstructionRecord]:
    """Yield the records of a file in which every item must be usable.

    Raises:
        DataError: the file is absent or not JSON.
        UnusableRecordError: an item has no usable conversation; names the file and the item.
    """
    repaired = 0
    for item in iter_items(path):
        try:
            record = _read(item, path)
        except UnusableRecordError as error:
            raise error.at(f"{path}, {item.place}") from None
        repaired += REPAIRS in record.provenance
        yield record
    _tell(path, repaired)


def _tell(path: Path, repaired: int) -> None:
    if repaired:
        _log.warning("%s: image token or first turn put right in %d records", path.name, repaired)


def _read(item: Item, path: Path) -> InstructionRecord:
    return read_item(item.value, default_id=f"{path.name}#{item.number}")


def _dropped(item: Item, path: Path, error: UnusableRecordError) -> Dropped:
    return Dropped(
        record_id=item_id(item.value, default=f"{path.name}#{item.number}"),
        reason=error.reason,
        detail=f"{item.place}: {error.detail}" if error.detail else item.place,
    )


def _unknown_layout(path: Path, item: Any) -> DataError:  # noqa: ANN401 - JSON is any
    """Say what the file holds in place of conversations."""
    known = "Expected items with 'conversations' or 'messages', or a medllava instructions file."
    if not isinstance(item, dict):
        return DataError(f"a list of {type(item).__name__}, not of conversations: {path}. {known}")
    for name, value in item.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            keys = ", ".join(list(value[0])[:4])
            return DataError(
                f"the layout is one object with the list under {name!r} (items with {keys}): "
                f"{path}. {known} If the items are conversations, save the list {name!r} alone."
            )
    keys = ", ".join(list(item)[:8])
    return DataError(f"the layout is not one of conversations, items have {keys}: {path}. {known}")
