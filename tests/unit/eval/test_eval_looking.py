"""Visual reliance, image sensitivity and hallucinated visual reasoning, against numbers by hand."""

import pytest

from medllava.eval.score.looking import looking_lines, score_looking
from medllava.records import AnswerType, Question
from medllava.score.visual_claims import claims_to_see, reasoning_of

CLAIM = "<think>The image shows an opacity in the left lung, so I say so.</think> {}"
NO_CLAIM = "<think>Such questions are nearly always answered in the same way by people.</think> {}"


def question(number, answer="yes"):
    return Question(
        id=str(number),
        image=f"{number}.png",
        question="Is there a mass?",
        answer=answer,
        answer_type=AnswerType.CLOSED,
    )


def look(real, permuted, blank=None, answers=None):
    questions = [question(i, (answers or ["yes"] * len(real))[i]) for i in range(len(real))]
    runs = {("real", 0): real} | {("permuted", i): order for i, order in enumerate(permuted)}
    if blank is not None:
        runs["blank", 0] = blank
    return score_looking(questions, runs, draws=50, seed=0)


def values(found):
    return {name: e["value"] for name, e in found["scores"].items()}


def test_the_three_numbers_are_those_of_a_hand_count():
    real = [CLAIM.format("yes"), CLAIM.format("yes"), NO_CLAIM.format("no"), "yes"]
    orders = [["yes", "no", "no", "no"], ["yes", "no", "no", "yes"]]
    found = look(real, orders, blank=["yes", "no", "yes", "yes"])
    # Right: real 1 1 0 1; orders 1 0 0 0 and 1 0 0 1, on average 1 0 0 1/2.
    # Changed: 0 1 0 and one of two. Three reason, two claim, one of these never changes.
    assert values(found) == {
        "visual_reliance": pytest.approx((0 + 1 + 0 + 0.5) / 4),
        "image_sensitivity": pytest.approx((0 + 1 + 0 + 0.5) / 4),
        "visual_claims": pytest.approx(2 / 3),
        "hallucinated_visual_reasoning": pytest.approx(1 / 3),
        "hallucinated_claims": pytest.approx(1 / 2),
    }
    assert found["num_reasoning"] == 3
    assert found["orders"] == 2
    assert found["compared_with"] == ["permuted", "blank"]
    lines = looking_lines(found)
    assert lines[0].startswith("visual reliance (VRS) 37.5")
    assert "(IS) 37.5" in lines[0]
    assert "HVRR) 33.3" in lines[1]
    assert "50.0" in lines[1]


def test_an_answer_that_changes_with_a_blank_image_is_not_hallucinated():
    found = look([CLAIM.format("yes")] * 2, [["yes", "yes"]], blank=["no", "yes"])
    assert values(found)["hallucinated_visual_reasoning"] == 0.5
    assert values(found)["image_sensitivity"] == 0


def test_worse_than_with_another_image_is_below_zero():
    assert values(look(["no", "no"], [["yes", "yes"]]))["visual_reliance"] == -1


def test_where_nothing_reasons_there_is_no_number_and_no_zero():
    found = look(["yes", "no"], [["yes", "yes"]])
    assert set(found["scores"]) == {"visual_reliance", "image_sensitivity"}
    assert looking_lines(found)[-1].endswith("HVRR) -: no reply reasons")


def test_without_another_image_there_is_nothing_to_compare():
    assert look(["yes", "no"], []) is None


@pytest.mark.parametrize(
    ("reply", "reasons", "claims"),
    [
        ("yes", False, False),
        ("The answer is yes.", False, False),
        (CLAIM.format("B"), True, True),
        (NO_CLAIM.format("B"), True, False),
        ("I can see a large mass near the hilum on the left side. Answer: B", True, True),
        ("There is a small effusion at the base of the left lung. Answer: yes", True, True),
        ("Pneumonia is common in older patients, so it is likeliest. Answer: B", True, False),
        ("<think>cut off while the film shows a mass in the upper lobe of", True, True),
    ],
)  # fmt: skip
def test_reasoning_and_claims_are_told_from_answers(reply, reasons, claims):
    reasoning = reasoning_of(reply)
    assert bool(reasoning) is reasons
    assert claims_to_see(reasoning) is claims
