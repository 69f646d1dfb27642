"""Rows that nobody should write are rejected by name and never crash."""

import json
import random
from pathlib import Path

import pytest

from medllava.data.benchmarks.questions import load_questions
from medllava.data.benchmarks.rows import parse_row
from medllava.errors import MedllavaError, RecordError

ROW = {"id": "1", "image": "a.png", "question": "Is it?", "answer": "yes"}
KEYS = (
    *(*ROW, "qid", "choices", "Choice A", "option_B", "answer_type", "q_lang", "phrase_type"),
    *("split", "category", "conversations", "Answer_label", "img_name"),
)
ODD = (None, True, 0, -1, 1.5, float("nan"), "", " ", "A", "yes", "\u80ba", "closed", "\ud800")


def odd_value(rng, depth=2):
    kind = rng.randrange(6 if depth else 4)
    if kind == 4:
        return [odd_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 5:
        return {rng.choice(("from", "value", "x")): odd_value(rng, depth - 1) for _ in range(2)}
    return rng.choice(ODD)


def odd_row(rng):
    row = dict(ROW) if rng.random() < 0.6 else {}
    return row | {rng.choice(KEYS): odd_value(rng) for _ in range(rng.randrange(5))}


def test_any_row_is_a_question_or_a_named_error():
    rng = random.Random(0)
    kept = 0
    for _ in range(5_000):
        row = odd_row(rng)
        try:
            found = list(parse_row(row, default_id="d", where="row 7 of x"))
        except RecordError as error:
            named = str(error)
            assert "row 7 of x" in named, row
        else:
            kept += 1
            assert all(item.question.question and item.question.answer for item in found)
    assert 500 < kept < 4_500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "no 'question'"),
        ({"answer": None}, "no 'answer'"),
        ({"image": 5}, "image must be"),
        ({"id": [1]}, "id must be"),
        ({"choices": 3}, "choices must be"),
        ({"choices": ["no", "maybe"]}, "none of the choices"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "do not alternate"),
    ],
)
def test_a_bad_row_says_why(change, reason):
    with pytest.raises(RecordError, match=reason):
        list(parse_row({**ROW, **change}, default_id="d", where="here"))


def test_a_csv_with_too_many_fields_is_read(tmp_path):
    file = tmp_path / "test.csv"
    file.write_text("question,answer\nIs it?,yes,more,fields\nIs it?\n")
    found = load_questions(str(file))
    assert len(found.questions) == 1
    assert found.notes == ("1 rows left out: no 'answer'.",)


def test_any_json_array_is_read_or_refused(tmp_path):
    rng = random.Random(1)
    file = tmp_path / "test.json"
    for _ in range(300):
        file.write_text(json.dumps([odd_row(rng) for _ in range(rng.randrange(4))]))
        try:
            load_questions(str(file))
        except MedllavaError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is right


CIRCULATING = Path(__file__).parents[2] / "fixtures" / "eval" / "rows.jsonl"


@pytest.mark.parametrize(
    "case",
    [json.loads(line) for line in CIRCULATING.read_text(encoding="utf-8").splitlines()],
    ids=lambda case: case["why"],
)
def test_a_circulating_row_is_read_right_or_refused(case):
    question = next(parse_row(case["row"], default_id="d", where="w7")).question
    if isinstance(case["want"], str):  # in words
        if "images" in case["want"]:
            assert question.images == tuple(case["row"]["images"])
        else:
            assert question.answers == tuple(case["row"]["answer"])
        return
    found = question.to_json()
    assert {key: found[key] for key in case["want"]} == case["want"]


@pytest.mark.parametrize(
    ("row", "choices", "answer"),
    [
        ({"options": {"B": "y", "A": "x"}, "answer": "A"}, ["x", "y"], "x"),
        ({"choices": ["A. x", "B. y"], "answer": "B. y"}, ["x", "y"], "y"),
        (
            {"choices": ["A: S. aureus", "B: E. coli"], "answer": "A"},
            ["S. aureus", "E. coli"],
            None,
        ),
        ({"A": "x", "B": "y", "C": "", "D": float("nan"), "answer": "A"}, ["x", "y"], "x"),
        ({"choices": ["Yes", "No"], "answer": True}, ["Yes", "No"], "Yes"),
        ({"image_1": "a.png", "options": '["x", "y"]', "answer": "A"}, ["x", "y"], "x"),
    ],
)
def test_choices_in_lists_objects_strings_and_columns(row, choices, answer):
    found = next(parse_row({"id": 1, "question": "Q", **row}, default_id="d", where="w")).question
    assert list(found.choices) == choices
    assert found.answer == (answer or choices[0])


@pytest.mark.parametrize(
    "row",
    [
        {"options": {"A": "x", "C": "y"}, "answer": "A"},
        {"B": "x", "C": "y", "answer": "B"},
        {"options": "x or y", "answer": "x"},
        {"image_1": "a", "image_2": 7, "answer": "yes"},
        {"image": ["a", {"b": 1}], "answer": "yes"},
        {"choices": ["x", "y"], "answer": 1},
        {"choices": ["x", "y"], "answer": ["x", "z"]},
        {"answer": ["x", None]},
        {"answer": "x", "box": [0.1, 0.2, 0.05, 0.9]},
        {"answer": "x", "box": [10, 20, 50, 90]},
        {"answer": "x", "alternatives": [["x"], [1]]},
    ],
)
def test_a_row_that_says_more_than_is_read_is_refused(row):
    with pytest.raises(RecordError):
        next(parse_row({"id": 1, "question": "Q", **row}, default_id="d", where="w"))
