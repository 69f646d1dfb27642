"""A table to a figures folder inside the output, which the rest of the step reads as any other.

OUT/table/
figures.parquet   one FigureRecord a row, license and split in it
rejected.jsonl    rows that cannot be used: number, id, reason
summary.json      what the table was, and `image_dir`, where the pictures are
images/           only pictures that lay inside the table
"""

import dataclasses
import os
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medllava.data.benchmarks.files import store_image
from medllava.errors import DataError
from medllava.instruct.tables.columns import Columns, RowError, find_columns
from medllava.instruct.tables.rows import folder_of, holds_bytes, iter_table
from medllava.layout import FIGURES_FILE, SUMMARY_FILE
from medllava.progress import Progress
from medllava.records import FigureRecord
from medllava.store import atomic_path, contained_path, write_json, write_jsonl

TABLE_FOLDER = "table"
REJECTED_ROWS = "rejected.jsonl"
SERIES_FILE = "series.jsonl"
_TYPES: Mapping[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int32(),
    float: pa.float32(),
    bool: pa.bool_(),
}


def _arrow_type(hint: Any) -> pa.DataType:  # noqa: ANN401 - an annotation is any
    """Return the column type of a field; a tuple is a list, a choice is its text."""
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    kinds = [arg for arg in typing.get_args(hint) if arg is not NoneType]
    return _arrow_type(kinds[0]) if kinds else _TYPES.get(hint, pa.string())


_HINTS = typing.get_type_hints(FigureRecord)
_SCHEMA = pa.schema(
    [pa.field(f.name, _arrow_type(_HINTS[f.name])) for f in dataclasses.fields(FigureRecord)]
)
_BATCH = 1000


def import_table(
    table: Path,
    folder: Path,
    *,
    columns: Mapping[str, str],
    image_dir: Path | None,
    seed: int,
    progress: Progress,
) -> Path:
    """Write the figures folder of a table; return it.

    Args:
        table: file, folder or hub name.
        folder: to write.
        columns: field to column, where the table's own names do not say it.
        image_dir: of the pictures; None takes the table's folder.
        seed: of the splits.
        progress: told of every row.

    Raises:
        DataError: the table cannot be read, a column is missing, a patient is in two splits, or no
            row can be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = image_dir or folder_of(table)
    rows = iter_table(table)
    first = next(rows, None)
    if first is None:
        raise DataError(f"no rows: {table}. Check that it is the right file.")
    names = find_columns(_column_names(first[1]), columns, where=table)
    reader = Columns(names=names, image_dir=root, seed=seed)
    own = Columns(names=names, image_dir=folder, seed=seed) if holds_bytes(table) else None
    rejected: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    progress.start("reading the table")

    def figures() -> Iterator[FigureRecord]:
        for number, row in chain([first], rows):
            progress.advance()
            default_id = f"{table.name}#{number}"
            if "series" in row:
                series.append({"figure_id": row["id"], **row["series"]})
            try:
                if own is None:
                    yield reader.read(row, number, default_id=default_id)
                else:
                    yield own.read(
                        _take_out(row, names, root, folder), number, default_id=default_id
                    )
            except RowError as error:
                entry = {
                    "row": number,
                    "figure_id": str(row.get(names.get("id", "")) or default_id),
                }
                rejected.append({**entry, "reason": error.reason, "detail": error.detail})

    used = _write_figures(folder / FIGURES_FILE, figures())
    write_jsonl(folder / REJECTED_ROWS, rejected)
    if series:
        write_jsonl(folder / SERIES_FILE, series)
    reasons = Counter(entry["reason"] for entry in rejected)
    if not used:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise DataError(
            f"no usable row: {table} ({counted}; the first is row {rejected[0]['row']} "
            f"{rejected[0]['detail']}). Check --column and --image-dir."
        )
    if "patient" not in names:
        progress.note(
            "no column names the patient, so splits go by picture: pictures of one patient may be "
            "in train and test. Name it with --column patient=COLUMN."
        )
    images = folder if own else root
    write_json(
        folder / SUMMARY_FILE,
        {
            "table": str(table),
            "image_dir": os.path.relpath(images.resolve(), folder.resolve()),
            "columns": dict(names),
            "split_by": "patient" if "patient" in names else "picture",
            "counts": {"figures": used, "rejected": len(rejected)},
            "rejected_by_reason": dict(reasons),
        },
    )
    return folder


def _take_out(
    row: Mapping[str, Any], names: Mapping[str, str], root: Path, folder: Path
) -> dict[str, Any]:
    """Write the pictures that lie in a row, or copy the files it names, and put their names in."""
    if "error" in row:
        raise RowError("image_unreadable", str(row["error"]))
    value = row.get(names["image"])
    cells = value if isinstance(value, list) else [value]
    return {**row, names["image"]: [_store(cell, root, folder) for cell in cells if cell]}


def _store(cell: Any, root: Path, folder: Path) -> str:  # noqa: ANN401 - any cell
    data: Any = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if data is None and isinstance(cell, Mapping):
        data = cell.get("path")
    if isinstance(data, str):
        try:
            path = Path(data) if Path(data).is_absolute() else contained_path(root, data)
            data = path.read_bytes()
        except (OSError, ValueError, DataError):
            raise RowError("image_missing", str(cell)[:80]) from None
    if not isinstance(data, bytes):
        raise RowError("image_field", type(cell).__name__)
    return f"images/{store_image({'bytes': data}, folder / 'images')}"


def _write_figures(path: Path, figures: Iterator[FigureRecord]) -> int:
    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        batch: list[dict[str, Any]] = []
        for figure in figures:
            count += 1
            batch.append(figure.to_json())
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
                batch.clear()
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    return count


def _column_names(row: Mapping[str, Any]) -> list[str]:
    """Return a row's columns; those of a folder are known, whatever its first file gave."""
    folder = ("id", "image", "caption", "patient", "modality")
    return [*row, *(folder if "series" in row or "error" in row else ())]
