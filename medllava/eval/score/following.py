"""Replies that follow from the model's own: put right by a rule, or exchanged for a like report.

Questions and real replies enter; runs of the conditions `verified` and `length_matched` leave. No
model is asked and no image is opened.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from medllava.eval.config import Condition, Verifier
from medllava.records import AnswerType, Question
from medllava.score.closed import chosen_choice, closed_hit
from medllava.score.polarity import asks_what_is_present, denied_choice, denies, verified_reply
from medllava.score.reports import length_matched

Runs = dict[tuple[str, int], list[str | None]]


def following_runs(
    questions: Sequence[Question],
    runs: Mapping[tuple[str, int], Sequence[str | None]],
    *,
    verify: Sequence[Verifier],
) -> Runs:
    """Return what follows from every run of `real`: `verified` if asked for, floors of reports."""
    found: Runs = {}
    for (condition, seed), replies in sorted(runs.items()):
        if condition != Condition.REAL:
            continue
        said = [reply or "" for reply in replies]
        if Verifier.POLARITY in verify:
            pairs = zip(questions, said, strict=True)
            found[Condition.VERIFIED.value, seed] = [verified_reply(q, reply) for q, reply in pairs]
        if any(q.answer_type is AnswerType.REPORT for q in questions):
            found[Condition.LENGTH_MATCHED.value, seed] = _matched(questions, said)
    return found


def describe_verified(
    questions: Sequence[Question], real: Sequence[str], verified: Sequence[str]
) -> dict[str, Any]:
    """Count what a verifier met and changed.

    Args:
        questions: in the order of the replies.
        real: replies as they came.
        verified: the same after the rule.

    Returns:
        Questions after what is present, those answered with a denial, replies that were changed,
        changed for the better and for the worse, and denials that nothing stands against.
    """
    asked = [
        q for q in questions if asks_what_is_present(q.question) and any(map(denies, q.choices))
    ]
    rows = list(zip(questions, real, verified, strict=True))
    changed = [(q, before, after) for q, before, after in rows if before != after]
    right = [
        (closed_hit(q, before) is True, closed_hit(q, after) is True)
        for q, before, after in changed
    ]
    denied = sum(
        (picked := chosen_choice(q.choices, before)) is not None and denies(picked)
        for q, before, _ in rows
        if q.choices and asks_what_is_present(q.question)
    )
    return {
        "rules": [Verifier.POLARITY.value],
        "asked_what_is_present": len(asked),
        "denial_picked": denied,
        "changed": len(changed),
        "improved": sum(after and not before for before, after in right),
        "worsened": sum(before and not after for before, after in right),
        "without_counterpart": sum(
            before == after and denied_choice(q, before) is not None for q, before, after in rows
        ),
    }


def verified_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what the verifier did as a line for a terminal."""
    return [
        f"verified ({', '.join(found['rules'])}): {found['denial_picked']:,} replies deny what is "
        f"asked for; {found['changed']:,} changed, {found['improved']:,} for the better, "
        f"{found['worsened']:,} for the worse"
    ]


def _matched(questions: Sequence[Question], replies: Sequence[str]) -> list[str | None]:
    """Return the floor of reports; other questions have none."""
    rows = [i for i, q in enumerate(questions) if q.answer_type is AnswerType.REPORT]
    floor = length_matched(
        [replies[i] for i in rows],
        [questions[i].answer for i in rows],
        [questions[i].image or questions[i].id for i in rows],
    )
    found: list[str | None] = [None] * len(questions)
    for row, text in zip(rows, floor, strict=True):
        found[row] = text
    return found
