"""A folder of DICOM files as rows of a table: one row a series, with evenly spaced slices.

How files become series and slices pictures is decided in `images.series`; here are the row's other
columns. Which slices and windows were taken goes into the row. Names, dates and numbers of patients
stay in the files: the row has a series' own digest for an id, and the patient only for the split.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from medllava.errors import DataError
from medllava.images.load import read_series
from medllava.images.series import Series, find_series

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


def iter_series(files: list[Path], folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a row for every series: pictures as PNG bytes, and the caption there is for it.

    The caption is that of a text file beside the first slice, or of the series' folder
    (`report.txt`); else what the tags say of modality and body part. A series that cannot be read
    has no picture and says why.

    Raises:
        SetupError: pydicom is not installed.
    """
    for series in find_series(files):
        if isinstance(series, Path):
            name = str(series.relative_to(folder))
            number = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
            yield {"id": f"series-{number}", "error": "no DICOM header"}
            continue
        try:
            images = [{"bytes": _png(image)} for image in read_series(series)]
        except DataError as error:
            yield {"id": series.series_id, "error": str(error)}
            continue
        yield {
            "id": series.series_id,
            "image": images,
            "caption": _caption(series),
            "patient": series.patient,
            "modality": _NAMES.get(series.modality, ("", "other"))[1],
            "series": {
                "slices": len(series.slices),
                "chosen": [number + 1 for number in series.chosen()],
                "windows": [list(window) for window in series.windows or ()],
            },
        }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _caption(series: Series[Path]) -> str:
    file = series.slices[0].file
    for text in (file.with_suffix(".txt"), file.parent / "report.txt"):
        if text.is_file():
            return text.read_text(encoding="utf-8", errors="replace").strip()
    name = _NAMES.get(series.modality, ("", ""))[0]
    if not name:
        return ""
    about = f"{name} of the {series.body_part}" if series.body_part else name
    count = len(series.slices)
    return f"{about}." if count == 1 else f"{about}, {count} slices."
