"""Files of a local benchmark copy: which hold a split, what rows are in them, where images are.

JSON arrays, JSONL, CSV and Parquet become rows; images inside Parquet are written out once, named
by their content. Pickle, in which some copies circulate, is refused: opening one can run code.
"""

import base64
import binascii
import csv
import fnmatch
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.row_answers import Row
from medllava.data.layouts.items import iter_llava_items
from medllava.errors import DataError, RecordError
from medllava.store import iter_jsonl, read_json, write_bytes

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "trainset", "training"),
    "validation": ("validation", "val", "valid", "validate", "valset", "dev"),
    "test": ("test", "testset"),
}
"""Split to the file names it circulates under."""

_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
_TEXT_TABLE = ".txt"
"""Read only where a task says what its columns are."""
PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".npy"})
_IMAGE_FOLDERS = ("", "images", "imgs", "Images", "VQA_RAD Image Folder", "image", "figures")
_EXTENSIONS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif"}
_BATCH_ROWS = 256
_MAX_CELL_BYTES = 64 * 2**20
_BASE64_FROM = 200
"""A text so long without a point or a slash is a picture, not the name of one."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def split_files(folder: Path, split: str, patterns: Sequence[str] = ()) -> list[Path]:
    """Return the files of a folder that hold `split`, or an empty list.

    Args:
        folder: searched itself, then its `data` folder, then its direct subfolders.
        split: `train`, `validation`, `test`, or a name that only the task's patterns know.
        patterns: of the task, relative to the folder; they come before the usual names.
    """
    for pattern in patterns:
        known = (*_SUFFIXES, _TEXT_TABLE)
        found = sorted(path for path in folder.glob(pattern) if path.suffix in known)
        if found:
            return found
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, folder / "data", *below):
        for suffix in _SUFFIXES:
            found = [path for path in sorted(place.glob(f"*{suffix}")) if split_of(path) == split]
            if found:
                return found
    return []


def split_of(file: Path) -> str | None:
    """Return the split in a file's name, as `test.json` or `test-00000-of-00002.parquet`."""
    stem = file.stem.lower()
    for split, names in SPLITS.items():
        if stem in names or any(fnmatch.fnmatch(stem, f"{n}-?????-of-*") for n in names):
            return split
    return None


def refuse_pickle(path: Path, *, advice: str) -> None:
    """Refuse a pickle file, and a folder whose data are in nothing else.

    Raises:
        DataError: names the file and the way round.
    """
    pickles = find_pickles(path)
    if pickles:
        raise DataError(
            "its data are in a pickle, which is never opened because opening one can run code: "
            f"{pickles[0]}. {advice}"
        )


def find_pickles(path: Path) -> list[Path]:
    """Return `path` if it is a pickle, or the pickles in a folder and one level below."""
    if path.is_dir():
        found = [p for pattern in ("*", "*/*") for p in path.glob(pattern)]
        return sorted(p for p in found if p.suffix.lower() in PICKLE_SUFFIXES)
    return [path] if path.suffix.lower() in PICKLE_SUFFIXES else []


def iter_rows(file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row) of a JSON array, JSONL, CSV, TSV or Parquet file.

    Args:
        file: to read.
        columns: of a `.txt` file with `|` between fields.

    Raises:
        DataError: the file cannot be read, or is of another kind.
        RecordError: a row is not an object; names file and row.
    """
    if file.suffix == ".jsonl":
        yield from iter_jsonl(file)
    elif file.suffix == ".json":
        try:
            yield from iter_llava_items(file)
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error}): {file}. Check how it was made.") from None
    elif file.suffix in (".csv", ".tsv"):
        yield from _iter_csv(file, delimiter="," if file.suffix == ".csv" else "\t")
    elif file.suffix == _TEXT_TABLE and columns:
        yield from _iter_text_table(file, columns)
    elif file.suffix == ".parquet":
        yield from _iter_parquet(file)
    else:
        raise DataError(f"not a JSON, JSONL, CSV or Parquet file: {file}. Convert it to one.")


def iter_lists_by_split(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row) of a JSON object that holds a list of rows under each split.

    Every row says its split, whether it did so itself or not.

    Raises:
        DataError: the file has another form.
    """
    found: Any = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
        raise DataError(f"not an object with a list for each split: {file}. Take R2Gen's file.")
    number = 0
    for split, rows in found.items():
        for row in rows:
            number += 1
            if not isinstance(row, dict):
                raise RecordError(f"expected a JSON object: {file}, {split}, row {number}.")
            yield number, {**row, "split": split}


