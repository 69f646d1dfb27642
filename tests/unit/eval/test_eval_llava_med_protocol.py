"""LLaVA-Med's own numbers, on vectors computed with its released scripts."""

import math

import pytest

from medllava.eval.score import llava_med_protocol as legacy
from medllava.eval.score.llava_med_scores import score_llava_med
from medllava.records import AnswerType, Question

OPEN, CLOSED = AnswerType.OPEN, AnswerType.CLOSED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x-ray", "x ray"),
        ("x - ray", "x ray"),
        ("1,000 ml", "1000 ml"),
        ("10,5", "105"),
        ("5.5 cm", "5.5 cm"),
        ("none", "0"),
        ("no one", "no 1"),
        ("a/b", "b"),
        ("u.s.a.", "usa"),
        ("dont", "don't"),
        ("pa/ap view", "pa ap view"),
        ("ct: contrast", "ct: contrast"),
        ("no; yes", "no yes"),
        ("50%", "50%"),
        ("", ""),
        ("The", ""),
        ("a." * 40, "a" * 32 + "a." * 8),
        ("\u80ba\u90e8 \u5065\u5eb7", "\u80ba\u90e8 \u5065\u5eb7"),
        ("shed couldnt've somebody'd", "shed couldn't've somebodyd"),
    ],
)
def test_normalization(text, expected):
    assert legacy.normalize(text) == expected


@pytest.mark.parametrize(
    ("reply", "reference", "f1", "precision", "recall", "exact"),
    [
        ("left lung", "left lung", 1, 1, 1, 1),
        ("the left left left", "left lung", 0.8571, 1, 0.75, 0.3333),
        ("left left left", "left lung", 0.8571, 1, 0.75, 0.3333),
        (
            "the image shows a pleural effusion on the right side",
            "right pleural effusion",
            *(0.6, 0.4286, 1, 0.4286),
        ),
        ("right", "left", 0, 0, 0, 0),
        ("", "left", 0, 0, 0, 0),
        ("left", "", 0, 0, 0, 0),
    ],
)
def test_token_scores(reply, reference, f1, precision, recall, exact):
    found = (*legacy.token_scores(reply, reference), legacy.exact_match(reply, reference))
    assert [round(value, 4) for value in found] == [f1, precision, recall, exact]


@pytest.mark.parametrize(
    ("reply", "reference", "gated", "before", "batch"),
    [
        ("There is a normal heart", "no", 1, 1, 1),  # "no" is found inside "normal"
        ("There is a normal heart", "yes", 0, None, 0),  # wrong, and left out before the fix
        ("yes and no", "no", 1, 1, 1),
        ("yes and no", "yes", 1, 1, 1),
        ("Left side", "left", 0, 0, 1),  # no "yes" or "no" anywhere: a miss for run_eval
        ("left, not right", "left", 1, 1, 1),
        ("", "no", 0, 0, 0),
        ("\u4e0d\u5065\u5eb7", "\u5065\u5eb7", 0, 0, 1),
    ],
)
def test_closed_rules(reply, reference, gated, before, batch):
    assert legacy.closed_gated(reply, reference) == gated
    found = legacy.closed_before_fix(reply, reference)
    assert math.isnan(found) if before is None else found == before
    assert legacy.is_inside(reply, reference) == batch


@pytest.mark.parametrize(
    ("reply", "reference", "bleu4", "orders"),
    [
        ("a b c d e", "a b c d e", 1, (1, 1, 1)),
        ("right pleural effusion", "large right pleural effusion", 0, (0.7165, 0.7165, 0.7165)),
        ("no", "no", 0, (1, 0, 0)),
        ("left", "right", 0, (0, 0, 0)),
        ("", "right", 0, (0, 0, 0)),
    ],
)
def test_bleu_without_smoothing(reply, reference, bleu4, orders):
    reply, reference = (text.replace("a b", "x b") for text in (reply, reference))
    assert legacy.bleu(reply, reference) == pytest.approx(bleu4, abs=5e-5)
    found = [legacy.bleu(reply, reference, order=order) for order in (1, 2, 3)]
    assert found == pytest.approx(orders, abs=5e-5)


def test_the_nearest_training_answer_counts():
    matcher = legacy.CandidateMatcher(["mri", "left lung", "lung"])
    assert matcher.hit("it is the left lung", "left lung") == 1  # a tie; the first one wins
    assert matcher.hit("it is the left lung", "lung") == 0
    assert matcher.hit("xyzzy", "MRI") == 1  # nonsense takes the first candidate
    assert matcher.hit("", "lung") == 0


def make(number, answer, kind):
    return Question(
        id=str(number), image=f"{number}.jpg", question="?", answer=answer, answer_type=kind
    )


def test_a_whole_set_has_the_scripts_numbers_and_denominators():
    questions = [
        make(0, "no", CLOSED),
        make(1, "yes", CLOSED),
        make(2, "left", CLOSED),
        make(3, "left lung", OPEN),
        make(4, "pleural effusion", OPEN),
    ]
    replies = ["normal", "normal", "left", "left left left", "effusion"]
    found = score_llava_med(questions, [replies], candidates=["left"], draws=50, seed=0)
    scripts = found["scripts"]

    def number(script, name):
        estimate = scripts[script][name]
        return round(estimate["value"], 4), estimate["num_questions"]

    assert number("run_eval", "closed_accuracy") == (33.3333, 3)
    assert number("run_eval_before_fix_35", "closed_accuracy") == (50.0, 2)
    assert number("run_eval_batch", "closed_accuracy") == (66.6667, 3)
    assert number("run_eval_batch", "recall_closed") == (33.3333, 3)
    assert number("run_eval", "recall") == (62.5, 2)
    assert number("run_eval", "f1") == (76.1905, 2)
    assert number("run_eval", "exact_match") == (66.6667, 2)
    assert number("run_eval", "open_accuracy") == (0.0, 2)
    assert number("run_eval_batch", "open_accuracy") == (0.0, 2)
    assert found["paper"]["open"]["value"] == pytest.approx(62.5)
    assert found["paper"]["closed"]["value"] == pytest.approx(200 / 3)


def test_nothing_counted_prints_zero_as_the_script_does():
    found = score_llava_med([make(0, "yes", CLOSED)], [["no"]], candidates=[], draws=10, seed=0)
    assert found["scripts"]["run_eval_before_fix_35"]["closed_accuracy"]["value"] == 0
    assert "open" not in found["paper"]
