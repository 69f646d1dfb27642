"""Sets of answers, boxes, pairs and several images: what they score."""

import numpy as np
import pytest

from medllava.eval.score.scores import METRIC_NAMES, image_clusters, score_replies
from medllava.records import AnswerType, Question
from medllava.score.boxes import stated_box


def make(number=0, **changes):
    fields = {"image": "a.png", "question": "Which?", "answer": "x", "answer_type": AnswerType.OPEN}
    return Question(id=str(number), **(fields | changes))


def scores(question, reply):
    row = score_replies([question], [reply])[0]
    return {n: v for n, v in zip(METRIC_NAMES, row, strict=True) if not np.isnan(v)}


SIDES = make(answer="left lung, right lung", answers=("left lung", "right lung"))
LETTERS = make(
    answer="edema, effusion",
    answers=("edema", "effusion"),
    choices=("edema", "mass", "effusion"),
    answer_type=AnswerType.CLOSED,
)


@pytest.mark.parametrize(
    ("question", "reply", "accuracy", "f1"),
    [
        (SIDES, "right lung, left lung", 1, 1),
        (SIDES, "The left lung and the right lung.", 1, 1),
        (SIDES, "- Left lung\n- Right lung", 1, 1),
        (SIDES, "left lung", 0, 2 / 3),
        (SIDES, "left lung, right lung, heart", 0, 0.8),
        (SIDES, "heart", 0, 0),
        (SIDES, "", 0, 0),
        (LETTERS, "A, C", 1, 1),
        (LETTERS, "C and A", 1, 1),
        (LETTERS, "AC", 1, 1),
        (LETTERS, "edema, effusion", 1, 1),
        (LETTERS, "<think>B?</think>Answer: A, C", 1, 1),
        (LETTERS, "A", 0, 2 / 3),
        (LETTERS, "A, B, C", 0, 0.8),
    ],
)
def test_a_set_is_right_as_a_whole_and_has_an_f1(question, reply, accuracy, f1):
    found = scores(question, reply)
    assert found["accuracy"] == accuracy
    assert found["exact_match"] == accuracy
    assert found["set_f1"] == pytest.approx(f1)


def test_a_member_with_a_comma_in_its_name_stays_whole():
    question = make(answer="atelectasis, left, effusion", answers=("atelectasis, left", "effusion"))
    assert scores(question, "Effusion, atelectasis, left")["accuracy"] == 1


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[100, 200, 300, 400]", (0.1, 0.2, 0.3, 0.4)),
        ("The box is (0.1, 0.2, 0.3, 0.4).", (0.1, 0.2, 0.3, 0.4)),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "a"}]\n```', (0.1, 0.2, 0.3, 0.4)),
        ("[300, 200, 100, 400]", None),
        ("[100, 200, 1300, 400]", None),
        ("upper left", None),
    ],
)  # fmt: skip
def test_a_box_is_read_or_it_is_none(reply, box):
    assert stated_box(reply) == (pytest.approx(box) if box else None)


def test_a_box_scores_its_overlap_and_no_words():
    question = make(box=(0.1, 0.1, 0.5, 0.5), answer="liver")
    found = scores(question, "[100, 100, 500, 300]")
    assert (found["box_iou"], found["accuracy"]) == (pytest.approx(0.5), 1)
    assert "exact_match" not in found
    assert scores(question, "[100, 100, 500, 299]")["accuracy"] == 0


def test_a_group_is_right_if_all_of_it_are():
    yes = {"answer_type": AnswerType.CLOSED, "answer": "yes"}
    no = {"answer_type": AnswerType.CLOSED, "answer": "no"}
    questions = [
        make(0, group="a", **yes), make(1, group="b", **yes), make(2, group="a", **no),
        make(3, group="b", **no), make(4, **yes),
    ]  # fmt: skip
    values = score_replies(questions, ["yes", "yes", "yes", "no", "no"])
    column = values[:, METRIC_NAMES.index("group_accuracy")]
    assert column[0] == 0
    assert column[1] == 1
    assert np.isnan(column[2:]).all()


def test_images_that_are_shown_together_are_one_cluster():
    questions = [
        make(0, image="a"),
        make(1, image="b"),
        make(2, image="c", more_images=("a", "d")),
        make(3, image="d"),
        make(4, image=None),
    ]
    first, second, third, fourth, last = image_clusters(questions)
    assert first == third == fourth
    assert len({first, second, last}) == 3
