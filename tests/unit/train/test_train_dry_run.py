"""`--dry-run` and `--show-sample`: what is printed before anything is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.data.random_records import write_random_records
from medllava.errors import DataError
from medllava.progress import SilentProgress
from medllava.records import Stage
from medllava.train.dry_run import plan_stage
from medllava.train.resolve import resolve_config
from medllava.train.sample import show_sample
from medllava.train.stage_data import find_data


def run_json(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["train", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["status"] == "ok"
    return value["summary"]


def test_the_default_recipe_is_planned_without_weights_or_data(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    plan = run_json("--stage", "2", "--gpus", "8", "--dry-run")
    assert plan["recipe"] == "llava-med-v1.5"
    assert plan["chosen"]["settings"]["world_size"] == 8
    assert plan["flops"] > 1e18
    assert {"weights", "gradients", "optimizer", "activations"} <= plan["chosen"][
        "memory_bytes"
    ].keys()
    assert {row["gpu"]: row["hours"] > 0 for row in plan["alternatives"]}["H100"]
    assert plan["here"]["settings"]["precision"] in {"bf16", "fp32"}  # no GPU: its own CPU
    assert plan["here"]["total_bytes"] > 0
    shorter = run_json(
        "--stage", "2", "--gpus", "8", "--dry-run", "--set", "stage.instruct.epochs=1"
    )
    assert shorter["batches"]["num_steps"] == pytest.approx(plan["batches"]["num_steps"] / 3, abs=1)
    assert not list(tmp_path.iterdir())


def test_records_are_counted_with_the_tokenizer_and_packed_as_in_training(tmp_path: Path) -> None:
    folder = write_random_records(tmp_path / "data", count=30)
    (folder / "3-0.png").unlink()
    config = resolve_config(
        "debug",
        stage="2",
        data=str(folder),
        is_plan=True,
        overrides=["data.max_dropped=0.1"],
    )
    plan = plan_stage(config, world_size=2, progress=SilentProgress())
    assert not plan.data.is_assumed
    assert plan.data.num_records == 29
    assert plan.data.num_dropped == {"image file missing": 1}
    assert plan.batches.units_per_step % 2 == 0
    assert plan.batches.num_steps == 8  # 29 records, four in a step
    assert plan.refusal is None
    strict = plan_stage(
        replace(
            config, recipe=replace(config.recipe, data=replace(config.recipe.data, max_dropped=0))
        ),
        world_size=1,
        progress=SilentProgress(),
    )
    assert "1 image file missing" in str(strict.refusal)


def test_too_many_dropped_records_exit_4_from_a_dry_run(tmp_path: Path) -> None:
    folder = write_random_records(tmp_path / "data", count=10)
    for number in (3, 4):
        (folder / f"{number}-0.png").unlink()
    result = CliRunner().invoke(
        app, ["train", "debug", "--stage", "1", "--data", str(folder), "--dry-run"]
    )
    assert result.exit_code == 4
    assert "dropped" in result.stderr


def test_a_sample_shows_exactly_the_replies_as_learned(tmp_path: Path) -> None:
    folder = write_random_records(tmp_path / "data", count=5)
    config = resolve_config("debug", stage="1", data=str(folder), is_plan=True)
    sample = show_sample(config, progress=SilentProgress())
    record = next(find_data(config, made_up=tmp_path).records())
    learned = [segment.text for segment in sample.segments if segment.is_supervised]
    replies = [turn.content for turn in record.turns if turn.role == "assistant"]
    assert learned == [f"{reply}<|im_end|>" for reply in replies]
    assert len(sample.images) == 2
    # 28 / 14 squared patches for each of two images, each written as one token.
    masked = sample.segments[0]
    assert masked.text.count("<image>") == 2
    assert masked.num_tokens > 2 * 4


def test_a_sample_is_printed_for_people_and_for_scripts() -> None:
    shown = run_json("debug", "--stage", "1", "--show-sample")
    assert [s["supervised"] for s in shown["segments"]][:2] == [False, True]
    result = CliRunner().invoke(
        app, ["train", "debug", "--stage", "1", "--show-sample"], color=True
    )
    assert "--- learned" in result.stdout
    assert "\x1b[32m" in result.stdout


def test_questions_with_answers_are_trained_on_in_stage_3(tmp_path: Path) -> None:
    lines = [
        {
            "id": "q1",
            "image": None,
            "question": "Which?",
            "answer": "left",
            "answer_type": "closed",
            "choices": ["left", "right"],
        }
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = resolve_config("debug", stage="3", data=str(file), is_plan=True)
    (record,) = find_data(config, made_up=tmp_path).records()
    assert record.stage is Stage.FINETUNE
    assert [turn.content for turn in record.turns] == ["Which?\nA. left\nB. right", "A"]
    with pytest.raises(DataError, match="no-such-benchmark"):
        find_data(replace(config, data="no-such-benchmark"), made_up=tmp_path)


def test_a_dry_run_tells_how_a_released_file_and_its_images_compare(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cyst."}]
    records = write_random_records(tmp_path / "data", count=1)
    present = next(records.glob("*.png")).name
    items = [{"id": i, "image": i, "conversations": turns} for i in (present, "gone.png")]
    path = records / "llava_med_instruct_10k.json"
    path.write_text(json.dumps(items))
    arguments = ["debug", "--stage", "2", "--data", str(path), "--dry-run"]
    result = CliRunner().invoke(app, ["train", *arguments, "--set", "data.max_dropped=0.9"])
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "differs from the published llava_med_instruct_10k.json" in told
    assert "num_records is 2, published 10712" in told
    assert f"1 of 2 images in {records}, first missing: gone.png" in told


def test_a_sample_of_a_pair_shows_both_replies() -> None:
    shown = run_json("debug", "--stage", "4", "--data", "random", "--show-sample")
    assert [s["label"] for s in shown["segments"]] == ["masked", "better reply", "worse reply"]
    assert [s["supervised"] for s in shown["segments"]] == [False, True, True]
    better, worse = (s["text"] for s in shown["segments"][1:])
    assert better != worse
    assert "(chosen)" not in shown["record_id"]


def test_a_sample_of_stage_5_is_what_is_asked_and_what_answers_are_scored_against() -> None:
    shown = run_json(
        *("debug", "--stage", "5", "--data", "random", "--show-sample", "--id", "random-2"),
        *("--set", "stage.reinforce.rewards.think=true"),
    )
    asked, against = shown["segments"]
    assert asked["text"].count("<image>") == 1
    assert "between <think> and </think>" in asked["text"]
    assert (asked["label"], against["label"]) == ("asked", "answers are scored against")
    assert against["text"] == "no"
    assert not any(s["supervised"] for s in shown["segments"])
