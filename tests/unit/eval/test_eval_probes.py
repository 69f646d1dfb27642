"""Altered questions have the right answer, and pictures get worse the same way every time."""

import numpy as np
import pytest
from PIL import Image

from medllava.errors import DataError
from medllava.eval.perturbations import corrupt_image, write_corrupted
from medllava.eval.probes import (
    CORRUPTIONS,
    Probe,
    build_probes,
    expected_base,
    negate,
    parse_probes,
    reword,
    shuffle_choices,
)
from medllava.records import AnswerType, Question
from medllava.score.closed import closed_hit


def make(question, answer="yes", *, choices=(), image="a.png", key="q"):
    return Question(
        id=key,
        image=image,
        question=question,
        answer=answer,
        answer_type=AnswerType.CLOSED,
        choices=choices,
    )


@pytest.mark.parametrize(
    ("asked", "denied"),
    [
        ("Is there a fracture?", "Is it true that there is no fracture?"),
        ("Are there any lung nodules?", "Is it true that there are no lung nodules?"),
        ("Is the heart enlarged?", "Is it true that the heart is not enlarged?"),
        ("Does this image show a tumor?", "Is it true that this image does not show a tumor?"),
        ("Can it be seen", "Is it true that it cannot be seen?"),
        (
            "Is the left costophrenic angle blunted?",
            'Is "no" the right answer to the following question: '
            "Is the left costophrenic angle blunted?",
        ),
        (
            "Is there no effusion?",
            'Is "no" the right answer to the following question: Is there no effusion?',
        ),
    ],
)
def test_a_negated_twin_denies_the_statement_and_flips_the_answer(asked, denied):
    for answer, other in (("Yes", "no"), ("no", "yes")):
        twin = negate(make(asked, answer))
        assert (twin.question, twin.answer) == (denied, other)


def test_only_plain_yes_and_no_is_negated():
    assert negate(make("Is it left or right?", "left")) is None
    assert negate(make("Which?", "yes", choices=("yes", "no"))) is None
    assert negate(make("\u662f\u5426\u6709\u80bf\u7624", "\u662f")) is None


def test_the_three_wordings_differ_and_keep_question_and_answer():
    for asked in ("Is there a fracture in this image?", "Is the heart enlarged?", "Left or right?"):
        question = make(asked)
        found = [reword(question, number) for number in range(3)]
        assert len({item.question for item in found} | {asked}) == 4
        assert all(item.answer == question.answer for item in found)
    assert reword(make("Is there a fracture in this image?"), 0).question == (
        "Does the image show a fracture?"
    )


def test_shuffled_choices_move_the_right_one_and_keep_the_set():
    choices = ("CT", "MRI", "x-ray", "ultrasound")
    for key in map(str, range(20)):
        question = make("Which modality?", "B", choices=choices, key=key)
        moved = shuffle_choices(question, seed=0)
        assert sorted(moved.choices) == sorted(choices)
        assert moved.choices.index("MRI") != 1
        letter = "ABCD"[moved.choices.index("MRI")]
        assert closed_hit(moved, letter) is True
        assert moved == shuffle_choices(question, seed=0)


def test_alternatives_without_listed_choices_change_sides():
    moved = shuffle_choices(make("Is the lesion left or right?", "left"), seed=0)
    assert moved.question == "Is the lesion right or left?"
    assert shuffle_choices(make("Is it left or right sided?", "left"), seed=0) is None
    assert shuffle_choices(make("Is there a fracture?"), seed=0) is None


def test_open_questions_and_unfit_ones_are_left_out():
    open_one = Question(
        id="o", image="a.png", question="What?", answer="lung", answer_type=AnswerType.OPEN
    )
    made = build_probes(
        [open_one, make("Is it?", key="c"), make("Is it?", image=None, key="t")],
        tuple(Probe),
        seed=0,
    )
    assert [p.base.id for p in made["negated"]] == ["c", "t"]
    assert [p.base.id for p in made["corrupted-blur"]] == ["c"]
    assert made["corrupted-blur"][0].corruption == "blur"
    assert made["shuffled"] == []
    assert len(made) == 1 + 3 + 1 + 4 + 3


def test_consistency_expects_the_other_word_under_negation_only():
    assert expected_base("negated", "yes", make("Is it?")) == "no"
    assert expected_base("negated", None, make("Is it?")) is None
    assert expected_base("reworded-2", "yes", make("Is it?")) == "yes"


def test_unknown_probes_are_named():
    assert parse_probes("all") == tuple(Probe)
    assert parse_probes("") == ()
    with pytest.raises(DataError, match="'rotated' is not one of"):
        parse_probes("negated,rotated")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_picture_is_different_and_always_the_same(tmp_path, corruption):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    worse = corrupt_image(picture, corruption)
    assert worse.size == picture.size
    assert np.abs(np.asarray(worse).astype(int) - pixels).mean() > 5
    assert corrupt_image(picture, corruption).tobytes() == worse.tobytes()
    file = tmp_path / "a.png"
    picture.save(file)
    written = write_corrupted(file, corruption, tmp_path / "probes")
    assert Image.open(written).tobytes() == worse.tobytes()
    assert write_corrupted(file, corruption, tmp_path / "probes") == written