def iter_records(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row) of a JSON object with a list `records`, or of a plain list.

    Raises:
        DataError: the file has another form.
    """
    found: Any = read_json(file)
    rows = found.get("records") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"no list of records: {file}. Take the benchmark's own file.")
    yield from enumerate(rows, start=1)


def find_image_folder(root: Path, images: Sequence[str]) -> Path | None:
    """Return the folder under `root` in which the first of the images are; None if nowhere."""
    for name in _IMAGE_FOLDERS:
        folder = root / name
        if folder.is_dir() and any((folder / image).is_file() for image in images[:5]):
            return folder
    return None


def store_images(row: Row, folder: Path) -> Row:
    """Write the images that lie in a row as bytes, under `image`, in a list, or numbered.

    Returns:
        The row with their names in their places; the row itself where it has none.
    """
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            found[key] = store_image(value, folder)
        elif isinstance(value, Mapping) and key == "image":
            found[key] = value.get("path")
        elif key == "image" and isinstance(value, str) and len(value) > _BASE64_FROM:
            found[key] = _store_base64(value, folder)
        elif isinstance(value, list) and any(
            isinstance(one, Mapping) and isinstance(one.get("bytes"), bytes) for one in value
        ):
            found[key] = [store_image(one, folder) for one in value]
    return {**row, **found} if found else row


def _store_base64(text: str, folder: Path) -> str:
    """Write a picture that stands in a cell as base64, as in VLMEvalKit's tables."""
    if not _BASE64.fullmatch(text):
        return text
    try:
        data = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return text
    return str(store_image({"bytes": data}, folder))


def store_image(value: Any, folder: Path) -> Any:  # noqa: ANN401 - JSON is any
    """Write an image that lies in a row as bytes; return its name, or `value` if it is none.

    Names come from the content, so an image that several rows repeat is one file and one image of
    the report.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("bytes"), bytes):
        return value.get("path") if isinstance(value, Mapping) else value
    data: bytes = value["bytes"]
    extension = next((e for magic, e in _EXTENSIONS.items() if data.startswith(magic)), ".img")
    name = hashlib.sha256(data).hexdigest()[:32] + extension
    target = folder / name
    if not target.is_file():
        write_bytes(target, data)
    return name


def _iter_text_table(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Yield the lines of a table without a heading; a column with `?` is not in every file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error}): {file}. Check how it was made.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            fields = [field.strip() for field in line.split("|")]
            names = [name for name in columns if len(fields) >= len(columns) or name[-1] != "?"]
            if len(fields) != len(names):
                raise RecordError(
                    f"{len(fields)} fields where {', '.join(columns)} stand: {file}, line {number}."
                )
            yield number, {name.rstrip("?"): f for name, f in zip(names, fields, strict=True)}


def _iter_csv(file: Path, *, delimiter: str) -> Iterator[tuple[int, Row]]:
    with file.open(newline="", encoding="utf-8-sig") as handle:
        try:
            csv.field_size_limit(_MAX_CELL_BYTES)  # pictures stand in cells, as base64
            yield from enumerate(csv.DictReader(handle, delimiter=delimiter), start=1)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"not valid CSV ({error}): {file}. Check how it was made.") from None


def _iter_parquet(file: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa  # noqa: PLC0415 - costs 0.2 s, only for Parquet
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not valid Parquet ({error}): {file}. Fetch it again.") from None
