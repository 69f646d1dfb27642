from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medllava.records import FigureRecord


@pytest.fixture
def make_figure() -> Callable[..., FigureRecord]:
    def make(number: int = 1, **changes: object) -> FigureRecord:
        values = {
            "figure_id": f"PMC{number}.1/f1",
            "pmcid": f"PMC{number}",
            "version": 1,
            "label": "Figure 1",
            "caption": "Axial CT of the chest.",
            "images": [f"images/{number}.png"],
            "license": "CC BY",
            **changes,
        }
        return FigureRecord.from_json(values, where="test")

    return make


@pytest.fixture
def figures_dir(tmp_path: Path) -> Callable[..., Path]:
    def write(*figures: FigureRecord, rows_per_group: int = 3) -> Path:
        folder = tmp_path / "figures"
        folder.mkdir(exist_ok=True)
        table = pa.Table.from_pylist([figure.to_json() for figure in figures])
        pq.write_table(table, folder / "figures.parquet", row_group_size=rows_per_group)
        return folder

    return write
