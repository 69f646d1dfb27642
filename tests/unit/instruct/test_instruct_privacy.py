"""The privacy gate before instructions are made: nothing is sent or written before it passed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.errors import DataError, SetupError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.privacy import gate
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.pixels import has_reader
from medllava.progress import SilentProgress
from medllava.records import FigureRecord, Stage

needs_reader = pytest.mark.skipif(not has_reader(), reason="the extra ocr is not installed")


def figures_in(folder: Path, *, caption: str, words: str = "", license_: str = "own") -> Path:
    """Two figures: the first bears `words` in its pixels and has `caption`, the second is clean."""
    (folder / "images").mkdir(parents=True)
    records = []
    for number, text in enumerate((caption, "An axial CT slice of the liver.")):
        image = Image.effect_noise((240, 240), 20).convert("RGB")
        if words and number == 0:
            face = ImageFont.load_default(16)
            ImageDraw.Draw(image).text((20, 110), words, fill="white", font=face)
        image.save(folder / "images" / f"{number}.png")
        records.append(
            FigureRecord(
                figure_id=f"f{number}",
                pmcid="PMC1",
                version=1,
                caption=text,
                images=(f"images/{number}.png",),
                license=license_,
            ).to_json()
        )
    pq.write_table(pa.Table.from_pylist(records), folder / "figures.parquet")
    return folder


def config(figures: Path, output_dir: Path, **changes: object) -> GenerateConfig:
    return GenerateConfig(
        figures=figures,
        output_dir=output_dir,
        stage=Stage.ALIGN,
        split=None,
        **changes,  # type: ignore[arg-type]
    )


@needs_reader
def test_own_data_with_a_name_stop_the_run_before_anything_is_written(tmp_path: Path):
    figures = figures_in(tmp_path / "in", caption="Chest of Mrs. Lindqvist.")
    with pytest.raises(DataError, match=r"1 of 2 items may tell who a patient is \(1 name\)"):
        generate_instructions(config(figures, tmp_path / "out"))
    assert not (tmp_path / "out" / "instructions.jsonl").exists()
    lines = [json.loads(line) for line in (tmp_path / "out" / "privacy.jsonl").open()]
    assert [bool(line["texts"]) for line in lines] == [True, False]
    assert "Lindqvist" not in (tmp_path / "out" / "privacy.jsonl").read_text()
    assert "Lindqvist" not in (tmp_path / "out" / "privacy.html").read_text()


def test_figures_of_a_published_archive_are_not_looked_at_and_it_is_said(tmp_path: Path):
    told: list[str] = []

    class Notes(SilentProgress):
        def note(self, message: str) -> None:
            told.append(message)

    figures = figures_in(tmp_path / "in", caption="Chest of Mrs. Lindqvist.", license_="CC BY")
    summary = generate_instructions(config(figures, tmp_path / "out"), progress=Notes())
    assert 2 in summary.counts.values()
    assert any("privacy gate off" in note for note in told)
    assert not (tmp_path / "out" / "privacy.jsonl").exists()


@needs_reader
def test_mask_paints_over_and_the_instructions_are_made_of_the_copy(tmp_path: Path):
    figures = figures_in(
        tmp_path / "in", caption="Chest of Mrs. Lindqvist.", words="LINDQVIST 1961-02-03"
    )
    out = tmp_path / "out"
    summary = generate_instructions(config(figures, out, privacy=PrivacyMode.MASK))
    assert summary.complete
    said = (out / "instructions.jsonl").read_text()
    assert "Lindqvist" not in said
    assert "[removed]" in said
    masked = json.loads((out / "summary.json").read_text())
    assert "privacy" in json.dumps(masked)
    assert gate.TextFinder().find(Image.open(out / "privacy/images/0.png").convert("RGB")) == []
    clean = np.asarray(Image.open(out / "privacy/images/1.png"))
    assert np.array_equal(clean, np.asarray(Image.open(figures / "images/1.png")))
    assert gate.TextFinder().find(Image.open(figures / "images/0.png").convert("RGB")) != []


@needs_reader
def test_a_second_look_reads_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures = figures_in(tmp_path / "in", caption="A plain one.")
    check = config(figures, tmp_path / "out", check_privacy=True)
    assert generate_instructions(check).counts["items_with_findings"] == 0
    looked: list[str] = []
    look = gate._look
    monkeypatch.setattr(
        gate, "_look", lambda item, finder: looked.append(item.item_id) or look(item, finder)
    )
    generate_instructions(check)
    assert looked == []
    Image.new("RGB", (50, 50)).save(figures / "images/1.png")
    generate_instructions(check)
    assert looked == ["f1"]


def test_without_the_reader_pixels_are_never_called_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gate, "has_reader", lambda: False)
    figures = figures_in(tmp_path / "in", caption="A plain one.", words="LINDQVIST")
    with pytest.raises(SetupError, match="were not looked at for burned-in text"):
        generate_instructions(config(figures, tmp_path / "a"))
    summary = generate_instructions(
        config(figures, tmp_path / "b", check_privacy=True, privacy=PrivacyMode.REPORT)
    )
    assert not summary.complete
    assert summary.counts["images_without_a_look_at_pixels"] == 2
    assert "NOT looked at" in (tmp_path / "b" / "privacy.html").read_text()


@needs_reader
def test_a_picture_that_does_not_open_is_named_and_not_clean(tmp_path: Path):
    figures = figures_in(tmp_path / "in", caption="A plain one.")
    (figures / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"1 pictures could not be looked at.*1\.png"):
        generate_instructions(config(figures, tmp_path / "out"))


@needs_reader
def test_names_in_dicom_tags_stop_the_run_and_mask_leaves_none(tmp_path: Path):
    pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    figures = figures_in(tmp_path / "in", caption="A plain one.", license_="CC BY")
    source = get_testdata_file("MR_small.dcm", download=False)
    shutil.copy(source, figures / "images" / "0.dcm")
    rows = pq.read_table(figures / "figures.parquet").to_pylist()
    rows[0]["images"] = ["images/0.dcm"]
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    with pytest.raises(DataError, match="1 tag"):
        generate_instructions(config(figures, tmp_path / "a"))
    generate_instructions(config(figures, tmp_path / "b", privacy=PrivacyMode.MASK))
    assert not list((tmp_path / "b").rglob("*.dcm"))
    assert (tmp_path / "b" / "privacy" / "images" / "0.png").is_file()


@needs_reader
def test_the_command_stops_with_exit_4_and_looks_alone_without_a_stage(tmp_path: Path):
    figures = figures_in(tmp_path / "in", caption="Chest of Mrs. Lindqvist.")
    base = ["generate-instructions", str(figures), "--split", "all", "--json", "-o"]
    run = CliRunner().invoke(app, [*base, str(tmp_path / "a"), "--stage", "align"])
    assert run.exit_code == 4
    alone = [*base, str(tmp_path / "b"), "--check-privacy", "--privacy", "report"]
    run = CliRunner().invoke(app, alone)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["summary"]["items_with_findings"] == 1
    run = CliRunner().invoke(app, [*base, str(tmp_path / "c")])
    assert run.exit_code == 2


@needs_reader
def test_looking_alone_looks_at_every_split(tmp_path: Path):
    figures = figures_in(tmp_path / "in", caption="Chest of Mrs. Lindqvist.")
    rows = pq.read_table(figures / "figures.parquet").to_pylist()
    rows[0]["split"] = "test"
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    check = ["generate-instructions", str(figures), "--check-privacy", "-o", str(tmp_path / "out")]
    run = CliRunner().invoke(app, check)
    assert run.exit_code == 4
    assert "1 of 2 items" in run.stderr
