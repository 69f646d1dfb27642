"""What the columns of a table mean, and one row to a figure record or the reason why not."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medllava.data.dropped import UnusableRecordError
from medllava.data.layouts.conversation import image_names, item_id
from medllava.errors import DataError
from medllava.records import OWN, FigureRecord, Modality, Split
from medllava.store import contained_path

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "images", "image_path", "image_file", "file_name", "filename", "path"),
    "caption": ("caption", "report", "findings", "text", "description", "impression"),
    "id": ("id", "figure_id", "image_id", "pair_id", "study_id"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "split": ("split", "fold", "subset"),
    "license": ("license", "licence"),
    "modality": ("modality", "domain"),
}
"""Field to the names it goes by, in any case and with any of blank, hyphen or underscore."""

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "validate": Split.VALIDATION,
    "dev": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}
_MODALITIES = {
    "xray": Modality.CHEST_XRAY,
    "cxr": Modality.CHEST_XRAY,
    "cr": Modality.CHEST_XRAY,
    "dx": Modality.CHEST_XRAY,
    "mr": Modality.MRI,
    "ctscan": Modality.CT,
    "histology": Modality.HISTOPATHOLOGY,
    "pathology": Modality.HISTOPATHOLOGY,
    "gross": Modality.GROSS_PATHOLOGY,
} | {modality.value.replace("_", ""): modality for modality in Modality}
_TEST_SHARE, _VALIDATION_SHARE = 0.1, 0.1


class RowError(Exception):
    """A row cannot be used; the message is the name of the rule."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Say which rule, and what it found."""
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class Columns:
    """Which column holds which field; what was seen of ids and patients so far."""

    names: Mapping[str, str]
    image_dir: Path
    seed: int = 0
    ids: set[str] = field(default_factory=set)
    splits: dict[str, tuple[Split, int]] = field(default_factory=dict)
    """Of each patient, as a digest: the split and the first row."""

    def read(self, row: Mapping[str, Any], number: int, *, default_id: str) -> FigureRecord:
        """Return a row as a figure record.

        Raises:
            RowError: it cannot be used.
            DataError: a patient is in two splits, so that no score on this table could be trusted.
        """
        figure_id = (
            item_id({"id": self._value(row, "id")}, default=default_id).strip() or default_id
        )
        if figure_id in self.ids:
            raise RowError("id_twice", figure_id)
        images = self._images(row)
        caption = self._text(row, "caption")
        if not caption:
            raise RowError("no_caption")
        split = self._split(row, figure_id, number)
        self.ids.add(figure_id)
        return FigureRecord(
            figure_id=figure_id,
            pmcid="",
            version=0,
            caption=caption,
            images=images,
            modality=_modality(self._value(row, "modality")),
            context=OWN,
            license=self._text(row, "license") or OWN,
            split=split,
        )

    def _value(self, row: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - any cell
        column = self.names.get(name)
        return None if column is None else row.get(column)

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        value = self._value(row, name)
        if value is None or (isinstance(value, float) and value != value):
            return ""
        if isinstance(value, bool | list | dict | bytes):
            raise RowError(f"{name}_not_text", type(value).__name__)
        text = str(value).strip()
        return "" if text.lower() in ("nan", "none", "null") else text

    def _images(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        value = self._value(row, "image")
        if isinstance(value, str) and value.strip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                raise RowError("image_field", value[:80]) from None
        if isinstance(value, str) and (";" in value or "|" in value):
            value = [part.strip() for part in value.replace("|", ";").split(";") if part.strip()]
        try:
            names = image_names(value)
        except UnusableRecordError as error:
            raise RowError("image_field", error.detail) from None
        if not names:
            raise RowError("no_image")
        return tuple(self._present(name) for name in names)

    def _present(self, name: str) -> str:
        """Return an image's name relative to the folder, if the file is there and in it."""
        path = Path(name)
        try:
            if path.is_absolute():
                name = path.resolve().relative_to(self.image_dir.resolve()).as_posix()
            is_there = contained_path(self.image_dir, name).is_file()
        except (ValueError, OSError, DataError):
            raise RowError("image_outside_folder", name) from None
        if not is_there:
            raise RowError("image_missing", name)
        return name

    def _split(self, row: Mapping[str, Any], figure_id: str, number: int) -> Split:
        """Return the split: as stated, else drawn for the patient, never for the picture."""
        patient = self._text(row, "patient")
        stated = self._text(row, "split").lower()
        if stated and stated not in _SPLITS:
            raise RowError("split_unknown", stated[:40])
        key = hashlib.blake2b(
            f"{self.seed}:{patient or figure_id}".encode(), digest_size=8
        ).digest()
        split = _SPLITS[stated] if stated else _draw(int.from_bytes(key, "big") / 2**64)
        if patient:
            before, first = self.splits.setdefault(key.hex(), (split, number))
            if before is not split:
                raise DataError(
                    f"one patient is in {before} (row {first}) and in {split} (row {number}). "
                    "Give all rows of a patient one split, or leave the column out."
                )
        return split


def find_columns(
    names: Iterable[str], mapping: Mapping[str, str], *, where: Path
) -> dict[str, str]:
    """Return which column holds which field.

    Args:
        names: of the table's columns.
        mapping: field to column, as the user says; it wins.
        where: the table, for messages.

    Raises:
        DataError: a column that is named is not there, or none holds images or captions.
    """
    present = [name for name in names if isinstance(name, str)]
    plain = {_plain(name): name for name in reversed(present)}
    listed = ", ".join(present[:20])
    found: dict[str, str] = {}
    for name, column in mapping.items():
        if name not in COLUMNS:
            raise DataError(
                f"--column {name}={column}: no field {name!r}. It is one of {', '.join(COLUMNS)}."
            )
        if column not in present:
            raise DataError(f"no column {column!r}: {where}. It has {listed}.")
        found[name] = column
    for name, spellings in COLUMNS.items():
        column_or_none = next((plain[_plain(s)] for s in spellings if _plain(s) in plain), None)
        if name not in found and column_or_none is not None:
            found[name] = column_or_none
    for name in ("image", "caption"):
        if name not in found:
            raise DataError(
                f"no column for the {name}: {where}. It has {listed}. "
                f"Name it with --column {name}=COLUMN."
            )
    return found


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _draw(place: float) -> Split:
    if place < _TEST_SHARE:
        return Split.TEST
    return Split.VALIDATION if place < _TEST_SHARE + _VALIDATION_SHARE else Split.TRAIN


def _modality(value: Any) -> Modality:  # noqa: ANN401 - any cell
    return _MODALITIES.get(_plain(value) if isinstance(value, str) else "", Modality.OTHER)
