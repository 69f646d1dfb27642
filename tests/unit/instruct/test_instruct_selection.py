"""Presets keep what they promise, and every entity takes its turn."""

import json
from collections import Counter

import pytest
from llm_server import LoopbackModel

from medllava.data.sources import iter_instruction_records
from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig, Kind, Select
from medllava.instruct.generate import generate_instructions
from medllava.instruct.presets import PRESETS, find_preset
from medllava.instruct.selection import in_turn_by_entity, read_entities
from medllava.records import Modality, Stage
from medllava.store import iter_jsonl

KINDS = ("chest_xray", "mri", "histopathology", "gross_pathology", "ct", "other")


def converse(text: str) -> str:
    """A teacher whose every fourth reply is of no use, and every seventh has one turn only."""
    number = int(text.rsplit("Number ", 1)[1].split()[0])
    words = " ".join(f"w{digit}" for digit in f"{number:04d}")
    turns = [
        {"question": f"What is seen at {words} {turn}?", "answer": f"Shape {words} {turn} is seen."}
        for turn in "abcdefg"
    ]
    if number % 4 == 0:
        return "No idea."
    return json.dumps({"turns": turns[:1] if number % 7 == 0 else turns})


@pytest.fixture
def archive(make_figure, figures_dir):
    """Sixty figures of each kind, every fifth of several panels."""
    return figures_dir(
        *(
            make_figure(
                i,
                caption=f"Number {i} .",
                label="",
                modality=KINDS[i % 6],
                panel_score=0.9 if i // 6 % 5 == 4 else 0.2,
                in_text_mentions=[f"A sentence about {i}."],
            )
            for i in range(360)
        ),
        rows_per_group=500,
    )


def make(archive, out, server, **more):
    config = GenerateConfig(
        figures=archive,
        output_dir=out,
        stage=Stage.INSTRUCT,
        teacher="m",
        base_url=server.url,
        **more,
    )
    return generate_instructions(config)


@pytest.mark.parametrize("name", ["llava-med-60k-im", "llava-med-10k"])
def test_preset_keeps_its_numbers_by_modality_and_its_turns(archive, tmp_path, name):
    out = tmp_path / "out"
    with LoopbackModel(converse).running() as server:
        summary = make(archive, out, server, preset=name, limit=60)
        bodies = list(server.bodies)
        first = (out / "instructions.jsonl").read_bytes()
        make(archive, out, server, preset=name, limit=60)
        assert len(server.bodies) == len(bodies)
    records = list(iter_instruction_records(out))
    found = Counter(record.modality for record in records)
    assert found == {m: n for m, n in find_preset(name).targets(60).items() if n}
    assert found.total() == 60
    assert all(len(record.turns) == 10 for record in records)
    reasons = Counter(row["reason"] for _, row in iter_jsonl(out / "rejected.jsonl"))
    assert reasons["no_turns"] > 0
    assert reasons["too_few_turns"] > 0
    # Nobody is asked in vain: what was asked is what was kept or rejected.
    assert len(bodies) == 60 + reasons["no_turns"] + reasons["too_few_turns"]
    shown = any("A sentence about" in json.dumps(body) for body in bodies)
    assert shown == (name == "llava-med-60k-im")
    assert (out / "instructions.jsonl").read_bytes() == first
    assert summary.details["usage"]["missing_by_modality"] == {}


def test_what_an_archive_cannot_give_is_told(archive, tmp_path):
    with LoopbackModel(converse).running() as server:
        summary = make(archive, tmp_path / "out", server, preset="llava-med-10k", limit=400)
    missing = summary.details["usage"]["missing_by_modality"]
    assert set(missing) == {"ct", "mri", "histopathology", "chest_xray"}
    kept = summary.counts["records"]
    assert kept + sum(missing.values()) == 400


def test_presets_are_of_the_published_size():
    for preset in PRESETS.values():
        targets = preset.targets(None)
        assert sum(targets.values()) == preset.conversations
        assert Modality.OTHER not in targets
        assert targets[Modality.CT] / preset.conversations == pytest.approx(0.282, abs=1e-3)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"preset": "llava-med-1m"}, "no preset 'llava-med-1m'"),
        ({"preset": "llava-med-10k", "kind": Kind.VQA}, "is of conversations"),
        ({"preset": "llava-med-10k", "teacher": "template"}, "need --stage instruct and a model"),
    ],
)
def test_preset_that_does_not_go_is_refused(archive, tmp_path, more, told):
    config = {"figures": archive, "output_dir": tmp_path / "o", "stage": Stage.INSTRUCT}
    with pytest.raises(DataError, match=told):
        generate_instructions(GenerateConfig(**{**config, "teacher": "m", **more}))


def test_rare_entities_are_seen_under_a_small_limit(make_figure, figures_dir, tmp_path):
    captions = [f"Number {i} : pneumonia of the lung." for i in range(1, 60)]
    captions += ["Number 61 : hernia of the colon.", "Number 62 : a polyp of the stomach."]
    archive = figures_dir(
        *(make_figure(i, caption=caption, label="") for i, caption in enumerate(captions, 1)),
        rows_per_group=500,
    )

    def asked(select):
        out = tmp_path / select.value
        with LoopbackModel(converse).running() as server:
            make(archive, out, server, limit=6, select=select)
            return {text for body in server.bodies for text in [json.dumps(body)]}

    rare = asked(Select.ENTITIES)
    assert any("hernia of the colon" in text for text in rare)
    assert any("polyp of the stomach" in text for text in rare)
    assert not any("hernia of the colon" in text for text in asked(Select.TURN))


def test_entities_are_headings_else_what_the_caption_names(make_figure):
    headed = make_figure(1, caption="X-ray.", mesh=["Humans", "Pneumothorax"])
    assert read_entities(headed) == ("pneumothorax",)
    told = make_figure(2, caption="CT of the liver with a cyst.")
    assert set(read_entities(told)) == {"cyst", "liver", "CT"}
    order = list(in_turn_by_entity({"a": ("x",), "b": ("x",), "c": ("y", "x"), "d": ()}))
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("c") < order.index("b")
