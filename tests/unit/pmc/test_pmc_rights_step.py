"""The step on one article whose figures have rights of their own."""

from pathlib import Path

import pyarrow.parquet as pq
from pmc_bucket import picture

from medllava.pmc.config import FetchConfig
from medllava.pmc.fetch import fetch_figures

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pmc"


def test_credit_lines_and_permissions_decide_figure_by_figure(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "PMC990001.xml").write_bytes((FIXTURES / "rights_attrib.xml").read_bytes())
    for number in (1, 2, 3):
        (source / f"f{number}.jpg").write_bytes(picture(number, kind="JPEG"))
    fetch_figures(FetchConfig(output_dir=tmp_path / "out", inputs=(source,)))
    (kept,) = pq.read_table(tmp_path / "out" / "figures.parquet").to_pylist()
    assert kept["figure_id"] == "PMC990001.1/F3"
    assert (kept["license"], kept["rights_flag"]) == ("CC BY", None)
    assert "creativecommons.org/licenses/by/4.0" in kept["license_basis"]
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {row["key"][-2:]: row["reason"] for row in rejected} == {
        "F1": "third-party",
        "F2": "third-party",
    }
    assert "Reproduced with permission from Elsevier" in rejected[0]["detail"]
    assert "2016 Elsevier" in rejected[1]["detail"]
