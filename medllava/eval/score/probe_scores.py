"""What the probes show: is the answer still right, and does it change exactly when it should?

Altered questions and replies enter, plain values with 95 % intervals leave for the report.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medllava.eval.probes import VARIANTS, Probe, Probed, expected_base
from medllava.eval.score.intervals import Values, bootstrap
from medllava.eval.score.scores import image_clusters
from medllava.records import AnswerType, Question
from medllava.score.closed import chosen_answer, closed_hit
from medllava.score.polarity import denies, verified_reply

_WITH_DENIAL = {
    variant
    for probe in (Probe.NEGATED_OPTION, Probe.PRESENCE, Probe.ABSENCE)
    for variant in VARIANTS[probe]
}

MEASURES = ("base_accuracy", "accuracy", "all_right", "consistent", "denied", "verified")
"""Of the items a probe fits: accuracy on the question as it was and as it is now; both right; and
the answer that the one implies for the other, right or wrong. Where a choice denies: how often it
is picked, and the accuracy after such picks are put right by rule."""


def score_probes(
    questions: Sequence[Question],
    real: Sequence[str],
    made: Mapping[str, Sequence[Probed]],
    replies: Mapping[str, Sequence[str]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return the measures of every variant, and of families of several variants as a whole.

    Args:
        questions: of the evaluation.
        real: their replies under the real condition.
        made: altered questions by variant.
        replies: theirs, in the same order.
        draws: of the bootstrap over images.
        seed: of the draws.
    """
    rows = {question.id: row for row, question in enumerate(questions)}
    tables = {
        variant: _table(questions, real, made[variant], replies[variant], rows, variant)
        for variant in made
    }
    for probe, variants in VARIANTS.items():
        parts = [tables[variant] for variant in variants if variant in tables]
        if len(parts) > 1:
            tables[f"{probe} (all)"] = _together(parts)
    if not tables:
        return {}
    columns = np.concatenate(list(tables.values()), axis=1)
    result = bootstrap(columns, image_clusters(questions), draws=draws, seed=seed)
    num_closed = sum(q.answer_type is AnswerType.CLOSED for q in questions)
    report: dict[str, Any] = {}
    for number, (name, values) in enumerate(tables.items()):
        count = int((~np.isnan(values[:, 0])).sum())
        report[name] = {"num_questions": count, "left_out": num_closed - count}
        if count:
            first = number * len(MEASURES)
            estimates = {m: result.estimate(first + i) for i, m in enumerate(MEASURES)}
            estimates["change"] = result.difference(first + 1, first)
            report[name] |= {
                m: estimate.to_json()
                for m, estimate in estimates.items()
                if estimate.value is not None
            }
    return report


def _table(
    questions: Sequence[Question],
    real: Sequence[str],
    altered: Sequence[Probed],
    replies: Sequence[str],
    rows: Mapping[str, int],
    variant: str,
) -> Values:
    """Return (questions, measures); NaN where the probe does not fit."""
    values = np.full((len(questions), len(MEASURES)), np.nan)
    for probed, reply in zip(altered, replies, strict=True):
        row = rows[probed.base.id]
        before = closed_hit(probed.base, real[row]) is True
        now = closed_hit(probed.question, reply) is True
        chosen = chosen_answer(probed.base, real[row])
        picked = chosen_answer(probed.question, reply)
        implied = expected_base(variant, picked, probed.question)
        is_consistent = chosen is not None and chosen == implied
        values[row, :4] = (before, now, before and now, is_consistent)
        if variant in _WITH_DENIAL:
            checked = verified_reply(probed.question, reply)
            values[row, 4] = picked is not None and denies(picked)
            values[row, 5] = closed_hit(probed.question, checked) is True
    return values


def _together(parts: Sequence[Values]) -> Values:
    """Return a family as one row: mean accuracy, everything right, always consistent."""
    stacked = np.stack(parts)
    return np.stack(
        [
            stacked[0, :, 0],
            stacked[:, :, 1].mean(axis=0),
            stacked[:, :, 2].min(axis=0),
            stacked[:, :, 3].min(axis=0),
            stacked[:, :, 4].mean(axis=0),
            stacked[:, :, 5].mean(axis=0),
        ],
        axis=1,
    )
