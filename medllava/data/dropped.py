"""Why a record is not used: the one list of reasons, from reading a file to laying out batches.

Readers (`layouts`), `tokenize` and `dataset` drop what cannot be used, by name; `train` writes
every one into `dropped.jsonl` and counts them by reason. A dropped record never ends a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from medllava.errors import RecordError


class DropReason(StrEnum):
    """Why a record is not used."""

    NO_CONVERSATION = "no list of conversations in it"
    NOT_TEXT = "a turn that is not text"
    UNKNOWN_SPEAKER = "a speaker that is neither user, assistant nor system"
    ROLE_ORDER = "speakers that do not take turns"
    EMPTY_TURN = "a question without words or picture"
    EMPTY_REPLY = "an empty reply"
    NO_REPLY = "no reply to learn"
    SPECIAL_TOKEN = "a special token inside the text"  # noqa: S105 - not a secret
    IMAGE_FIELD = "an image field that names no file"
    BAD_PATH = "an image path that leaves its folder"
    SCHEMA = "a record that breaks the schema"
    PLACEHOLDERS = "image placeholders do not match its images"
    TEMPLATE = "the chat template refuses it"
    TOO_LONG = "too long, even with its text shortened"
    MISSING_IMAGE = "image file missing"
    UNREADABLE_IMAGE = "image file not readable"
    STRUCK = "struck by a reader"


IMAGE_DROPS = frozenset({DropReason.MISSING_IMAGE, DropReason.UNREADABLE_IMAGE})
"""Reasons that lie in files that may change, and not in the records."""


def unusable_share(counts: Mapping[str, int], *, used: int) -> float:
    """Return the share of records that cannot be used; what somebody struck is none of them.

    Args:
        counts: dropped records by reason.
        used: records that are used.
    """
    dropped = sum(counts.values()) - counts.get(DropReason.STRUCK.value, 0)
    return dropped / max(1, dropped + used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A record that is not used."""

    record_id: str
    reason: DropReason
    detail: str = ""
    item: int = 0
    """Its number in its source, from 1; ids repeat in real files and over sources."""
    source: int = 0
    """Number of its source in a mixture, from 0."""

    def describe(self) -> str:
        """Return one line for a message."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.record_id!r}: {self.reason.value}{detail}"


class UnusableRecordError(RecordError):
    """One item of a file cannot be used; the others can."""

    def __init__(self, reason: DropReason, detail: str = "", *, where: str = "") -> None:
        """Say why.

        Args:
            reason: of the one list.
            detail: the turn or the value, in a few words.
            where: file and item, for the message.
        """
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason.value}{f' ({detail})' if detail else ''}: {where}.")

    def at(self, where: str) -> "UnusableRecordError":
        """Return the same with the file and the item it happened in."""
        return UnusableRecordError(self.reason, self.detail, where=where)
