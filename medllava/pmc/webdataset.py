"""The figures as tar shards for training that streams: `name.jpg` and `name.json` side by side.

Made from the finished manifest, in its order, without times or owners, so the same figures give the
same bytes. Every image is a sample of its own; its JSON is the figure's record.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medllava.layout import FIGURES_FILE
from medllava.store import atomic_path

SHARD_BYTES = 1_000_000_000
"""A shard is closed when it has grown beyond this."""


def write_webdataset(folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write `webdataset/00000.tar` and on, below the figures folder; return that folder."""
    target = folder / "webdataset"
    target.mkdir(exist_ok=True)
    samples = _iter_samples(folder)
    number = 0
    sample = next(samples, None)
    while sample is not None:
        with (
            atomic_path(target / f"{number:05d}.tar") as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard,
        ):
            while sample is not None and shard.offset < shard_bytes:
                for name, data in sample:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
                sample = next(samples, None)
        number += 1
    for stale in target.glob("*.tar"):
        if stale.stem.isdigit() and int(stale.stem) >= number:
            stale.unlink()
    return target


def _iter_samples(folder: Path) -> Iterator[list[tuple[str, bytes]]]:
    for batch in pq.ParquetFile(folder / FIGURES_FILE).iter_batches(batch_size=500):
        rows: list[dict[str, Any]] = batch.to_pylist()
        for row in rows:
            text = json.dumps(row, ensure_ascii=False).encode()
            for relative in row["images"]:
                # WebDataset cuts a name at its first dot: PMC1.2_f001_0 would collide.
                stem = Path(relative).stem.replace(".", "-")
                suffix = Path(relative).suffix
                yield [
                    (f"{stem}{suffix}", (folder / relative).read_bytes()),
                    (f"{stem}.json", text),
                ]
