"""What the model is shown, told by a model that repeats it; and how each kind of run ends."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from echo_backend import EchoBackend, echo
from PIL import Image
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.data.benchmarks.disjoint import disjoint_part
from medllava.data.benchmarks.rows import parse_row
from medllava.eval.config import Condition, DecodingConfig, EvalConfig
from medllava.eval.run import evaluate_task
from medllava.layout import PREDICTIONS_FILE
from medllava.store import iter_jsonl


@pytest.fixture
def backend(monkeypatch):
    found = EchoBackend()
    monkeypatch.setattr("medllava.eval.ask.requests.build_answerer", lambda _: found)
    return found


@pytest.fixture
def config(task_file, tiny_folder, tmp_path):
    return EvalConfig(
        task=str(task_file),
        checkpoint=str(tiny_folder),
        output_dir=tmp_path / "out",
        conditions=(Condition.REAL, Condition.PERMUTED),
        decoding=DecodingConfig(temperature=1.0),
        seeds=(0, 1),
        draws=20,
    )


def replies(config):
    evaluate_task(config)
    lines = (line for _, line in iter_jsonl(config.output_dir / PREDICTIONS_FILE))
    return {(line["id"], line["condition"], line["seed"]): line["text"] for line in lines}


def test_the_real_image_is_shown_and_a_permuted_one_is_another(config, backend, images):
    found = replies(config)
    pictures = [path.read_bytes() for path in images]
    for i, own in enumerate(pictures):
        for seed in config.seeds:
            assert found[f"yn{i}", "real", seed] == echo(own, "real", seed)
            others = {echo(p, "permuted", seed) for p in pictures if p != own}
            assert found[f"yn{i}", "permuted", seed] in others


def test_every_picture_condition_and_seed_has_a_reply_of_its_own(config, backend):
    found = replies(config)
    with_image = {key: text for key, text in found.items() if key[0].startswith("yn")}
    assert len(set(with_image.values())) == len(with_image)


def test_an_old_reply_to_another_picture_of_that_name_is_not_taken(config, backend, images):
    first = replies(config)
    asked = len(backend.asked)
    assert replies(config) == first
    assert len(backend.asked) == asked
    Image.new("RGB", (50, 50), "red").save(images[0])
    again = replies(config)
    assert (
        again["yn0", "real", 0]
        == echo(images[0].read_bytes(), "real", 0)
        != first["yn0", "real", 0]
    )
    assert again["yn1", "real", 0] == first["yn1", "real", 0]


def test_every_request_has_random_numbers_of_its_own():
    from medllava.eval.ask.engine import ask_seed
    from medllava.eval.ask.predict import Ask

    ask = Ask(id="a", condition="real", seed=0, image=None, text="?")
    changed = (replace(ask, id="b"), replace(ask, condition="text"), replace(ask, seed=1))
    drawn = [ask_seed(one) for one in (ask, *changed)]
    assert len(set(drawn)) == 4
    assert ask_seed(replace(ask)) == drawn[0]


def test_a_fifth_of_the_images_is_held_out_and_which_does_not_change():
    rows = [{"id": i, "image": f"{i}.png", "question": "Q?", "answer": "yes"} for i in range(50)]
    parsed = [next(parse_row(row, default_id="d", where="w")) for row in rows]
    test = [item.question.image for item in disjoint_part(parsed, "disjoint-test")]
    train = [item.question.image for item in disjoint_part(parsed, "disjoint-train")]
    assert (len(test), len(train)) == (10, 40)
    assert set(test).isdisjoint(train)
    assert sorted(int(Path(name).stem) for name in test) == [0, 6, 8, 18, 33, 34, 38, 40, 42, 44]


OUTCOMES = {
    "answers for every question": (0, "ok", None),
    "an unknown protocol": (2, None, None),
    "an answer is missing": (4, "error", "DataError"),
    "no such task": (4, "error", "DataError"),
    "training images cannot be opened": (6, "incomplete", None),
    "no such checkpoint": (7, "error", "SetupError"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_has_its_exit_code_and_one_json_object(outcome, task_file, tmp_path):
    code, status, error = OUTCOMES[outcome]
    ids = [line["id"] for _, line in iter_jsonl(task_file)]
    kept = ids[1:] if outcome == "an answer is missing" else ids
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"id": i, "text": "yes"}) + "\n" for i in kept))
    arguments = ["eval", str(task_file), "--predictions", str(answers), "--draws", "10", "--json"]
    if outcome == "an unknown protocol":
        arguments += ["--protocol", "mine"]
    if outcome == "no such task":
        arguments[1] = "nosuchtask"
    if outcome == "training images cannot be opened":
        train = tmp_path / "train.jsonl"
        row = {"id": "t", "image": "gone.png", "question": "Q?", "answer": "yes"}
        train.write_text(json.dumps({**row, "answer_type": "closed"}) + "\n")
        arguments += ["--train-data", str(train)]
    if outcome == "no such checkpoint":
        empty = tmp_path / "empty"
        empty.mkdir()
        arguments[2:4] = ["--ckpt", str(empty)]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == code, result.output
    if status is None:
        return
    found = json.loads(result.stdout)
    assert (found["command"], found["status"]) == ("eval", status)
    if error:
        assert (found["error"]["type"], found["error"]["exit_code"]) == (error, code)
