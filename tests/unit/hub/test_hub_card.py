"""The card repeats what the run folder says, and says unknown where it says nothing."""

import json
from pathlib import Path

import pytest
import yaml

from medllava.errors import DataError
from medllava.hub.card import render_model_card, render_table
from medllava.hub.facts import ModelFacts, load_facts
from medllava.hub.ledger import model_ledger

RECIPE = {
    "name": "r",
    "description": "A small model.",
    "model": {
        "language_model": {"source": "org/lm", "license": "apache-2.0"},
        "vision_encoder": {"source": "/home/alice/parts/eye", "license": "mit"},
    },
    "stage": {"align": {"learning_rate": 0.002, "global_batch_size": 8}},
}


def write(folder: Path, run: dict) -> ModelFacts:
    for name, values in (("config", {}), ("recipe", RECIPE), ("run", run)):
        (folder / f"{name}.json").write_text(json.dumps(values))
    return load_facts(folder)


def card(facts: ModelFacts) -> str:
    return render_model_card(facts, model_ledger(facts), repo_id="me/small", weights="f" * 64)


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_metadata_names_hub_parts_and_no_local_ones(tmp_path):
    values = metadata(card(write(tmp_path, {"stage": "align"})))
    assert values["base_model"] == ["org/lm"]
    assert values["pipeline_tag"] == "image-text-to-text"
    assert values["library_name"] == "transformers"


def test_empty_run_record_says_unknown_everywhere(tmp_path):
    text = card(write(tmp_path, {}))
    assert (
        "| unknown | unknown | unknown | unknown | unknown | unknown | unknown | unknown |" in text
    )
    assert "Where the images came from: unknown." in text
    assert "Not evaluated" in text
    assert metadata(text)["license"] == "other"
    assert metadata(text)["license_name"] == "unknown"


def test_stages_stand_in_the_order_they_ran(tmp_path):
    align = {"stage": "align", "steps": 10, "data": {"used": 40}}
    run = {"stage": "instruct", "steps": 2000, "init": {"source": "stage1", "run": align}}
    facts = write(tmp_path, run)
    assert [stage.stage for stage in facts.stages] == ["align", "instruct"]
    text = card(facts)
    assert "| align | unknown | 0.002 | 8 | 10 |" in text
    assert "2,000" in text


def test_published_start_is_named_and_its_licence_is_asked_for(tmp_path):
    run = {"stage": "instruct", "init": {"source": "org/llava", "run": None}}
    facts = write(tmp_path, run)
    assert facts.start == "org/llava"
    assert metadata(card(facts))["base_model"] == ["org/llava", "org/lm"]
    assert "base-license-unknown" in [risk.name for risk in model_ledger(facts).risks]


def test_card_of_the_same_run_is_the_same_bytes(tmp_path):
    facts = write(tmp_path, {"stage": "align", "seconds": 8000.0})
    assert card(facts) == card(load_facts(tmp_path))
    assert "| align | unknown | 2.2 h | not measured |" in card(facts)


def test_private_paths_of_a_run_do_not_reach_the_card(tmp_path):
    run = {"stage": "align", "data": {"source": "/home/alice/secret/instructions", "used": 1}}
    text = card(write(tmp_path, run))
    assert "alice" not in text
    assert "1 records used from instructions" in text


def test_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json"):
        load_facts(tmp_path)


def test_cell_text_cannot_break_a_table():
    assert render_table(("a",), [("x | y\nz",)]) == "| a |\n| --- |\n| x \\| y z |"
