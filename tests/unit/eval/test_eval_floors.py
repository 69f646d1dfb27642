"""Floors: another image of the same kind, several orders, and what they do to the visual gain."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from echo_backend import EchoBackend, echo

from medllava.data.benchmarks.rows import parse_row
from medllava.errors import DataError
from medllava.eval import run
from medllava.eval.ask import requests
from medllava.eval.baselines import image_kinds, permute_within
from medllava.eval.config import Condition, EvalConfig, parse_conditions
from medllava.eval.report.build import build_scores
from medllava.eval.score.intervals import bootstrap
from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl, read_json


def question(number, image, *, modality=None, category=None, answer="yes"):
    return Question(
        id=str(number),
        image=image,
        question="Is there a mass?",
        answer=answer,
        answer_type=AnswerType.CLOSED,
        modality=modality,
        category=category,
    )


def test_the_kind_of_an_image_is_its_modality_else_its_own_category():
    stated = [question(0, "a", modality="ct", category="x"), question(1, "b", modality="mri")]
    assert image_kinds(stated) == ("modality", {"a": "ct", "b": "mri"})
    assert image_kinds([*stated, question(2, "a")])[1] == {"a": "ct", "b": "mri"}
    assert image_kinds([*stated, question(2, "a", modality="mri")])[1] == {"b": "mri"}
    organs = [question(0, "a", category="head"), question(1, "b", category="chest")]
    assert image_kinds(organs) == ("category", {"a": "head", "b": "chest"})
    # Two categories about one image: a type of question, which says nothing about the image.
    assert image_kinds([*organs, question(2, "a", category="chest")]) == (None, {})
    assert image_kinds([question(0, "a"), question(1, None)]) == (None, {})


@pytest.mark.parametrize("seed", range(5))
def test_an_image_takes_another_of_its_kind_and_one_alone_takes_none(seed):
    contents = {"a": "1", "b": "2", "c": "3", "d": "4", "copy of d": "4", "e": "5"}
    kinds = {"a": "ct", "b": "ct", "c": "ct", "d": "mri", "copy of d": "mri"}
    shown = permute_within(contents, kinds, seed=seed)
    assert set(shown) == {"a", "b", "c"}
    assert all(kinds[image] == kinds[other] for image, other in shown.items())
    assert all(contents[image] != contents[other] for image, other in shown.items())


@pytest.mark.parametrize("name", ["modality", "modality_type", "image_organ"])
def test_rows_state_the_kind_of_image_under_these_names(name):
    row = {"id": "1", "image": "a.png", "question": "Q?", "answer": "yes", name: "CT"}
    assert next(parse_row(row, default_id="d", where="w")).question.modality == "CT"


def test_asking_for_permuted_asks_for_both_forms():
    assert parse_conditions("permuted") == (
        Condition.REAL,
        Condition.PERMUTED_WITHIN,
        Condition.PERMUTED,
    )


@pytest.fixture
def asked(monkeypatch):
    backend = EchoBackend()
    monkeypatch.setattr(requests, "build_answerer", lambda _: backend)
    monkeypatch.setattr(
        run, "describe_source", lambda _: {"source": "echo", "weights_sha256": "0" * 64}
    )
    return backend


def make_config(task_file, output_dir, **changes):
    conditions = (Condition.REAL, Condition.PERMUTED_WITHIN, Condition.PERMUTED)
    config = EvalConfig(
        task=str(task_file),
        checkpoint="echo",
        output_dir=output_dir,
        conditions=conditions,
        permutations=3,
        draws=100,
    )
    return replace(config, **changes)


def test_three_orders_are_asked_and_scored_again_from_their_file(asked, task_file, tmp_path):
    pictures = [(task_file.parent / f"{i}.png").read_bytes() for i in range(4)]
    summary = run.evaluate_task(make_config(task_file, tmp_path / "out"))
    found = {
        (line["id"], line["condition"], line["seed"]): line["text"]
        for _, line in iter_jsonl(summary.artifacts["predictions"])
    }
    assert len(found) == 12 * (1 + 3 + 3)
    for i, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        for seed in range(3):
            # Two of a kind: every order is the same, so the model is asked once.
            expected = echo(pictures[other], "permuted_within", 0)
            assert found[f"yn{i}", "permuted_within", seed] == expected
    report = read_json(summary.artifacts["report"])
    assert report["visual_gain_over"] == "images of the same modality"
    assert report["num_permutations"] == 3
    assert report["gain_over_all"]["accuracy"]["num_questions"] == 12
    again = make_config(
        task_file,
        tmp_path / "again",
        checkpoint=None,
        predictions=summary.artifacts["predictions"],
    )
    scored = read_json(run.evaluate_task(again).artifacts["report"])
    for key in ("conditions", "visual_gain", "gain_over_all", "num_permutations"):
        assert scored[key] == report[key]
    assert any("among images of the same modality, 3 orders" in s for s in run.score_lines(summary))


def test_questions_about_an_image_alone_in_its_kind_are_left_out(asked, task_file, tmp_path):
    lines = [line for _, line in iter_jsonl(task_file)]
    for line in lines:
        line["modality"] = "xray" if line["image"] == "3.png" else "ct"
    task_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = run.evaluate_task(make_config(task_file, tmp_path / "out"))
    report = read_json(summary.artifacts["report"])
    assert report["conditions"]["permuted_within"]["accuracy"]["num_questions"] == 9
    assert report["visual_gain"]["accuracy"]["num_questions"] == 9
    assert report["conditions"]["permuted"]["accuracy"]["num_questions"] == 12
    # A reply lost from the file is not taken for one that could not be asked.
    file = summary.artifacts["predictions"]
    kept = [
        line for _, line in iter_jsonl(file)
        if (line["condition"], line["id"]) != ("permuted_within", "yn0")
    ]  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    again = make_config(task_file, tmp_path / "again", checkpoint=None, predictions=file)
    with pytest.raises(DataError, match=r"no prediction for 1 of 9 questions \('yn0'\)"):
        run.evaluate_task(again)


def test_without_known_kinds_all_images_are_the_floor(asked, task_file, tmp_path):
    lines = [line for _, line in iter_jsonl(task_file)]
    for line in lines:
        del line["modality"]
    task_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = read_json(
        run.evaluate_task(make_config(task_file, tmp_path / "out")).artifacts["report"]
    )
    assert list(report["conditions"]) == ["real", "permuted"]
    assert (report["visual_gain_over"], report["gain_over_all"]) == ("all images", None)
    only = make_config(
        task_file, tmp_path / "only", conditions=(Condition.REAL, Condition.PERMUTED_WITHIN)
    )
    with pytest.raises(DataError, match="state the modality of their images"):
        run.evaluate_task(only)


def test_a_model_that_only_tells_modalities_apart_has_no_gain_within_them():
    """Half of the quickstart's gain over all images was of this kind."""
    kinds = ["ct"] * 30 + ["mri"] * 30
    questions = [question(i, str(i), modality=m, answer=m) for i, m in enumerate(kinds)]
    right = [*kinds]
    replies = {("real", 0): right}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        replies["permuted", seed] = [kinds[i] for i in rng.permutation(60)]
        replies["permuted_within", seed] = right
    report = build_scores(questions, replies, draws=200, seed=0)
    assert report.visual_gain["exact_match"].value == 0
    assert report.gain_over_all["exact_match"].low > 0.3


