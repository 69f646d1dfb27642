"""Judgements to numbers: relative scores with intervals, and LLaVA-Med's own way beside them.

Judgements enter, plain values for `report.json` leave. The relative score is the candidate's mean
grade over the reference's; LLaVA-Med averages the ratio of each question instead, which a single
low grade of a reference can move far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllava.eval.judged.chat_questions import ChatQuestion
from medllava.eval.judged.judge import Trial
from medllava.eval.score.intervals import Values, bootstrap
from medllava.records import Estimate

_TAIL = 0.025


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge said about one trial, by who wrote the answer and not by where it stood."""

    trial: Trial
    reference: float
    candidate: float


def score_judgements(
    questions: Sequence[ChatQuestion],
    judgements: Sequence[Judgement],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return relative scores overall, by type and by domain, with what the order does to them.

    Args:
        questions: that were asked.
        judgements: those that could be read; a question without any does not count.
        draws: of the bootstrap over images.
        seed: of the draws.
    """
    by_question: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_question.setdefault(judgement.trial.question_id, []).append(judgement)
    grades = np.array([_mean_grades(by_question.get(q.id, ())) for q in questions])
    groups = {"overall": np.ones(len(questions), dtype=bool)}
    for name in sorted({q.kind for q in questions}):
        groups[f"type:{name}"] = np.array([q.kind == name for q in questions])
    for name in sorted({q.domain for q in questions}):
        groups[f"domain:{name}"] = np.array([q.domain == name for q in questions])
    tables = _relative_scores(questions, grades, groups, draws=draws, seed=seed)
    first = [j for j in judgements if not j.trial.candidate_first and j.trial.repeat == 0]
    for name, members in groups.items():
        ids = {q.id for q, is_member in zip(questions, members, strict=True) if is_member}
        tables[name]["llava_med"] = score_as_llava_med(
            [(j.reference, j.candidate) for j in first if j.trial.question_id in ids]
        )
    return {"groups": tables, "order": _order_effects(by_question)}


def score_as_llava_med(pairs: Sequence[tuple[float, float]]) -> dict[str, float | int | None]:
    """Return LLaVA-Med's own summary of (reference, candidate) grades.

    Args:
        pairs: one per question, the reference shown first. A reference grade of 0, on which the
            released script stops, leaves the ratio out and is counted.

    Source: LLaVA-Med v1.5, summary of its GPT-4 reviews: the mean over questions of grade 2 / grade
        1, times 100.
    """
    ratios = [candidate / reference for reference, candidate in pairs if reference]
    if not ratios:
        return {"reference": None, "candidate": None, "mean_of_ratios": None, "num_questions": 0}
    return {
        "reference": float(np.mean([reference for reference, _ in pairs])),
        "candidate": float(np.mean([candidate for _, candidate in pairs])),
        "mean_of_ratios": 100 * float(np.mean(ratios)),
        "num_questions": len(pairs),
        "reference_graded_0": len(pairs) - len(ratios),
    }


def _mean_grades(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Return (reference, candidate) over all trials, each order weighing the same."""
    by_order = [
        [(j.reference, j.candidate) for j in judgements if j.trial.candidate_first is order]
        for order in (False, True)
    ]
    means = [np.mean(pairs, axis=0) for pairs in by_order if pairs]
    if not means:
        return np.nan, np.nan
    reference, candidate = np.mean(means, axis=0)
    return float(reference), float(candidate)


def _relative_scores(
    questions: Sequence[ChatQuestion],
    grades: Values,
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    draws: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return per group the grades' means and their ratio, with intervals."""
    columns = [
        np.where(members, grades[:, side], np.nan) for members in groups.values() for side in (0, 1)
    ]
    result = bootstrap(np.stack(columns, axis=1), _clusters(questions), draws=draws, seed=seed)
    tables: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(groups):
        reference, candidate = 2 * i, 2 * i + 1
        tables[name] = {
            "reference": result.estimate(reference).to_json(),
            "candidate": result.estimate(candidate).to_json(),
            "relative_score": _ratio(
                result.means[candidate],
                result.means[reference],
                result.samples[:, candidate],
                result.samples[:, reference],
                num_images=int(result.num_clusters[reference]),
                num_questions=int(result.num_questions[reference]),
            ).to_json(),
        }
    return tables


def _ratio(
    above: float,
    below: float,
    samples_above: Values,
    samples_below: Values,
    *,
    num_questions: int,
    num_images: int,
) -> Estimate:
    if not below > 0:
        return Estimate(value=None, num_questions=num_questions, num_images=num_images)
    low = high = None
    if num_images > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = samples_above / samples_below
        low, high = (float(v) for v in np.nanquantile(ratios, [_TAIL, 1 - _TAIL]))
    return Estimate(
        value=float(above / below),
        low=low,
        high=high,
        num_questions=num_questions,
        num_images=num_images,
    )


def _order_effects(by_question: Mapping[str, Sequence[Judgement]]) -> dict[str, Any]:
    """Return what changes when the two answers change places."""
    advantages, flips = [], []
    for judgements in by_question.values():
        leads = [
            [j.candidate - j.reference for j in judgements if j.trial.candidate_first is order]
            for order in (True, False)
        ]
        if all(leads):
            shown_first, shown_second = (float(np.mean(lead)) for lead in leads)
            advantages.append((shown_first - shown_second) / 2)
            flips.append(np.sign(shown_first) != np.sign(shown_second))
    if not flips:
        return {"num_questions": 0, "first_place_advantage": None, "winner_changes": None}
    return {
        "num_questions": len(flips),
        "first_place_advantage": float(np.mean(advantages)),
        "winner_changes": float(np.mean(flips)),
    }


def _clusters(questions: Sequence[ChatQuestion]) -> NDArray[np.int64]:
    numbers: dict[tuple[str, str], int] = {}
    keys = [("image", q.image) if q.image else ("question", q.id) for q in questions]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
