"""The card repeats what the run folder says, and says unknown where it says nothing."""

import json
from pathlib import Path

import pytest
import yaml

from medllava.errors import DataError
from medllava.hub.card import render_model_card, render_table
from medllava.hub.facts import ModelFacts, load_facts
from medllava.hub.license_report import model_license_report

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
    return render_model_card(
        facts, model_license_report(facts), repo_id="me/small", weights="f" * 64
    )


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


def test_commands_stand_in_order_without_private_paths_or_say_unknown(tmp_path):
    align = {"stage": "align", "command": "medllava train r --stage 1 --data /home/alice/x/align"}
    run = {"stage": "instruct", "init": {"source": "stage1", "run": align}}
    text = card(write(tmp_path, run))
    block = "```sh\nmedllava train r --stage 1 --data align\n# stage instruct: command unknown\n```"
    assert block in text


def test_alignment_pairs_without_a_teacher_are_captions_and_nothing_unknown(tmp_path):
    data = {"used": 5, "by_license": {"CC BY": 5}, "by_teacher": {"unknown": 5}}
    facts = write(tmp_path, {"stage": "align", "data": data})
    assert "| teacher | none, figure captions 5 |" in card(facts)
    assert not [row for row in model_license_report(facts).rows if row.kind == "teacher"]
    facts = write(tmp_path, {"stage": "instruct", "data": data})
    rows = [row for row in model_license_report(facts).rows if row.kind == "teacher"]
    assert [row.what for row in rows] == ["unknown: 5 records"]
    assert not rows[0].terms.is_known


def test_published_start_is_named_and_its_license_is_asked_for(tmp_path):
    run = {"stage": "instruct", "init": {"source": "org/llava", "run": None}}
    facts = write(tmp_path, run)
    assert facts.start == "org/llava"
    assert metadata(card(facts))["base_model"] == ["org/llava", "org/lm"]
    assert "base-license-unknown" in [risk.name for risk in model_license_report(facts).risks]


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


def test_scores_stand_beside_their_floors_and_the_command_that_repeats_them(tmp_path):
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_questions": 150}

    report = {
        "task": {"name": "my set", "split": "test", "file": "/home/a/q.jsonl", "file_sha256": "cd"},
        "protocol": "strict",
        "num_questions": 150,
        "num_images": 40,
        "conditions": {
            "real": {"exact_match": estimate(0.5)},
            "permuted": {"exact_match": estimate(0.2)},
        },
        "visual_gain": {"exact_match": estimate(0.3)},
        "model": {"weights_sha256": "ee"},
        "decoding": {"max_new_tokens": 16},
    }
    (tmp_path / "eval/q").mkdir(parents=True)
    (tmp_path / "eval/q/report.json").write_text(json.dumps(report))
    text = card(write(tmp_path, {"stage": "align"}))
    row = (
        "| exact match | 0.500 (0.400 to 0.600) | 0.200 (0.100 to 0.300) | 0.300 (0.200 to 0.400) |"
    )
    assert row in text
    assert "150 questions about 40 images; split test; protocol strict; `q.jsonl`" in text
    assert (
        "medllava eval 'my set' --ckpt me/small --split test --protocol strict "
        "--controls permuted --max-new-tokens 16" in text
    )
    result = metadata(text)["model-index"][0]["results"][0]
    assert result["dataset"]["type"] == "my set"
    assert result["metrics"][0]["value"] == 0.5
    assert result["metrics"][0]["args"]["interval_95"] == [0.4, 0.6]


def test_packages_are_found_through_the_folders_that_name_them(tmp_path):
    archive, figures, instructions = (tmp_path / name for name in ("a", "f", "i"))
    for folder, name, values in (
        (
            archive,
            "SOURCES.json",
            [{"name": "slides", "version": "1.2", "license": "BSD-3-Clause"}],
        ),
        (figures, "summary.json", {"settings": {"inputs": [str(archive)]}}),
        (instructions, "summary.json", {"image_dir": "../f"}),
    ):
        folder.mkdir()
        (folder / name).write_text(json.dumps(values))
    run = {"stage": "align", "data": {"source": str(instructions), "used": 3}}
    facts = write(tmp_path, run)
    assert [source.title for source in facts.stages[0].data.sources] == ["slides 1.2"]
    assert "| slides 1.2 | BSD-3-Clause |  |" in card(facts)


def test_metrics_that_are_one_number_are_told_once(tmp_path):
    same = {"value": 0.5, "low": 0.4, "high": 0.6, "num_questions": 9}
    names = ("exact_match", "token_recall", "token_f1", "open_exact_match")
    report = {"task": {"name": "q"}, "conditions": {"real": dict.fromkeys(names, same)}}
    report["model"] = {"weights_sha256": "ee"}
    (tmp_path / "eval/q").mkdir(parents=True)
    (tmp_path / "eval/q/report.json").write_text(json.dumps(report))
    text = card(write(tmp_path, {"stage": "align"}))
    row = "| exact match, token recall, token f1, open exact match | 0.500 (0.400 to 0.600) |"
    assert row in text
    metrics = metadata(text)["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["exact_match"]
