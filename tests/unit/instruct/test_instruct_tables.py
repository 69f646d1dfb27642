"""Tables of one's own pictures: every form in, bad rows named, patients kept together."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medllava.data.layouts.write import FILES, Layout
from medllava.data.sources import image_root, iter_instruction_records
from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.privacy.findings import PrivacyMode
from medllava.records import Split, Stage

CAPTION = "Light micrograph of a blood smear with {} red blood cells."


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / f"{number}.png")
    return folder


def rows():
    return [
        {
            "image": f"{n}.png",
            "Findings": CAPTION.format(n + 1),
            "Patient ID": f"p{n // 3}",
            "modality": "histology",
        }
        for n in range(12)
    ]


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def generate(table, out, **changes):
    values = {"stage": Stage.ALIGN, "split": None} | changes
    values.setdefault("privacy", PrivacyMode.OFF)  # test_instruct_privacy looks at the gate
    return generate_instructions(GenerateConfig(figures=table, output_dir=out, **values))


def rejected(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").open()]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "datasets"])
def test_every_form_of_table_gives_the_same_records(pictures, tmp_path, kind):
    table = pictures / f"table.{kind}"
    if kind in ("csv", "tsv"):
        write_csv(table, rows(), "," if kind == "csv" else "\t")
    elif kind == "json":
        table.write_text(json.dumps(rows()))
    elif kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    elif kind == "parquet":
        packed = [
            r | {"image": {"bytes": (pictures / r["image"]).read_bytes(), "path": None}}
            for r in rows()
        ]
        pq.write_table(pa.Table.from_pylist(packed), table)
    else:
        table = tmp_path / "set"
        columns = {name: [row[name] for row in rows()] for name in rows()[0]}
        columns["image"] = [str(pictures / name) for name in columns["image"]]
        data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        data.save_to_disk(table)
    out = tmp_path / "out"
    summary = generate(table, out)
    assert summary.counts["records"] == 12
    records = list(iter_instruction_records(out))
    assert [record.turns[1].content for record in records] == [r["Findings"] for r in rows()]
    assert {record.license for record in records} == {"own"}
    assert {str(record.modality) for record in records} == {"histopathology"}
    root = image_root(out, None)
    for number, record in enumerate(records):
        with Image.open(root / record.images[0]) as image:
            assert image.getpixel((0, 0)) == (number * 20, 0, 0)
    by_patient = [{r.split for r in records[i : i + 3]} for i in range(0, 12, 3)]
    assert all(len(splits) == 1 for splits in by_patient)
    first = (out / "instructions.jsonl").read_bytes()
    generate(table, out)
    assert (out / "instructions.jsonl").read_bytes() == first


def test_splits_go_by_patient_and_come_near_their_shares(pictures, tmp_path):
    many = [
        {"id": f"{p}-{n}", "image": "0.png", "caption": "x", "patient": f"p{p}"}
        for p in range(300)
        for n in range(2)
    ]
    out = tmp_path / "out"
    generate(write_csv(pictures / "t.csv", many), out)
    records = list(iter_instruction_records(out))
    splits = {}
    for record in records:
        splits.setdefault(record.record_id.split("-")[0], set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    counts = [sum(r.split is split for r in records) / 600 for split in Split]
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_a_patient_in_two_splits_is_refused_with_the_rows(pictures, tmp_path):
    bad = [
        {"image": "0.png", "caption": "x", "patient": "p", "split": "train"},
        {"image": "1.png", "caption": "x", "patient": "q", "split": "test"},
        {"image": "2.png", "caption": "x", "patient": "p", "split": "test"},
    ]
    with pytest.raises(DataError, match=r"in train \(row 1\) and in test \(row 3\)"):
        generate(write_csv(pictures / "t.csv", bad), tmp_path / "out")


def test_bad_rows_are_rejections_with_number_id_and_reason(pictures, tmp_path):
    good = {
        "id": "a",
        "image": "0.png",
        "caption": "A cell.",
        "split": "train",
        "license": "CC0-1.0",
    }
    table = [
        good,
        good,
        good | {"id": "c", "image": "nowhere.png"},
        good | {"id": "d", "image": "../pictures/0.png"},
        good | {"id": "e", "image": "/etc/passwd"},
        good | {"id": "f", "caption": " "},
        good | {"id": "g", "image": ""},
        good | {"id": "h", "split": "seventh"},
        good | {"id": "", "image": str(pictures / "1.png")},
    ]
    out = tmp_path / "out"
    summary = generate(write_csv(pictures / "t.csv", table), out)
    assert [(r["row"], r["figure_id"], r["reason"]) for r in rejected(out)] == [
        (2, "a", "id_twice"),
        (3, "c", "image_missing"),
        (4, "d", "image_outside_folder"),
        (5, "e", "image_outside_folder"),
        (6, "f", "no_caption"),
        (7, "g", "no_image"),
        (8, "h", "split_unknown"),
    ]
    assert summary.counts["rejected"] == 7
    records = list(iter_instruction_records(out))
    assert [(r.record_id, r.images, r.license) for r in records] == [
        ("a", ("0.png",), "CC0-1.0"),
        ("t.csv#9", ("1.png",), "CC0-1.0"),
    ]


def test_columns_are_mapped_and_missing_ones_named(pictures, tmp_path):
    table = write_csv(pictures / "t.csv", [{"bild": "0.png", "Befund": "A cell."}])
    with pytest.raises(
        DataError, match=r"no column for the image: .*bild, Befund.*--column image="
    ):
        generate(table, tmp_path / "out")
    with pytest.raises(DataError, match="no column 'Bild'"):
        generate(table, tmp_path / "out", columns=(("image", "Bild"),))
    columns = (("image", "bild"), ("caption", "Befund"))
    assert generate(table, tmp_path / "out", columns=columns).counts["records"] == 1


def test_a_wrong_image_folder_says_so(pictures, tmp_path):
    table = write_csv(pictures / "t.csv", rows())
    with pytest.raises(DataError, match=r"no usable row: .*12 image_missing.*--image-dir"):
        generate(table, tmp_path / "out", image_dir=tmp_path)


def test_several_images_of_a_row_are_one_record(pictures, tmp_path):
    table = pictures / "t.jsonl"
    table.write_text(json.dumps({"images": ["0.png", "1.png"], "report": "Two views."}) + "\n")
    generate(table, tmp_path / "out")
    (record,) = iter_instruction_records(tmp_path / "out")
    assert record.images == ("0.png", "1.png")
    assert record.turns[0].content.count("<image>") == 2


def test_a_folder_of_pictures_takes_captions_from_beside_them(pictures, tmp_path):
    (pictures / "0.txt").write_text("A red cell.")
    summary = generate(pictures, tmp_path / "out")
    assert summary.counts == {"records": 1, "pairs": 1, "rejected": 11}
    write_csv(pictures / "metadata.csv", [{"file_name": "3.png", "text": "Another cell."}])
    generate(pictures, tmp_path / "out2")
    (record,) = iter_instruction_records(tmp_path / "out2")
    assert (record.images, record.turns[1].content) == (("3.png",), "Another cell.")
    with pytest.raises(DataError, match="no figures, no table and no picture"):
        generate((tmp_path / "empty").mkdir() or tmp_path / "empty", tmp_path / "out3")


def test_a_dry_run_of_a_table_writes_nothing(pictures, tmp_path):
    table = write_csv(pictures / "t.csv", rows())
    summary = generate(table, tmp_path / "out", dry_run=True)
    assert summary.counts["figures"] == 12
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", list(Layout))
def test_what_is_written_for_others_is_read_back_the_same(pictures, tmp_path, layout):
    table = write_csv(pictures / "t.csv", rows())
    out = tmp_path / "out"
    summary = generate(
        table,
        out,
        stage=Stage.INSTRUCT,
        multi_turn=True,
        questions_per_figure=3,
        formats=(layout.value,),
    )
    written = out / FILES[layout]
    assert written in summary.artifacts.values()
    assert list(iter_instruction_records(written)) == list(iter_instruction_records(out))
    if layout is Layout.MESSAGES:
        info = json.loads((out / "dataset_info.json").read_text())
        assert Path(info["messages"]["file_name"]).name == written.name
