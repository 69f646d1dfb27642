"""The privacy gate before training: nothing of a patient is learned unseen."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.privacy import gate
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.pixels import has_reader
from medllava.progress import SilentProgress
from medllava.records import Stage
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

needs_reader = pytest.mark.skipif(not has_reader(), reason="the extra ocr is not installed")
pytestmark = pytest.mark.timeout(120)


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def train(data: Path, out: Path, **options: object):
    notes = Notes()
    config = resolve_config(
        "debug", stage="2", data=str(data), init="parts", output_dir=out, max_steps=1, **options
    )
    return train_stage(config, progress=notes), notes.told


def records_in(folder: Path, *, license_: str | None, said: str = "A plain one.") -> Path:
    """Four records about two pictures, the first of which says `said`."""
    folder.mkdir()
    lines = []
    for number in range(4):
        name = f"{number % 2}.png"
        Image.new("RGB", (32, 32), (90 * (number % 2), 0, 0)).save(folder / name)
        turns = [
            {"role": "user", "content": "<image>\nWhat is this?"},
            {"role": "assistant", "content": said if number == 0 else "A plain one."},
        ]
        record = {"record_id": f"r{number}", "images": [name], "turns": turns}
        lines.append(json.dumps({**record, "stage": "instruct", "license": license_}))
    (folder / "instructions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@needs_reader
def test_own_records_with_a_name_stop_before_the_first_step(tmp_path: Path):
    data = records_in(tmp_path / "data", license_="own", said="The chest of Mrs. Lindqvist.")
    with pytest.raises(DataError, match=r"1 of 4 items may tell who a patient is \(1 name\)"):
        train(data, tmp_path / "out")
    assert not list((tmp_path / "out").glob("checkpoints/*"))
    assert "Lindqvist" not in (tmp_path / "out" / "privacy.jsonl").read_text()
    summary, told = train(data, tmp_path / "out", privacy=PrivacyMode.REPORT)
    assert summary.complete
    assert any("left as it is" in note for note in told)


@needs_reader
def test_a_picture_of_several_records_is_read_once(tmp_path: Path, monkeypatch):
    read: list[tuple[int, int]] = []
    find = gate.TextFinder.find
    monkeypatch.setattr(
        gate.TextFinder, "find", lambda self, image: read.append(image.size) or find(self, image)
    )
    train(records_in(tmp_path / "data", license_="own"), tmp_path / "out")
    assert len(read) == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "privacy.jsonl").open()]
    assert len(lines) == 4


def test_published_records_are_not_looked_at_and_it_is_said(tmp_path: Path):
    data = records_in(tmp_path / "data", license_="CC BY", said="The chest of Mrs. Lindqvist.")
    summary, told = train(data, tmp_path / "out")
    assert summary.complete
    assert any("nothing is marked as your own" in note for note in told)
    assert not (tmp_path / "out" / "privacy.jsonl").exists()


def table_in(folder: Path, *, words: str = "") -> Path:
    folder.mkdir()
    with (folder / "t.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "caption", "split"])
        for number in range(2):
            image = Image.effect_noise((200, 200), 20).convert("RGB")
            if words and number == 0:
                face = ImageFont.load_default(18)
                ImageDraw.Draw(image).text((20, 90), words, fill="white", font=face)
            image.save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", f"An axial CT slice, number {number}.", "train"])
    return folder / "t.csv"


def generate(table: Path, out: Path, privacy: PrivacyMode = PrivacyMode.AUTO) -> Path:
    generate_instructions(
        GenerateConfig(figures=table, output_dir=out, stage=Stage.ALIGN, privacy=privacy)
    )
    return out


@needs_reader
def test_a_folder_whose_gate_ran_is_not_read_again(tmp_path: Path, monkeypatch):
    data = generate(table_in(tmp_path / "in"), tmp_path / "data")
    monkeypatch.setattr(gate, "TextFinder", None)  # whoever reads a picture now fails
    assert train(data, tmp_path / "out")[0].complete
    assert (tmp_path / "out" / "privacy.jsonl").exists()
    # A picture that is another one now is read again, wherever it is looked at.
    Image.new("RGB", (60, 60)).save(tmp_path / "in" / "1.png")
    with pytest.raises(TypeError):
        train(data, tmp_path / "again")


@needs_reader
@pytest.mark.parametrize("mode", [PrivacyMode.REPORT, PrivacyMode.OFF])
def test_what_generate_was_told_holds_for_training(tmp_path: Path, mode: PrivacyMode):
    table = table_in(tmp_path / "in", words="LINDQVIST 1961")
    data = generate(table, tmp_path / "data", privacy=mode)
    summary, told = train(data, tmp_path / "out")
    assert summary.complete
    assert any(f"as decided (--privacy {mode})" in note for note in told)
    with pytest.raises(DataError, match="1 of 2 items"):
        train(data, tmp_path / "strict", privacy=PrivacyMode.STOP)


def pairs_in(folder: Path, *, rejected: str) -> Path:
    """Two pairs of one's own, the worse reply of the first of which is given."""
    folder.mkdir()
    lines = []
    for number in range(2):
        name = f"{number}.png"
        Image.new("RGB", (32, 32), (90 * number, 0, 0)).save(folder / name)
        pair = {
            "record_id": f"p{number}",
            "images": [name],
            "turns": [{"role": "user", "content": "<image>\nWhat is this?"}],
            "chosen": "A plain one.",
            "rejected": rejected if number == 0 else "A round one.",
            "rejected_by": "teacher",
            "license": "own",
        }
        lines.append(json.dumps(pair))
    (folder / "preferences.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@needs_reader
def test_a_name_in_the_worse_reply_of_a_pair_stops_stage_4(tmp_path: Path):
    data = pairs_in(tmp_path / "data", rejected="The chest of Mrs. Lindqvist.")
    small = ["stage.prefer.global_batch_size=2", "stage.prefer.micro_batch_size=2"]
    config = resolve_config(
        "debug",
        stage="4",
        data=str(data),
        init="parts",
        output_dir=tmp_path / "out",
        max_steps=1,
        overrides=small,
    )
    with pytest.raises(DataError, match=r"1 of 4 items may tell who a patient is \(1 name\)"):
        train_stage(config)
    assert not list((tmp_path / "out").glob("checkpoints/*"))
    assert not (tmp_path / "out" / "reference.safetensors").exists()
    assert "Lindqvist" not in (tmp_path / "out" / "privacy.jsonl").read_text()
