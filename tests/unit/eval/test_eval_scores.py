"""Strict scores on strings that break careless scorers."""

import numpy as np
import pytest

from medllava.eval.score.scores import METRIC_NAMES, image_clusters, score_replies
from medllava.records import AnswerType, Question
from medllava.score import open_ended as open_
from medllava.score.closed import answer_word, chosen_answer, closed_hit
from medllava.score.normalize import words


def closed(answer, question="Is the heart normal?", choices=()):
    return Question(
        id="q",
        image="i",
        question=question,
        answer=answer,
        answer_type=AnswerType.CLOSED,
        choices=choices,
    )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("No", "no"),
        ("no.", "no"),
        ("Yes, there is no doubt.", "yes"),
        ("No, it is not.", "no"),
        ("NO!", "no"),
        ("\uff59\uff45\uff53", "yes"),  # full-width letters
        ("The answer is yes.", "yes"),
        ("There is a normal heart", None),
        ("I know nothing of nodules.", None),
        ("yes no", None),
        ("Yes, no", None),
        ("yes or no", None),
        ("", None),
        ("   ", None),
        ("\u662f\u7684", "yes"),
        ("\u4e0d\u662f", "no"),
        ("\u6ca1\u6709", "no"),
        ("\u80ba", None),
    ],
)
def test_yes_and_no_are_whole_words(reply, said):
    assert answer_word(reply) == said


def test_no_inside_normal_is_not_a_no():
    assert closed_hit(closed("no"), "There is a normal heart") is None
    assert closed_hit(closed("no"), "No abnormality") is True
    assert closed_hit(closed("yes"), "No abnormality") is False


@pytest.mark.parametrize(
    ("reply", "hit"),
    [("It is an MRI.", True), ("CT", False), ("MRI or CT", None), ("", None), ("mrix", None)],
)
def test_alternatives_in_the_question_are_choices(reply, hit):
    assert closed_hit(closed("mri", "Is this a CT or MRI?"), reply) is hit


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [
        ("B", "left lung"),
        ("(b)", "left lung"),
        ("B. right lung", "left lung"),
        ("The answer is C", "lung"),
        ("left lung", "left lung"),
        ("it is the left lung", "left lung"),
        ("lung", "lung"),
        ("A or B", None),
        ("both the right lung and the left lung", None),
        ("", None),
    ],
)
def test_a_choice_by_letter_or_words(reply, chosen):
    question = closed("left lung", choices=("right lung", "left lung", "lung"))
    assert chosen_answer(question, reply) == chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-ray", ("x", "ray")),
        ("1,000 ml", ("1000", "ml")),
        ("5.5 cm", ("5.5", "cm")),
        ("U.S.A.", ("usa",)),
        ("the", ("the",)),
        ("two lungs", ("2", "lungs")),
        ("\u80ba\u90e8\u5065\u5eb7", ("\u80ba", "\u90e8", "\u5065", "\u5eb7")),
        ("caf\u00e9 \u212b", ("caf\u00e9", "\u00e5")),
        ("", ()),
        ("!?", ()),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_saying_a_word_three_times_finds_it_once():
    assert open_.token_recall("left left left", "left lung") == 0.5
    assert open_.token_f1("left left left", "left lung") == pytest.approx(0.4)
    assert open_.repetition("left left left") == pytest.approx(2 / 3)
    assert open_.token_recall("", "left lung") == open_.token_f1("", "left") == 0
    assert open_.exact_match("The left lung.", "left lung") == 1


def test_bleu_is_that_of_sacrebleu():
    import sacrebleu

    reply, reference = "right pleural effusion is seen", "large right pleural effusion"
    metric = sacrebleu.BLEU(effective_order=True, tokenize="none")
    expected = metric.sentence_score(reply, [reference]).score / 100
    assert open_.bleu(reply, reference) == pytest.approx(expected)
    assert open_.bleu("", "x") == 0


def test_a_metric_counts_only_the_questions_it_is_meant_for():
    questions = [closed("no"), closed("yes")]
    values = score_replies(questions, ["normal", "yes"])
    column = dict(zip(METRIC_NAMES, values.T, strict=True))
    assert column["closed_accuracy"].tolist() == [0, 1]
    assert column["unparseable"].tolist() == [1, 0]
    assert np.isnan(column["open_token_f1"]).all()
    assert image_clusters(questions).tolist() == [0, 0]
