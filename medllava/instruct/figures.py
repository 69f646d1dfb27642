"""Stream figure records from a figures folder, in flat memory however many there are.

`figures.parquet` goes in, `FigureRecord`s come out: in the order of the manifest, or in turn from
each modality, so that a run that stops early has seen all of them.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medllava.data.sources import image_root
from medllava.errors import DataError
from medllava.layout import FIGURES_FILE
from medllava.records import FigureRecord, Modality, Split

_BATCH_ROWS = 1024


def manifest_path(figures: Path) -> Path:
    """Return the manifest of a figures folder, or the path itself if it is a file.

    Raises:
        DataError: there is none.
    """
    path = figures / FIGURES_FILE if figures.is_dir() else figures
    if not path.is_file():
        raise DataError(
            f"no figures: {path}. Make them with medllava fetch-pmc, or name a table of pictures "
            "and captions (CSV, TSV, JSON, JSONL, Parquet) or a folder of pictures."
        )
    return path


def figures_image_dir(figures: Path) -> Path:
    """Return the folder that the images of a figures folder are relative to."""
    return image_root(manifest_path(figures), None)


def count_figures(manifest: Path, *, split: Split | None) -> Counter[Modality]:
    """Count the figures of a split (None: of all) by modality."""
    counts: Counter[Modality] = Counter()
    for batch in _iter_batches(manifest, split=split, columns=["split", "modality"]):
        for entry in pc.value_counts(batch.column("modality")).to_pylist():
            counts[Modality(entry["values"])] += entry["counts"]
    return counts


def iter_figures(
    manifest: Path, *, split: Split | None, modality: Modality | None = None
) -> Iterator[FigureRecord]:
    """Yield figures in the order of the manifest.

    Args:
        manifest: a Parquet file with a column for each field of `FigureRecord`.
        split: only this part; None takes all.
        modality: only this kind; None takes all.

    Raises:
        DataError: the file is not Parquet or lacks a column.
        RecordError: a row breaks the schema; names its figure.
    """
    for batch in _iter_batches(manifest, split=split, modality=modality):
        for row in batch.to_pylist():
            where = f"{manifest}, figure {row.get('figure_id')}"
            values = {name: value for name, value in row.items() if value is not None}
            yield FigureRecord.from_json(values, where=where)


def iter_round_robin(
    manifest: Path, *, split: Split | None, limit: int | None
) -> Iterator[FigureRecord]:
    """Yield figures one modality after the other, each in the order of the manifest."""
    present = [m for m in Modality if count_figures(manifest, split=split)[m]]
    streams = [iter_figures(manifest, split=split, modality=m) for m in present]
    yield from islice(_in_turn(streams), limit)


def _in_turn(streams: list[Iterator[FigureRecord]]) -> Iterator[FigureRecord]:
    while streams:
        alive = []
        for stream in streams:
            figure = next(stream, None)
            if figure is not None:
                yield figure
                alive.append(stream)
        streams = alive


def _iter_batches(
    manifest: Path,
    *,
    split: Split | None,
    modality: Modality | None = None,
    columns: list[str] | None = None,
) -> Iterator[Any]:
    """Yield Arrow record batches of the rows that are asked for."""
    try:
        with pq.ParquetFile(manifest) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                mask = None
                for name, value in (("split", split), ("modality", modality)):
                    if value is not None:
                        matches = pc.equal(batch.column(name), pa.scalar(value.value))
                        mask = matches if mask is None else pc.and_(mask, matches)
                yield batch if mask is None else batch.filter(mask)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(
            f"not a usable figures manifest ({error}): {manifest}. Run medllava fetch-pmc again."
        ) from None
