"""A folder of DICOM files as rows of a table: one row a series, with evenly spaced slices.

Headers are read, series put together and slices put in order; of each series a few slices become
pictures. A CT slice is shown through three windows at once, one a channel: lung, soft tissue and
brain are all seen. Which slices and windows were taken goes into the row. Names, dates and
numbers of patients stay in the files: the row has a series' own digest for an id, and the patient
only for the split.

Source of the three windows: MedGemma 1.5's model card, CT pre-processing.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from medllava.errors import DataError, SetupError
from medllava.images.dicom import is_dicom
from medllava.images.load import load_image
from medllava.images.windowing import Window

SLICES = 8
"""Most pictures of one series."""
CT_WINDOWS: tuple[Window, ...] = ((0.0, 2048.0), (40.0, 350.0), (40.0, 80.0))
"""Center and width of everything, soft tissue and brain, in Hounsfield units: red, green, blue."""
_HEAD_BYTES = 1024
_TAGS = [
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "PatientID",
    "Modality",
    "BodyPartExamined",
    "SeriesDescription",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "InstanceNumber",
    "NumberOfFrames",
]
_NAMES = {
    "CT": ("CT scan", "ct"),
    "MR": ("MRI", "mri"),
    "CR": ("X-ray", "other"),
    "DX": ("X-ray", "other"),
    "US": ("ultrasound image", "other"),
    "MG": ("mammogram", "other"),
    "PT": ("PET scan", "other"),
    "NM": ("scintigram", "other"),
}


def find_dicom(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder and below, told by their content."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in ("", ".dcm", ".dicom", ".ima") and file.is_file():
            with file.open("rb") as handle:
                if is_dicom(handle.read(_HEAD_BYTES)):
                    found.append(file)
    return found


def iter_series(files: list[Path], folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a row for every series: pictures as PNG bytes, and the caption there is for it.

    The caption is that of a text file beside the first slice, or of the series' folder
    (`report.txt`); else what the tags say of modality and body part. A series that cannot be read
    has no picture and says why.

    Raises:
        SetupError: pydicom is not installed.
    """
    series: dict[str, list[tuple[tuple[float, int], Path, Any]]] = defaultdict(list)
    for file in files:
        header = _read_header(file)
        if header is None:
            yield {"id": _digest(str(file.relative_to(folder))), "error": "no DICOM header"}
            continue
        uid = str(header.get("SeriesInstanceUID") or file)
        series[uid].append((_place(header), file, header))
    for uid, members in series.items():
        members.sort(key=lambda member: (member[0], str(member[1])))
        chosen = [members[i] for i in _evenly(len(members), SLICES)]
        header = members[0][2]
        code = str(header.get("Modality") or "")
        try:
            images = [{"bytes": _picture(file, code)} for _, file, _ in chosen]
        except DataError as error:
            yield {"id": _digest(uid), "error": str(error)}
            continue
        yield {
            "id": _digest(uid),
            "image": images,
            "caption": _caption(members[0][1], header, code, len(members)),
            "patient": str(header.get("PatientID") or ""),
            "modality": _NAMES.get(code, ("", "other"))[1],
            "series": {
                "slices": len(members),
                "chosen": [i + 1 for i in _evenly(len(members), SLICES)],
                "windows": [list(window) for window in CT_WINDOWS] if code == "CT" else [],
            },
        }


def _read_header(file: Path) -> Any:  # noqa: ANN401 - pydicom is untyped
    """Return a file's header, None where it has none that can be read."""
    try:
        import pydicom  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError("DICOM needs pydicom. Install it: pip install 'medllava[dicom]'") from None
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    except Exception:  # noqa: BLE001 - a damaged file raises anything; it becomes a rejected row
        return None


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


def _evenly(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` numbers, evenly spaced, both ends among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _picture(file: Path, code: str) -> bytes:
    """Return a slice as PNG; CT through three windows, one a channel."""
    if code == "CT":
        channels = [load_image(file, window=window).convert("L") for window in CT_WINDOWS]
        image = Image.merge("RGB", channels)
    else:
        image = load_image(file)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _caption(file: Path, header: Any, code: str, slices: int) -> str:  # noqa: ANN401 - as above
    for text in (file.with_suffix(".txt"), file.parent / "report.txt"):
        if text.is_file():
            return text.read_text(encoding="utf-8", errors="replace").strip()
    name = _NAMES.get(code, ("", ""))[0]
    part = str(header.get("BodyPartExamined") or "").strip().lower()
    if not name:
        return ""
    about = f" of the {part}" if part else ""
    return f"{name}{about}." if slices == 1 else f"{name}{about}, {slices} slices."


def _digest(text: str) -> str:
    return "series-" + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
