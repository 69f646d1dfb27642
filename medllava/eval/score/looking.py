"""Does the answer depend on the picture, and does the reasoning claim that it does?

Replies to the real picture, to another one and to a blank one enter; visual reliance, image
sensitivity and hallucinated visual reasoning leave, each with its 95 % interval over images.

Source: "Beyond Accuracy", 2026, arXiv 2603.03437, which introduces the three as VRS, IS and HVRR;
how exactly we count them stands in docs/eval.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medllava.eval.config import PERMUTATIONS, Condition
from medllava.eval.score.intervals import bootstrap
from medllava.eval.score.scores import METRIC_NAMES, image_clusters, score_replies, scored_text
from medllava.records import AnswerType, Question
from medllava.score.closed import chosen_answer
from medllava.score.normalize import words
from medllava.score.visual_claims import claims_to_see, reasoning_of

LOOKING = (
    "visual_reliance",
    "image_sensitivity",
    "visual_claims",
    "hallucinated_visual_reasoning",
    "hallucinated_claims",
)
"""Accuracy with the picture minus accuracy with another (VRS); share of answers that are another
one with another picture (IS); of replies that reason, the share that claims to see something, the
share that claims so and has the same answer whatever is shown (HVRR), the latter among claims."""

Runs = Mapping[tuple[str, int], Sequence[str | None]]


def score_looking(
    questions: Sequence[Question], runs: Runs, *, draws: int, seed: int
) -> dict[str, Any] | None:
    """Return the three numbers, or None where no other picture was shown.

    Args:
        questions: in the order of the replies.
        runs: (condition, seed) to replies; the lowest seed of `real` is compared with every order
            of `permuted` (or, where that was not asked, `permuted_within`) and with `blank`.
        draws: of the bootstrap.
        seed: of the draws.
    """
    real = next(replies for run, replies in sorted(runs.items()) if run[0] == Condition.REAL)
    others = _orders(runs)
    if not others:
        return None
    blank = [replies for run, replies in sorted(runs.items()) if run[0] == Condition.BLANK]
    columns = np.full((len(questions), len(LOOKING)), np.nan)
    accuracy = METRIC_NAMES.index("accuracy")
    right = score_replies(questions, real)[:, accuracy]
    elsewhere = np.mean([score_replies(questions, r)[:, accuracy] for r in others], axis=0)
    columns[:, 0] = right - elsewhere
    for row, question in enumerate(questions):
        said = real[row]
        shown = [replies[row] for replies in others]
        if said is None or not question.images or any(reply is None for reply in shown):
            columns[row] = np.nan
            continue
        changed = [_answer(question, reply or "") != _answer(question, said) for reply in shown]
        columns[row, 1] = np.mean(changed)
        reasoning = reasoning_of(said)
        if reasoning:
            blanks = [replies[row] or "" for replies in blank]
            is_same = not any(changed) and all(
                _answer(question, reply) == _answer(question, said) for reply in blanks
            )
            columns[row, 2:] = _reasoned(claims=claims_to_see(reasoning), is_same=is_same)
    result = bootstrap(columns, image_clusters(questions), draws=draws, seed=seed)
    estimates = {name: result.estimate(i) for i, name in enumerate(LOOKING)}
    return {
        "compared_with": [name for name in _compared(runs) if name],
        "orders": len(others),
        "num_reasoning": int(np.sum(~np.isnan(columns[:, 2]))),
        "scores": {n: e.to_json() for n, e in estimates.items() if e.value is not None},
    }


def looking_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the three numbers as lines for a terminal."""
    scores, reasoning = found["scores"], found["num_reasoning"]

    def said(name: str) -> str:
        estimate = scores[name]
        text = f"{100 * estimate['value']:.1f}"
        if estimate["low"] is None:
            return text
        return f"{text} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"

    if "visual_reliance" not in scores:
        return []
    lines = [
        f"visual reliance (VRS) {said('visual_reliance')}, "
        f"image sensitivity (IS) {said('image_sensitivity')}: "
        f"against {' and '.join(found['compared_with'])}, {found['orders']} orders"
    ]
    if not reasoning:
        return [*lines, "hallucinated visual reasoning (HVRR) -: no reply reasons"]
    of_claims = (
        f", {said('hallucinated_claims')} of these" if "hallucinated_claims" in scores else ""
    )
    return [
        *lines,
        f"of {reasoning:,} replies that reason, {said('visual_claims')} claim to see something; "
        f"hallucinated visual reasoning (HVRR) {said('hallucinated_visual_reasoning')}{of_claims}",
    ]


def _reasoned(*, claims: bool, is_same: bool) -> tuple[float, float, float]:
    return float(claims), float(claims and is_same), float(is_same) if claims else float("nan")


def _orders(runs: Runs) -> list[Sequence[str | None]]:
    """Return the replies to other pictures, one list per order: of all images, else of the kind."""
    for condition in reversed(PERMUTATIONS):
        found = [replies for run, replies in sorted(runs.items()) if run[0] == condition]
        if found:
            return found
    return []


def _compared(runs: Runs) -> list[str | None]:
    conditions = {run[0] for run in runs}
    other = next((c.value for c in reversed(PERMUTATIONS) if c.value in conditions), None)
    return [other, Condition.BLANK.value if Condition.BLANK.value in conditions else None]


def _answer(question: Question, reply: str) -> tuple[str, ...]:
    """Return what a reply answers, in a form in which equal answers are equal."""
    if question.answer_type is AnswerType.CLOSED:
        return (chosen_answer(question, reply) or "(unclear)",)
    return words(scored_text(question, reply))
