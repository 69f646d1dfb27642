"""What the privacy gate finds, and what it was told to do about it.

A finding names the file and the place, never the words: the list may be shown around, the picture
may not.
"""

from dataclasses import dataclass
from enum import StrEnum

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels of the picture as it is shown."""


class PrivacyMode(StrEnum):
    """What happens where something is found."""

    AUTO = "auto"
    """Stop for data of one's own, off for figures of a published archive."""
    STOP = "stop"
    REPORT = "report"
    """List it and go on."""
    MASK = "mask"
    """Paint over it and go on with the copies."""
    OFF = "off"


class Kind(StrEnum):
    """Where something private was found."""

    TAG = "tag"
    """In a DICOM tag of PS3.15's basic profile."""
    BURNED_IN = "burned-in annotation"
    """The file says itself that its pixels bear an annotation."""
    TEXT = "text in pixels"
    NAME = "name"
    DATE = "date"
    NUMBER = "number"
    CONTACT = "address or telephone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that may tell who a patient is."""

    kind: Kind
    where: str
    """A tag's keyword, `caption`, or the number of letters in a picture's text."""
    box: Box | None = None
    """Of text in pixels."""
    span: tuple[int, int] | None = None
    """Of words in a text: first character and the one after the last."""
