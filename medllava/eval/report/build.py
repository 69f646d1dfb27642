"""Replies to `report.json`: every score with its interval, beside its floors.

Replies by condition and seed enter; an `EvalReport` with its scores leaves. `run` adds what was
asked of whom, `html` draws it, hub and the quickstart read it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medllava.eval.baselines import image_kinds
from medllava.eval.config import PERMUTATIONS, Condition
from medllava.eval.score.intervals import Bootstrap, Values, bootstrap
from medllava.eval.score.scores import METRIC_NAMES, METRICS, image_clusters, score_replies
from medllava.records import AnswerType, BootstrapRecord, Estimates, EvalReport, Question

_KEY_METRICS = (
    "exact_match",
    "token_recall",
    "closed_accuracy",
    "open_token_recall",
    "report_rouge_l",
)
"""Shown per category, where more would be noise."""
_NO_CATEGORY = "(none)"

Replies = Mapping[tuple[str, int], Sequence[str | None]]
"""(condition, seed) to replies in the order of the questions; None where one was not asked."""


@dataclass(slots=True)
class _Columns:
    """Columns for one bootstrap, with names to find them again."""

    values: list[Values]
    index: dict[tuple[str, str], int]

    def add(self, group: str, metric: str, column: Values) -> None:
        """Append one column of values, (questions,)."""
        self.index[group, metric] = len(self.values)
        self.values.append(column)


def score_conditions(
    questions: Sequence[Question], replies: Replies
) -> tuple[dict[str, Values], dict[str, list[Values]]]:
    """Return values per condition, averaged over seeds, and the values of each seed.

    Returns:
        Condition to (questions, metrics), and condition to one such array per seed.
    """
    by_seed: dict[str, list[Values]] = {}
    for (condition, _), texts in sorted(replies.items()):
        by_seed.setdefault(condition, []).append(score_replies(questions, texts))
    ordered: dict[str, list[Values]] = {str(c): by_seed[c] for c in Condition if c in by_seed}
    return {name: np.mean(arrays, axis=0) for name, arrays in ordered.items()}, ordered


def build_scores(
    questions: Sequence[Question], replies: Replies, *, draws: int, seed: int
) -> EvalReport:
    """Return a report's scores, each with its 95 % interval over images; the rest is not filled in.

    Args:
        questions: what was asked.
        replies: what was answered, under every condition and seed.
        draws: of the bootstrap.
        seed: of the draws.
    """
    means, by_seed = score_conditions(questions, replies)
    columns = _Columns([], {})
    for condition in PERMUTATIONS:
        _add_gain(columns, means, by_seed, condition.value)
    for name, values in means.items():
        for column, metric in enumerate(METRIC_NAMES):
            columns.add(name, metric, values[:, column])
    groups = _groups(questions)
    real = means[Condition.REAL.value]
    for group, members in groups.items():
        for column, metric in enumerate(METRIC_NAMES):
            if group.startswith("answer_type:") or metric in _KEY_METRICS:
                columns.add(group, metric, np.where(members, real[:, column], np.nan))
    clusters = image_clusters(questions)
    result = bootstrap(np.stack(columns.values, axis=1), clusters, draws=draws, seed=seed)
    gains = _gains(columns, result, by_seed, seed=seed)
    return EvalReport(
        num_questions=len(questions),
        num_images=len({image for question in questions for image in question.images}),
        counts=_counts(questions),
        conditions={name: _estimates(name, columns, result) for name in means},
        visual_gain=next(iter(gains.values()), None),
        visual_gain_over=gain_over(questions, gains),
        gain_over_all=gains.get(Condition.PERMUTED.value) if len(gains) > 1 else None,
        num_permutations=max((len(by_seed[name]) for name in gains), default=None),
        by_answer_type=_named_groups("answer_type:", groups, columns, result),
        by_category=_named_groups("category:", groups, columns, result),
        seed_deviation=_seed_deviation(by_seed[Condition.REAL.value]),
        bootstrap=BootstrapRecord(draws=draws, seed=seed),
    )


def score_subsets(
    questions: Sequence[Question],
    values: Values,
    subsets: Mapping[str, Sequence[bool]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return the scores of parts of the questions, such as those without flagged images.

    Args:
        questions: all of them.
        values: of one condition, (questions, metrics).
        subsets: name to one truth value per question.
        draws: of the bootstrap over images.
        seed: of the draws.
    """
    columns = _Columns([], {})
    for name, members in subsets.items():
        for column, metric in enumerate(METRIC_NAMES):
            columns.add(name, metric, np.where(np.array(members), values[:, column], np.nan))
    result = bootstrap(
        np.stack(columns.values, axis=1), image_clusters(questions), draws=draws, seed=seed
    )
    return {
        name: {
            "num_questions": int(sum(members)),
            "scores": {m: e.to_json() for m, e in _estimates(name, columns, result).items()},
        }
        for name, members in subsets.items()
    }