def test_orders_that_disagree_widen_the_interval_of_the_gain():
    rng = np.random.default_rng(0)
    same = np.repeat((rng.random(80) < 0.5).astype(float)[:, None], 3, axis=1)
    shifted = same + np.array([-0.3, 0.0, 0.3])
    clusters = np.arange(80)
    widths = []
    for values in (same, shifted):
        found = bootstrap(values, clusters, draws=2_000, seed=0)
        repeats = found.mean_of_repeats([0, 1, 2], seed=0)
        widths.append(repeats.high - repeats.low)
        assert repeats.value == pytest.approx(values.mean())
    # Standard error of the mean of three values 0.3 apart: 0.3 / sqrt(3), on top of the images'.
    images = widths[0] / 3.92
    assert widths[1] / 3.92 == pytest.approx(np.sqrt(images**2 + 0.3**2 / 3), rel=0.12)


def test_one_order_alone_says_nothing_about_its_choice():
    values = (np.random.default_rng(0).random((40, 1)) < 0.5).astype(float)
    found = bootstrap(values, np.arange(40), draws=500, seed=0)
    low, high = np.quantile(found.samples[:, 0], [0.025, 0.975])
    repeats = found.mean_of_repeats([0], seed=0)
    assert (repeats.low, repeats.high) == (low, high)


def test_every_shipped_floor_has_its_meaning_in_the_docs():
    text = (Path(__file__).parents[3] / "docs/eval-look.md").read_text()
    assert all(f"`{c.value}`" in text for c in Condition if c is not Condition.REAL)
