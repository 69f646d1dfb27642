"""Replies as models write them: each is scored right, or said to be no clear answer."""

import json
from pathlib import Path

import pytest

from medllava.eval.score.scores import METRIC_NAMES, score_replies
from medllava.records import AnswerType, Question
from medllava.score.closed import closed_hit
from medllava.score.final_answer import final_answer

FOLDER = Path(__file__).parents[2] / "fixtures" / "eval"
CLOSED_FILES = ("mc_replies", "yes_no_replies", "alternatives")


def rows(*names):
    return [
        json.loads(line)
        for name in names
        for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def asked(row):
    return Question(
        id="q",
        image=None,
        question=row.get("question", "Is there a mass?"),
        answer=row["gold"],
        answer_type=AnswerType.CLOSED,
        choices=tuple(row.get("choices", ())),
    )


@pytest.mark.parametrize(
    "row", rows(*CLOSED_FILES, *(f"own_{n}" for n in CLOSED_FILES)), ids=lambda row: row["reply"]
)
def test_a_reply_is_right_wrong_or_no_clear_answer(row):
    assert closed_hit(asked(row), row["reply"]) is row["right"]


@pytest.mark.parametrize(
    "row", rows("open_pairs", "own_open_pairs"), ids=lambda row: f"{row['reply']} {row['gold']}"
)
def test_open_answers_match_by_meaningful_words(row):
    question = Question(
        id="q", image=None, question="What?", answer=row["gold"], answer_type=AnswerType.OPEN
    )
    values = dict(zip(METRIC_NAMES, score_replies([question], [row["reply"]])[0], strict=True))
    assert values["exact_match"] == values["open_exact_match"] == row["exact_match"]
    assert values["accuracy"] == row["exact_match"]


def test_a_letter_scores_the_text_of_its_choice():
    question = asked({"gold": "Pleural effusion", "choices": ["Normal", "Pleural effusion"]})
    values = dict(zip(METRIC_NAMES, score_replies([question], ["Answer: B"])[0], strict=True))
    assert values["exact_match"] == values["token_recall"] == values["accuracy"] == 1


def test_reasoning_that_was_cut_off_is_no_answer():
    assert final_answer("<think>The answer is yes because") == ""
    assert final_answer("</think>\n\nYes") == "Yes"
