"""Figures and instructions pushed as data sets, and read back by `datasets`."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_loopback import connected_hub
from PIL import Image

from medllava.errors import DataError
from medllava.hub.config import PushConfig
from medllava.hub.push import push
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.pixels import has_reader
from medllava.records import FigureRecord, InstructionRecord, Modality, Split, Stage, Turn

SOURCES = [{"name": "pixels", "version": "2.0", "license": "BSD-3-Clause", "note": "slides"}]
LICENSES = ["CC BY", "CC0", "CC BY-NC", "CC BY-ND", None, "TDM", "CC BY", "CC BY"]
FLAGS = [None] * 6 + ["reproduced with permission", None]
RETRACTED = [False] * 7 + [True]


@pytest.fixture
def figures(tmp_path) -> Path:
    folder = tmp_path / "figures"
    (folder / "images").mkdir(parents=True)
    records = []
    for i, (license_code, flag, is_retracted) in enumerate(
        zip(LICENSES, FLAGS, RETRACTED, strict=True)
    ):
        Image.new("RGB", (8 + i, 8), (30 * i, 0, 0)).save(folder / f"images/{i}.png")
        records.append(
            FigureRecord(
                figure_id=f"PMC{i}.1/f1",
                pmcid=f"PMC{i}",
                version=1,
                caption=f"Caption {i}, with H\u2082O.",
                in_text_mentions=(f"See Figure {i}.",),
                images=(f"images/{i}.png",),
                modality=Modality.CT,
                license=license_code,
                license_url="https://creativecommons.org/licenses/by/4.0/" if i == 0 else None,
                rights_flag=flag,
                is_retracted=is_retracted,
                citation=f"Author {i}. Journal.",
                sha256=("ab",),
                source_md5=("cd",),
                split=Split.TEST if i == 1 else Split.TRAIN,
            )
        )
    pq.write_table(pa.Table.from_pylist([r.to_json() for r in records]), folder / "figures.parquet")
    (folder / "summary.json").write_text(json.dumps({"sources": SOURCES}))
    return folder


@pytest.fixture
def instructions(figures) -> Path:
    folder = figures.parent / "instructions"
    folder.mkdir()
    lines = [instruction(i, Stage.INSTRUCT) for i in range(len(LICENSES))]
    lines.append(instruction(3, Stage.ALIGN))
    text = "".join(json.dumps(record.to_json()) + "\n" for record in lines)
    (folder / "instructions.jsonl").write_text(text)
    (folder / "summary.json").write_text(json.dumps({"image_dir": "../figures"}))
    return folder


def instruction(i: int, stage: Stage) -> InstructionRecord:
    return InstructionRecord(
        record_id=f"{stage.value}-{i}",
        images=(f"images/{i}.png",),
        turns=(
            Turn(role="user", content="<image>\nWhat is this?"),
            Turn(role="assistant", content="A CT image."),
        ),
        stage=stage,
        teacher="template",
        figure_id=f"PMC{i}.1/f1",
        modality=Modality.CT,
        license=LICENSES[i],
        provenance={"prompt": "v1", "folder": "/home/alice/run 1"},
    )


def dry_run(folder: Path, **changes):
    return push(PushConfig(folder=folder, repo_id="tester/data", dry_run=True, **changes))


def read_back(folder: Path, cache: Path):
    from datasets import load_dataset

    return load_dataset(str(folder), cache_dir=str(cache))


def test_figures_read_back_with_their_pixels_license_and_credit(figures, tmp_path):
    summary = dry_run(figures)
    assert summary.counts["rows"] == 4
    assert summary.details["left_out_by_reason"] == {
        "license unknown": 1,
        "license text and data mining only forbids it": 1,
        "the figure has rights of its own": 1,
        "retracted": 1,
    }
    rows = read_back(figures / "push", tmp_path / "cache")
    assert {name: len(split) for name, split in rows.items()} == {"train": 3, "test": 1}
    first = rows["train"][0]
    assert first["figure_id"] == "PMC0.1/f1"
    assert first["caption"] == "Caption 0, with H\u2082O."
    assert first["images"][0].size == (8, 8)
    assert first["license"] == "CC BY"
    assert first["citation"] == "Author 0. Journal."


def test_repository_reads_back_and_pushing_again_sends_nothing(figures, tmp_path, monkeypatch):
    config = PushConfig(folder=figures, repo_id="tester/data", shard_bytes=1)
    with connected_hub(tmp_path / "hub", monkeypatch) as hub:
        assert push(config).details["changed"]
        assert not push(config).details["changed"]
        fewer = pq.read_table(figures / "figures.parquet").slice(0, 2)
        pq.write_table(fewer, figures / "figures.parquet")
        push(config)
        repository = hub.branch("tester/data", kind="datasets")
    rows = read_back(repository, tmp_path / "cache")
    assert {name: len(split) for name, split in rows.items()} == {"train": 1, "test": 1}


def test_image_bytes_are_those_of_the_folder(figures, tmp_path):
    dry_run(figures)
    table = pq.read_table(figures / "push/data/train-00000.parquet")
    stored = table["images"].to_pylist()[0][0]["bytes"]
    assert stored == (figures / "images/0.png").read_bytes()


def test_conversations_about_figures_that_forbid_adaptation_stay_out(instructions, tmp_path):
    summary = dry_run(instructions)
    rows = read_back(instructions / "push", tmp_path / "cache")["train"]
    assert rows["record_id"][:] == ["instruct-0", "instruct-1", "instruct-2", "align-3"]
    assert summary.details["left_out_by_reason"]["license CC BY-ND forbids it"] == 1
    first = rows[0]
    assert first["messages"][1] == {"role": "assistant", "content": "A CT image."}
    assert isinstance(first["images"][0], Image.Image)
    assert first["license_url"].endswith("/by/4.0/")
    assert json.loads(first["provenance"]) == {"prompt": "v1", "folder": "run 1"}


def test_card_names_counts_sources_and_what_was_left_out(figures):
    dry_run(figures)
    card = (figures / "push/README.md").read_text()
    assert "license: cc-by-nd-4.0" in card
    assert "path: data/train-*.parquet" in card
    assert "| pixels 2.0 | BSD-3-Clause | slides |" in card
    assert "| retracted | 1 |" in card
    credit = (figures / "push/ATTRIBUTION.md").read_text()
    assert "- PMC0.1/f1: Author 0. Journal.; CC BY; https://" in credit
    assert "PMC6.1" not in credit


def test_shards_split_by_bytes_and_writing_again_gives_the_same_bytes(figures):
    dry_run(figures, shard_bytes=1)
    first = {path.name: path.read_bytes() for path in (figures / "push/data").iterdir()}
    dry_run(figures, shard_bytes=1)
    assert {path.name: path.read_bytes() for path in (figures / "push/data").iterdir()} == first


def test_missing_image_is_named(figures):
    (figures / "images/1.png").unlink()
    with pytest.raises(DataError, match=r"PMC1.1/f1 has no image"):
        dry_run(figures)
    assert not (figures / "push").exists()


def test_image_outside_the_folder_is_refused(figures):
    table = pq.read_table(figures / "figures.parquet").to_pylist()
    table[0]["images"] = ["../secret.png"]
    (figures.parent / "secret.png").write_bytes(b"x")
    pq.write_table(pa.Table.from_pylist(table), figures / "figures.parquet")
    with pytest.raises(DataError, match="leaves its folder"):
        dry_run(figures)


def test_token_in_a_row_stops_the_push(figures):
    table = pq.read_table(figures / "figures.parquet").to_pylist()
    table[0]["caption"] = "hf_" + "a" * 34
    pq.write_table(pa.Table.from_pylist(table), figures / "figures.parquet")
    with pytest.raises(DataError, match=r"PMC0.1/f1 holds a Hugging Face token"):
        dry_run(figures)


def test_nothing_publishable_is_an_error_with_the_reasons(figures):
    rows = pq.read_table(figures / "figures.parquet").to_pylist()[4:6]
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    with pytest.raises(DataError, match="1 license unknown"):
        dry_run(figures)


def test_broken_parquet_is_named(figures):
    (figures / "figures.parquet").write_bytes(io.BytesIO(b"PAR1 nonsense").getvalue())
    with pytest.raises(DataError, match="not a Parquet file"):
        dry_run(figures)


def own_figures(figures: Path, *, caption: str = "A plain one.") -> Path:
    """Make the first figure the user's own."""
    rows = pq.read_table(figures / "figures.parquet").to_pylist()
    rows[0] |= {"license": "own", "license_url": None, "caption": caption}
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    return figures


