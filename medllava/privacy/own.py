"""Whose data it is and what was decided about it: asked before every door of the gate.

Pictures of a published archive have been before the public and are not looked at unless somebody
asks for it; data of one's own are. What `generate-instructions` was told stands in the folder it
wrote, so that training and publishing do not ask a second time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.layout import SUMMARY_FILE
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.gate import GateItem
from medllava.records import OWN, FigureRecord, InstructionRecord, is_own
from medllava.store import contained_path, read_json

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
PUBLISHED = "privacy gate off: figures of a published archive (--privacy stop looks at them)"
NOT_OWN = (
    "privacy gate off: nothing is marked as your own (license `own`, DICOM files); "
    "--privacy stop looks at all of it"
)
_KEY = "privacy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was decided when a folder was made."""

    mode: PrivacyMode
    """What was done; never AUTO."""
    is_own: bool

    def to_json(self) -> dict[str, Any]:
        """Return what `summary.json` holds of it."""
        return {_KEY: {"mode": self.mode.value, "own": self.is_own}}

    @property
    def asks_again(self) -> bool:
        """Whether a later step looks too: not at published figures, nor against what was said."""
        return self.is_own and self.mode in (PrivacyMode.STOP, PrivacyMode.MASK)


def read_choice(folder: Path) -> Choice | None:
    """Return what was decided about an instructions folder, None where nothing is written."""
    path = folder / SUMMARY_FILE
    summary = read_json(path) if path.is_file() else None
    values = summary.get(_KEY) if isinstance(summary, dict) else None
    if not isinstance(values, dict):
        return None
    return Choice(mode=PrivacyMode(values["mode"]), is_own=bool(values["own"]))


def is_own_figure(figure: FigureRecord) -> bool:
    """Tell a figure of one's own: of a table, under such a license, or a DICOM file."""
    return figure.context == OWN or is_own(figure.license) or _has_dicom(figure.images)


def is_own_record(record: InstructionRecord) -> bool:
    """Tell a conversation about pictures of one's own."""
    return is_own(record.license) or _has_dicom(record.images)


def figure_item(figure: FigureRecord, root: Path) -> GateItem:
    """Return what the gate looks at of a figure."""
    return GateItem(
        item_id=figure.figure_id,
        images=tuple(contained_path(root, name) for name in figure.images),
        texts=(figure.caption, *figure.in_text_mentions),
    )


def record_item(record: InstructionRecord, root: Path) -> GateItem:
    """Return what the gate looks at of a conversation."""
    return GateItem(
        item_id=record.record_id,
        images=tuple(contained_path(root, name) for name in record.images),
        texts=tuple(turn.content for turn in record.turns),
    )


def _has_dicom(names: tuple[str, ...]) -> bool:
    return any(Path(name).suffix.lower() in DICOM_SUFFIXES for name in names)
