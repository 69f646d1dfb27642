"""Choices that deny: probes that provoke them, the rule that puts them right, their scores."""

import json

import pytest

from medllava.errors import DataError
from medllava.eval.config import EvalConfig, Verifier, parse_verifiers
from medllava.eval.polarity_probes import absence_alteration, negate_option, presence_alteration
from medllava.eval.probes import Probe, build_probes, expected_base
from medllava.eval.run import evaluate_task, score_lines
from medllava.eval.score.probe_scores import score_probes
from medllava.records import AnswerType, Question
from medllava.score.polarity import (
    asks_what_is_present,
    denial_of,
    denied_choice,
    denies,
    verified_reply,
)
from medllava.store import read_json


def closed(asked, answer, *choices, key="q", image="a.png"):
    return Question(
        id=key,
        image=image,
        question=asked,
        answer=answer,
        answer_type=AnswerType.CLOSED,
        choices=choices,
    )


PRESENT = "Which finding is present on this chest X-ray?"
PROBE = closed(PRESENT, "Consolidation", "Consolidation", "Pleural effusion", "No consolidation")


@pytest.mark.parametrize(
    ("asked", "is_presence"),
    [
        (PRESENT, True),
        ("Which of the following findings is present?", True),
        ("Which abnormality is seen in the left lung?", True),
        ("Which finding is absent?", False),
        ("Which finding is not present?", False),
        ("Which finding is least likely present?", False),
        ("Which of these is present, except for the heart?", False),
        ("Is there an effusion?", False),
        ("Which modality was used?", False),
    ],
)
def test_presence_is_told_from_absence_and_from_other_questions(asked, is_presence):
    assert asks_what_is_present(asked) is is_presence


def test_a_denial_is_told_by_whole_words():
    for choice in ("No edema", "Negative for edema", "Normal", "Clear lungs", "edema absent"):
        assert denies(choice), choice
    for choice in ("Nodule", "Abnormal", "Nuclear edema", "Pneumothorax", "Notch"):
        assert not denies(choice), choice
    assert denial_of("Pleural effusion") == "No pleural effusion"
    assert denial_of("COPD") == "No COPD"


@pytest.mark.parametrize(
    ("question", "reply", "verified"),
    [
        (PROBE, "C", "Consolidation"),
        (PROBE, "The answer is (C) No consolidation.", "Consolidation"),
        (PROBE, "B", "B"),
        (PROBE, "A or C", "A or C"),
        # Two denials: which one is meant is not certain.
        (closed(PRESENT, "Edema", "Edema", "Mass", "No edema", "No mass"), "C", "C"),
        # Nothing stands against it, or it is asked for what is absent.
        (closed(PRESENT, "Mass", "Mass", "Nodule", "No edema"), "C", "C"),
        (closed("Which finding is absent?", "Edema", "Edema", "Mass", "No edema"), "C", "C"),
        (closed(PRESENT, "Edema", "Edema", "Mass", "No evidence of edema"), "C", "Edema"),
    ],
)
def test_the_rule_changes_what_it_is_sure_of_and_nothing_else(question, reply, verified):
    assert verified_reply(question, reply) == verified


def test_a_denial_without_counterpart_is_still_counted():
    alone = closed(PRESENT, "Mass", "Mass", "Nodule", "No edema")
    assert denied_choice(alone, "C") == "No edema"
    assert denied_choice(alone, "A") is None


LONG = "because the heart is much too large here"


def test_the_denial_of_the_right_choice_takes_the_place_of_a_wrong_one():
    question = closed("What is seen?", "Edema", "Mass", "Edema", "Nodule", "Fracture")
    made = negate_option(question, seed=0)
    assert made.answer == "Edema"
    assert len(made.choices) == 4
    assert "No edema" in made.choices
    assert "Edema" in made.choices
    assert negate_option(question, seed=0) == made
    two = negate_option(closed("CT or MRI?", "CT", "CT", "MRI"), seed=0)
    assert sorted(two.choices) == ["CT", "MRI", "No CT"]
    for unfit in (
        PROBE,
        closed("Is it?", "yes", "yes", "no"),
        closed("How many?", "12", "12", "3", "4"),
        closed("Why?", LONG, "a", LONG),
        closed("Is there?", "yes"),
    ):  # fmt: skip
        assert negate_option(unfit, seed=0) is None