def test_own_rows_go_to_a_private_repository_only(figures):
    own_figures(figures)
    assert dry_run(figures, privacy=PrivacyMode.OFF).counts["rows"] == 4
    public = dry_run(figures, private=False)
    assert public.counts["rows"] == 3
    assert public.details["left_out_by_reason"]["license own data forbids it"] == 1


def test_own_rows_are_refused_by_a_repository_that_everyone_sees(figures, tmp_path, monkeypatch):
    own_figures(figures)
    config = PushConfig(folder=figures, repo_id="tester/data", privacy=PrivacyMode.OFF)
    with connected_hub(tmp_path / "hub", monkeypatch) as hub:
        push(config)
        (hub.root / "datasets/tester/data/visibility").write_text("public")
        with pytest.raises(DataError, match="everyone sees the repository tester/data"):
            push(config)


@pytest.mark.skipif(not has_reader(), reason="the extra ocr is not installed")
def test_own_rows_pass_the_privacy_gate_before_they_are_packed(figures):
    own_figures(figures, caption="The chest of Mrs. Lindqvist.")
    with pytest.raises(DataError, match=r"1 of 4 items may tell who a patient is"):
        dry_run(figures)
    assert not (figures / "push").exists()
    assert "Lindqvist" not in (figures / "privacy.html").read_text()
    assert dry_run(figures, privacy=PrivacyMode.REPORT).counts["rows"] == 4
    assert not list((figures / "push").rglob("privacy*"))
