"""Pairs of replies: planted errors, length and substance, models asked, files read back."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medllava.data.dropped import Dropped
from medllava.data.preferences import read_preferences, sides
from medllava.errors import DataError
from medllava.images.noise import add_diffusion_noise
from medllava.instruct.config import GenerateConfig, Rejection
from medllava.instruct.generate import generate_instructions
from medllava.instruct.planted import is_length_matched, plant_error, same_substance
from medllava.privacy.findings import PrivacyMode
from medllava.records import FigureRecord, PreferenceRecord, Stage

SEEN = {
    "body_part": Counter({"liver": 5, "kidney": 5, "chest": 3}),
    "modality": Counter({"CT": 5, "MRI": 5, "fundus photograph": 9}),
    "plane": Counter({"axial": 3, "coronal": 3}),
}
PARTS = (("CT", "liver"), ("CT", "kidney"), ("MRI", "liver"), ("MRI", "brain"))


@pytest.mark.parametrize(
    ("chosen", "rejected", "kind"),
    [
        ("Fluid on the left side.", "Fluid on the right side.", "side"),
        ("LEFT pleural effusion", "RIGHT pleural effusion", "side"),
        ("There is no fracture.", "There is fracture.", "negation"),
        ("The film shows a nodule.", "The film shows no nodule.", "negation"),
        ("Yes", "No", "opposite"),
        ("The heart is enlarged.", "The heart is small.", "opposite"),
        ("The mass is 3 wide.", "", "number"),
        ("MRI", "CT", "modality"),
        ("the liver", "the kidney", "body_part"),
    ],
)
def test_one_error_is_planted(chosen: str, rejected: str, kind: str) -> None:
    planted = [plant_error(chosen, random.Random(seed), SEEN) for seed in range(12)]
    found = {p.text for p in planted if p is not None and p.kind == kind}
    assert found
    assert chosen not in found
    assert not rejected or rejected in found


@pytest.mark.parametrize("text", ["All right now.", "A picture.", "", "thymus", "grade 3.5"])
def test_where_no_rule_applies_nothing_is_made_up(text: str) -> None:
    assert plant_error(text, random.Random(0), SEEN) is None


def test_a_wrong_value_keeps_case_and_number_of_words() -> None:
    texts = {plant_error("Axial view", random.Random(s), SEEN).text for s in range(9)}  # type: ignore[union-attr]
    assert texts == {"Coronal view"}
    values = {plant_error("CT", random.Random(s), SEEN).text for s in range(40)}  # type: ignore[union-attr]
    assert values == {"MRI"}  # not the one of two words


@pytest.mark.parametrize(
    ("chosen", "rejected", "is_same"),
    [
        ("The left lung.", "the left lung", True),
        ("The left lung.", "The right lung.", False),
        ("a large nodule in the lung", "There is a large nodule in the lung.", True),
        ("There is no nodule", "There is a nodule", False),
        ("three nodules", "four nodules", False),
        ("liver", "It is the image", True),
        ("liver", "kidney", False),
        ("yes", "Yes.", True),
        ("yes", "no", False),
    ],
)
def test_substance(chosen: str, rejected: str, is_same: bool) -> None:
    assert same_substance(chosen, rejected) is is_same


def test_length() -> None:
    assert is_length_matched("liver", "the left kidney")
    assert not is_length_matched("liver", "this shows the left kidney")
    assert is_length_matched("word " * 40, "word " * 50)
    assert not is_length_matched("word " * 40, "word " * 51)


@pytest.fixture
def figures(make_figure: Callable[..., FigureRecord], figures_dir: Callable[..., Path]) -> Path:
    made = [
        make_figure(n, caption=f"{kind} of the {part}.", modality="ct" if kind == "CT" else "mri")
        for n, (kind, part) in enumerate(PARTS, start=1)
    ]
    folder = figures_dir(*made)
    (folder / "images").mkdir()
    for n in range(1, len(PARTS) + 1):
        Image.fromarray(np.full((24, 24, 3), 40 * n, np.uint8)).save(folder / f"images/{n}.png")
    return folder


def config_of(figures: Path, output_dir: Path, **changes: object) -> GenerateConfig:
    config = GenerateConfig(
        figures=figures,
        output_dir=output_dir,
        stage=Stage.PREFER,
        closed_share=0.0,
        questions_per_figure=2,
        privacy=PrivacyMode.OFF,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def pairs_of(folder: Path) -> list[PreferenceRecord]:
    pairs = list(read_preferences(folder))
    assert not any(isinstance(pair, Dropped) for pair in pairs)
    return pairs  # type: ignore[return-value]


def test_figures_become_pairs_by_rule(figures: Path, tmp_path: Path) -> None:
    summary = generate_instructions(config_of(figures, tmp_path / "a"))
    pairs = pairs_of(tmp_path / "a")
    assert summary.counts["records"] == len(pairs) > 6
    assert summary.hint == f"medllava train --stage 4 --data {tmp_path / 'a'}"
    assert {pair.rejected_by.partition(":")[0] for pair in pairs} == {"rule"}
    assert all(
        pair.turns[-1].role == "user" and "<image>" in pair.turns[-1].content for pair in pairs
    )
    assert all(pair.license == "CC BY" and pair.modality for pair in pairs)
    assert all(not same_substance(pair.chosen, pair.rejected) for pair in pairs)
    generate_instructions(config_of(figures, tmp_path / "b"))
    first, second = ((tmp_path / name / "preferences.jsonl").read_text() for name in "ab")
    assert first == second
    assert "worse" in (tmp_path / "a/report.html").read_text()


def test_instructions_become_pairs_whose_better_answers_they_are(
    figures: Path, tmp_path: Path
) -> None:
    source = config_of(figures, tmp_path / "source", stage=Stage.INSTRUCT)
    generate_instructions(source)
    generate_instructions(config_of(tmp_path / "source", tmp_path / "pairs"))
    answers = {
        json.loads(line)["turns"][1]["content"]
        for line in (tmp_path / "source/instructions.jsonl").open()
    }
    pairs = pairs_of(tmp_path / "pairs")
    assert pairs
    assert {pair.chosen for pair in pairs} <= answers
    root = json.loads((tmp_path / "pairs/summary.json").read_text())["image_dir"]
    assert (tmp_path / "pairs" / root / pairs[0].images[0]).is_file()


def test_models_and_teachers_make_worse_answers(figures: Path, tmp_path: Path) -> None:
    """Each recorded reply is kept, or left out by the rule that it breaks."""
    ids = [f"PMC{n}.1/f1#1@1" for n in range(1, 5)]
    by_model = ["spleen", "an answer of far too many words for this", "", "gallbladder"]
    by_teacher = ['{"answer": "spleen", "kind": "Organ"}', "no JSON", "{}", '{"answer": 3}']
    recording = tmp_path / "replies.jsonl"
    recording.write_text(
        "".join(
            json.dumps({"request_id": f"{name}/{way}", "text": text}) + "\n"
            for way, texts in (("noise", by_model), ("teacher", by_teacher))
            for name, text in zip(ids, texts, strict=True)
        )
    )
    summary = generate_instructions(
        config_of(
            figures,
            tmp_path / "out",
            questions_per_figure=1,
            rejected=(Rejection.NOISE, Rejection.TEACHER),
            teacher=f"recorded:{recording}",
        )
    )
    pairs = {pair.record_id: pair for pair in pairs_of(tmp_path / "out")}
    assert pairs[f"{ids[0]}/noise"].rejected == "spleen"
    assert pairs[f"{ids[0]}/teacher"].rejected_by == "teacher:organ"
    assert pairs[f"{ids[3]}/noise"].rejected == "gallbladder"
    assert f"{ids[1]}/noise" not in pairs
    reasons = summary.details["rejected_by_reason"]
    assert reasons["unequal_length"] == 1
    assert reasons["same_substance"] >= 2
    assert (tmp_path / "out/ledger.jsonl").is_file()


def test_a_model_that_is_needed_must_be_named(figures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--rejected exchange needs a model"):
        generate_instructions(config_of(figures, tmp_path, rejected=(Rejection.EXCHANGE,)))
    counted = generate_instructions(
        config_of(
            figures,
            tmp_path / "none",
            rejected=(Rejection.RULE, Rejection.NOISE),
            teacher="recorded:none",
            dry_run=True,
        )
    )
    assert counted.counts["requests"] == counted.counts["answers"] == 12
    assert not (tmp_path / "none").exists()


def test_povid_and_trl_are_read_and_what_is_none_is_named(tmp_path: Path) -> None:
    asked = {"from": "human", "value": "<image>\nWhat?"}
    items = [
        {
            "id": "a",
            "image": "1.png",
            "conversations": [asked, {"from": "gpt", "value": "a nodule"}],
            "rejected_conversations": [asked, {"from": "gpt", "value": "a mass"}],
        },
        {"prompt": "What?", "chosen": "left", "rejected": "right", "image": "2.png"},
        {
            "prompt": [{"role": "user", "content": "What?"}],
            "chosen": [{"role": "assistant", "content": "left"}],
            "rejected": [{"role": "assistant", "content": "right"}],
        },
        {"prompt": "What?", "chosen": "left", "rejected": "Left."},
        {"prompt": "What?", "chosen": "left", "rejected": " "},
        {"prompt": "What?", "chosen": None, "rejected": "right"},
        {"record_id": "b", "turns": [], "chosen": "left"},
        7,
    ]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(items))
    found = list(read_preferences(file))
    kept = [pair for pair in found if isinstance(pair, PreferenceRecord)]
    assert [(p.record_id, p.images, p.chosen, p.rejected) for p in kept] == [
        ("a", ("1.png",), "a nodule", "a mass"),
        ("pairs.json#2", ("2.png",), "left", "right"),
        ("pairs.json#3", (), "left", "right"),
    ]
    assert kept[1].turns[0].content == "<image>\nWhat?"
    assert len(found) == len(items)
    both = list(sides(kept[:1]))
    assert [r.record_id for r in both] == ["a (chosen)", "a (rejected)"]  # type: ignore[union-attr]
    record = PreferenceRecord.from_json(kept[0].to_json(), where="test")
    assert record == kept[0]


def test_noise_drowns_a_picture_and_is_the_same_again() -> None:
    picture = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
    clean = np.asarray(picture.convert("RGB"), dtype=float)
    noisy = np.asarray(add_diffusion_noise(picture, step=500, seed=1), dtype=float)
    assert abs(np.corrcoef(clean.ravel(), noisy.ravel())[0, 1]) < 0.4
    again = np.asarray(add_diffusion_noise(picture, step=500, seed=1), dtype=float)
    assert np.array_equal(noisy, again)
    kept = np.asarray(add_diffusion_noise(picture, step=0, seed=1), dtype=float)
    assert np.array_equal(kept, clean)


def test_a_table_becomes_pairs(tmp_path: Path) -> None:
    """A hospital's own table, straight to stage 4: rows that cannot be used are named."""
    lines = ["image,caption,id"]
    for number, (kind, part) in enumerate(PARTS):
        Image.fromarray(np.full((24, 24, 3), 40 * number, np.uint8)).save(
            tmp_path / f"{number}.png"
        )
        lines.append(f"{number}.png,{kind} of the {part}.,row{number}")
    lines.append("absent.png,CT of the liver.,row9")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    summary = generate_instructions(config_of(table, tmp_path / "out"))
    pairs = pairs_of(tmp_path / "out")
    assert summary.counts["records"] == len(pairs) >= 4
    assert all(pair.license == "own" and pair.rejected_by.startswith("rule:") for pair in pairs)
    root = tmp_path / "out" / json.loads((tmp_path / "out/summary.json").read_text())["image_dir"]
    assert all((root / pair.images[0]).is_file() for pair in pairs)
    assert "absent.png" in (tmp_path / "out/rejected.jsonl").read_text()