FOUR = [
    closed("Is there an effusion in this image?", "yes", key="1"),
    closed("Are there any nodules?", "no", key="2"),
    closed("Is pneumothorax present?", "no", key="3"),
    closed("Is there a mass?", "yes", key="4", image="b.png"),
    closed("Is the heart enlarged?", "yes", key="5"),
    closed("Is there no edema?", "yes", key="6"),
]


def test_the_direct_probe_is_made_of_findings_of_one_image():
    alter = presence_alteration(FOUR, seed=0)
    made = alter(FOUR[0])
    assert made.question == "Which finding is present?"
    assert sorted(made.choices) == ["Effusion", "No effusion", "Nodules"]
    assert made.answer == "Effusion"
    assert made.id == "1"
    # No finding is known to be absent of image b; a denial is no finding; "enlarged" is none.
    assert [alter(question) for question in FOUR[1:]] == [None] * 5
    absent = absence_alteration(FOUR, seed=0)(FOUR[2])
    assert absent.question == "Which finding is absent?"
    assert sorted(absent.choices) == ["Effusion", "No pneumothorax", "Pneumothorax"]
    assert absent.answer == "Pneumothorax"


def test_consistency_under_presence_follows_the_picked_choice():
    made = presence_alteration(FOUR, seed=0)(FOUR[0])
    assert expected_base("presence", "Effusion", made) == "yes"
    assert expected_base("presence", "No effusion", made) == "no"
    assert expected_base("presence", "Nodules", made) is None
    absent = absence_alteration(FOUR, seed=0)(FOUR[2])
    assert expected_base("absence", "Pneumothorax", absent) == "no"
    assert expected_base("absence", "No pneumothorax", absent) is None


def test_a_model_that_denies_is_shown_and_put_right():
    made = {k: v for k, v in build_probes(FOUR, (Probe.PRESENCE,), seed=0).items() if v}
    (probed,) = made["presence"]
    denial = "ABC"[probed.question.choices.index("No effusion")]
    real = ["yes", "no", "no", "yes", "yes", "yes"]
    report = score_probes(FOUR, real, made, {"presence": [denial]}, draws=10, seed=0)["presence"]
    assert (report["num_questions"], report["left_out"]) == (1, 5)
    assert report["denied"]["value"] == 1
    assert (report["accuracy"]["value"], report["verified"]["value"]) == (0, 1)


def test_verified_replies_stand_beside_the_real_ones(tmp_path):
    rows = [PROBE, closed(PRESENT, "Edema", "Mass", "Edema", "No edema", key="r", image="b.png")]
    task, answers = tmp_path / "questions.jsonl", tmp_path / "p.jsonl"
    task.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    answers.write_text('{"id": "q", "text": "C"}\n{"id": "r", "text": "A"}\n')
    config = EvalConfig(
        task=str(task),
        predictions=answers,
        output_dir=tmp_path / "out",
        verify=parse_verifiers("polarity"),
        draws=20,
    )
    summary = evaluate_task(config)
    report = read_json(summary.artifacts["report"])
    scores = {name: e["accuracy"]["value"] for name, e in report["conditions"].items()}
    assert scores == {"real": 0.0, "verified": 0.5}
    assert report["verified"] == {
        "rules": ["polarity"],
        "asked_what_is_present": 2,
        "denial_picked": 1,
        "changed": 1,
        "improved": 1,
        "worsened": 0,
        "without_counterpart": 0,
    }
    assert any(line.startswith("verified (polarity): 1 replies") for line in score_lines(summary))
    assert "Verified: polarity" in summary.artifacts["page"].read_text()


def test_an_unknown_verifier_is_named():
    assert parse_verifiers("") == ()
    assert parse_verifiers("all") == tuple(Verifier)
    with pytest.raises(DataError, match="--verify 'truth' is not one of polarity"):
        parse_verifiers("truth")
