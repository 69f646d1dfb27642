"""DICOM files of a folder put together to series, their slices in order; no pixels are read.

Headers are read, files of one series brought together and put in order along the normal of their
planes; a file of several frames is a series by itself. Which slices stand for a series, and that a
CT slice is shown through three windows at once, one a channel, is decided here for every door.

Source of the three windows: MedGemma 1.5's model card, CT pre-processing.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from medllava.errors import SetupError
from medllava.images.dicom import INSTALL, is_dicom
from medllava.images.windowing import Window

SLICES = 8
"""Most pictures of one series."""
CT_WINDOWS: tuple[Window, Window, Window] = ((0.0, 2048.0), (40.0, 350.0), (40.0, 80.0))
"""Center and width of everything, soft tissue and brain, in Hounsfield units: red, green, blue."""
_HEAD_BYTES = 1024
_SUFFIXES = frozenset(("", ".dcm", ".dicom", ".ima"))
_TAGS = [
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "BodyPartExamined",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "InstanceNumber",
    "NumberOfFrames",
]


F = TypeVar("F", Path, bytes)
"""A file by its path, or its bytes where it is on no disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Generic[F]):
    """One picture of a series: a file, or a frame of it."""

    file: F
    frame: int | None = None
    """Of a file of several frames, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series(Generic[F]):
    """The slices of one series, in order."""

    series_id: str
    """A digest of the series' own number, which names nobody."""
    slices: tuple[Slice[F], ...]
    modality: str = ""
    """As DICOM codes it: CT, MR, ..."""
    body_part: str = ""
    patient: str = ""
    """To keep a patient in one split; never shown or written."""

    def chosen(self) -> list[int]:
        """Return the numbers of the slices that stand for it: evenly spaced, both ends in."""
        count = len(self.slices)
        if count <= SLICES:
            return list(range(count))
        return [round(i * (count - 1) / (SLICES - 1)) for i in range(SLICES)]

    @property
    def num_bytes(self) -> int:
        """What files in memory take; 0 for files on a disk."""
        files: list[object] = [one.file for one in self.slices]
        return sum(len(file) for file in files if isinstance(file, bytes))

    @property
    def windows(self) -> tuple[Window, Window, Window] | None:
        """The windows that are its channels; None where each file's own is taken."""
        return CT_WINDOWS if self.modality == "CT" else None


def find_dicom(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder and below, told by their content."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            with file.open("rb") as handle:
                if is_dicom(handle.read(_HEAD_BYTES)):
                    found.append(file)
    return found


def find_series(files: Sequence[F]) -> Iterator[Series[F] | F]:
    """Yield every file without a header that can be read, then the series of the others.

    Raises:
        SetupError: pydicom is not installed.
    """
    members: dict[str, list[tuple[tuple[float, int], str, F, Any]]] = defaultdict(list)
    for number, file in enumerate(files):
        name = str(file) if isinstance(file, Path) else f"{number:06}"
        header = _read_header(file)
        if header is None:
            yield file
            continue
        frames = int(header.get("NumberOfFrames") or 1)
        uid = str(header.get("SeriesInstanceUID") or name) if frames == 1 else name
        members[uid].append((_place(header), name, file, header))
    for uid, found in members.items():
        found.sort(key=lambda member: member[:2])
        header = found[0][3]
        frames = int(header.get("NumberOfFrames") or 1)
        yield Series(
            series_id="series-" + hashlib.blake2b(uid.encode(), digest_size=6).hexdigest(),
            slices=tuple(
                [Slice(file=found[0][2], frame=frame) for frame in range(frames)]
                if frames > 1
                else [Slice(file=file) for _, _, file, _ in found]
            ),
            modality=str(header.get("Modality") or ""),
            body_part=str(header.get("BodyPartExamined") or "").strip().lower(),
            patient=str(header.get("PatientID") or ""),
        )


def _read_header(file: Path | bytes) -> Any:  # noqa: ANN401 - pydicom is untyped
    """Return a file's header, None where it has none that can be read."""
    try:
        import pydicom  # noqa: PLC0415 - an extra
    except ImportError:
        name = file if isinstance(file, Path) else "the files given"
        raise SetupError(f"reading DICOM needs an extra: {name}. Run: {INSTALL}") from None
    try:
        source = file if isinstance(file, Path) else io.BytesIO(file)
        header = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=list(_TAGS))
        _place(header), int(header.get("NumberOfFrames") or 1)
    except Exception:  # noqa: BLE001 - a damaged file raises anything; it is told by name
        return None
    return header


def _place(header: Any) -> tuple[float, int]:  # noqa: ANN401 - as above
    """Return where a slice stands along its series: the position along the normal, the number."""
    number = int(header.get("InstanceNumber") or 0)
    position, orientation = (
        header.get("ImagePositionPatient"),
        header.get("ImageOrientationPatient"),
    )
    if not position or not orientation or len(position) != 3 or len(orientation) != 6:
        return (0.0, number)
    a, b = [float(v) for v in orientation[:3]], [float(v) for v in orientation[3:]]
    normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    along = sum(float(p) * n for p, n in zip(position, normal, strict=True))
    return (round(along, 3), number)