def _counts(questions: Sequence[Question]) -> dict[str, int]:
    """Return the number of questions of each answer type; of reports only where there are some."""
    counts = Counter(question.answer_type for question in questions)
    shown = [t for t in AnswerType if t is not AnswerType.REPORT or counts[t]]
    return {answer_type.value: counts[answer_type] for answer_type in shown}


def _groups(questions: Sequence[Question]) -> dict[str, Any]:
    """Return masks of the questions of each answer type and category."""
    groups = {
        f"answer_type:{kind.value}": np.array([q.answer_type is kind for q in questions])
        for kind in AnswerType
    }
    categories = [q.category or _NO_CATEGORY for q in questions]
    if set(categories) != {_NO_CATEGORY}:
        for category in sorted(set(categories)):
            groups[f"category:{category}"] = np.array([c == category for c in categories])
    return groups


def _estimates(group: str, columns: _Columns, result: Bootstrap) -> Estimates:
    """Return metric to estimate, leaving out metrics that no question of the group has."""
    estimates = {
        metric.name: result.estimate(columns.index[group, metric.name])
        for metric in METRICS
        if (group, metric.name) in columns.index
    }
    return {name: estimate for name, estimate in estimates.items() if estimate.value is not None}


def _named_groups(
    prefix: str, groups: Mapping[str, Any], columns: _Columns, result: Bootstrap
) -> dict[str, Estimates]:
    return {
        group.removeprefix(prefix): _estimates(group, columns, result)
        for group in groups
        if group.startswith(prefix) and groups[group].any()
    }


def _add_gain(
    columns: _Columns,
    means: Mapping[str, Values],
    by_seed: Mapping[str, Sequence[Values]],
    condition: str,
) -> None:
    """Add real minus each permutation, question by question, for every share."""
    for number, permuted in enumerate(by_seed.get(condition, ())):
        gain = means[Condition.REAL.value] - permuted
        for column, metric in enumerate(METRICS):
            if metric.higher_is_better and metric.is_share:
                columns.add(f"{condition} {number}", metric.name, gain[:, column])


def _gains(
    columns: _Columns, result: Bootstrap, by_seed: Mapping[str, Sequence[Values]], *, seed: int
) -> dict[str, Estimates]:
    """Return real minus permuted, by permuted condition, the harder one first.

    Every metric takes the same draws of permutations as it takes the same draws of images.
    """
    gains: dict[str, Estimates] = {}
    for condition in (c.value for c in PERMUTATIONS if c.value in by_seed):
        repeats = [f"{condition} {number}" for number in range(len(by_seed[condition]))]
        gains[condition] = {}
        for metric in METRICS:
            if (repeats[0], metric.name) in columns.index:
                found = [columns.index[name, metric.name] for name in repeats]
                gain = result.mean_of_repeats(found, seed=seed)
                if gain.value is not None:
                    gains[condition][metric.name] = gain
    return gains


def gain_over(questions: Sequence[Question], gains: Collection[str]) -> str | None:
    """Say in words among which images the floor of the visual gain was permuted.

    Args:
        questions: what was asked.
        gains: the permuted conditions that there are.
    """
    if not gains:
        return None
    kind, kinds = image_kinds(questions)
    if Condition.PERMUTED_WITHIN in gains or len(set(kinds.values())) == 1:
        return f"images of the same {kind}"
    return "all images"


def _seed_deviation(by_seed: Sequence[Values]) -> dict[str, float]:
    """Return the standard deviation of each metric's mean between seeds; of one seed, nothing."""
    if len(by_seed) < 2:
        return {}
    means = np.array([np.nanmean(_some(values), axis=0) for values in by_seed])
    deviations = means.std(axis=0, ddof=1)
    return {
        name: float(deviation)
        for name, deviation in zip(METRIC_NAMES, deviations, strict=True)
        if not np.isnan(deviation)
    }


def _some(values: Values) -> Values:
    """Put a NaN-free zero row under columns without any value; their deviation is zero."""
    empty = np.isnan(values).all(axis=0)
    return np.where(empty, 0.0, values)
