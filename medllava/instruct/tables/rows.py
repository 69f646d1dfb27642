"""Rows of a table, whatever holds it: CSV, TSV, JSON, JSONL, Parquet, `datasets`, or a folder.

A path or a hub name enters, (number, row) pairs leave, one at a time. What the columns mean is
decided in `columns`. A folder of pictures is a table of its files, with the captions of a
`metadata` file or of text files beside them.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.files import iter_rows
from medllava.data.layouts.items import iter_llava_items
from medllava.errors import DataError, RemoteError
from medllava.images.series import find_dicom
from medllava.instruct.tables.dicom_series import iter_series
from medllava.layout import FIGURES_FILE

Row = Mapping[str, Any]

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".json.gz", ".jsonl.gz")
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".dcm", ".nii")
)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "metadata.tsv")
"""Files that describe a folder of pictures, as `datasets` has them."""
_ON_DISK = ("dataset_dict.json", "dataset_info.json", "state.json")
_HUB = "hf:/"
"""What is left of `hf://` in a path."""


def is_table(path: Path) -> bool:
    """Tell a table or a folder of pictures from a figures folder and its manifest."""
    if path.is_dir():
        return not (path / FIGURES_FILE).is_file()
    is_named = path.name.lower().endswith(SUFFIXES) and path.name != FIGURES_FILE
    return is_named or hub_name(path) is not None


def hub_name(path: Path) -> str | None:
    """Return the data set that `hf://OWNER/NAME` names, None for a path."""
    text = path.as_posix()
    return text.removeprefix(_HUB).lstrip("/") if text.startswith(_HUB) else None


def holds_bytes(path: Path) -> bool:
    """Tell tables whose pictures lie in the rows themselves from those that name files."""
    if path.suffix == ".parquet" or hub_name(path) is not None or is_on_disk(path):
        return True
    return path.is_dir() and _metadata(path) is None and bool(find_dicom(path))


def is_on_disk(path: Path) -> bool:
    """Tell a folder that `datasets` wrote."""
    return path.is_dir() and any((path / name).is_file() for name in _ON_DISK)


def folder_of(path: Path) -> Path:
    """Return the folder that the image names of a table are relative to."""
    return path if path.is_dir() else path.parent


def iter_table(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row) of a table.

    Raises:
        DataError: nothing is there, or it cannot be read; names the file and the line.
        RemoteError: the hub cannot be reached.
    """
    if is_on_disk(path) or hub_name(path) is not None:
        yield from _iter_dataset(path)
    elif path.is_dir():
        metadata = _metadata(path)
        yield from _iter_folder(path) if metadata is None else iter_table(metadata)
    elif path.suffix.lower() in (".csv", ".tsv"):
        yield from _iter_delimited(path)
    elif path.suffix == ".parquet":
        yield from iter_rows(path)
    else:
        yield from iter_llava_items(path)


def _metadata(folder: Path) -> Path | None:
    return next((folder / n for n in _METADATA if (folder / n).is_file()), None)


def _iter_delimited(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of CSV or TSV; the delimiter is the one that the header uses."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            header = handle.readline()
            handle.seek(0)
            delimiter = max("\t,;", key=header.count)
            yield from enumerate(csv.DictReader(handle, delimiter=delimiter), start=1)
    except UnicodeDecodeError as error:
        byte = error.object[error.start : error.start + 1].hex()
        raise DataError(
            f"not UTF-8 (byte 0x{byte}, perhaps Latin-1): {path}. Save it as UTF-8."
        ) from None
    except csv.Error as error:
        raise DataError(f"not valid CSV ({error}): {path}. Check how it was made.") from None


def _iter_folder(folder: Path) -> Iterator[tuple[int, Row]]:
    """Yield the pictures of a folder and below, each with the text file of its name.

    DICOM files come first, put together to series.
    """
    dicom = find_dicom(folder)
    number = 0
    for number, row in enumerate(iter_series(dicom, folder), start=1):
        yield number, row
    taken = set(dicom)
    for file in sorted(folder.rglob("*")):
        if file not in taken and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
            number += 1
            text = file.with_suffix(".txt")
            row = {"image": file.relative_to(folder).as_posix()}
            row["id"] = row["image"]
            if text.is_file():
                row["caption"] = text.read_text(encoding="utf-8", errors="replace")
            yield number, row
    if number == 0:
        raise DataError(
            f"no figures, no table and no picture in it: {folder}. Name a figures folder of "
            "medllava fetch-pmc, a table, or a folder of pictures."
        )


def _iter_dataset(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a folder of `datasets`, or of a data set on the hub, split by split."""
    import datasets  # noqa: PLC0415 - costs a second, only for these tables
    from datasets.exceptions import DatasetsError  # noqa: PLC0415
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        HTTPError,  # httpx's or httpx2's
    )

    try:
        loaded = (
            datasets.load_from_disk(path)
            if path.exists()
            else datasets.load_dataset(str(hub_name(path)))
        )
    except (OSError, ValueError, ImportError, HTTPError, DatasetsError) as error:
        kind = DataError if path.exists() else RemoteError
        raise kind(
            f"cannot load the data set ({str(error)[:200]}): {path}. Check name and access."
        ) from None
    parts = loaded if isinstance(loaded, dict) else {None: loaded}
    number = 0
    for split, part in parts.items():
        for name, feature in part.features.items():
            if isinstance(feature, datasets.Image):
                part = part.cast_column(name, datasets.Image(decode=False))
        for row in part:
            number += 1
            yield number, row if split is None or "split" in row else {**row, "split": split}
