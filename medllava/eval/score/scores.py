"""Replies to a matrix: a row per question, a column per metric, NaN where a metric is not meant.

Every metric of the strict protocol is a mean over questions, so that one bootstrap gives all
intervals. `intervals` takes the matrix, `metrics` wraps the same functions for `evaluate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllava.eval.config import ClinicalMetric
from medllava.records import AnswerType, Question
from medllava.score import open_ended as open_
from medllava.score.answer_sets import named_set, set_f1
from medllava.score.boxes import HIT, intersection_over_union, stated_box
from medllava.score.closed import chosen_choice, closed_hit
from medllava.score.final_answer import final_answer
from medllava.score.reports import report_bleu, rouge_l

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column: what is measured, on which questions, and which way is better."""

    name: str
    score: Callable[[Question, str], float]
    answer_type: AnswerType | None = None
    """Questions it is meant for; None: all."""
    needs: str | None = None
    """Field that a question must have: `answers`, `box`."""
    is_text: bool = False
    """Compares words, so it says nothing about a box."""
    for_reports: bool = False
    """Says something about a whole report too."""
    higher_is_better: bool | None = True
    """None: neither."""
    is_share: bool = True
    """Between 0 and 1, so shown in percent."""


def scored_text(question: Question, reply: str) -> str:
    """Return what text metrics compare: the final answer, or the choice or set that it names."""
    if question.answers:
        return ", ".join(named_set(question.answers, question.choices, reply))
    chosen = chosen_choice(question.choices, reply) if question.choices else None
    return final_answer(reply) if chosen is None else chosen


def _on_texts(function: Callable[[str, str], float]) -> Callable[[Question, str], float]:
    return lambda question, reply: function(scored_text(question, reply), question.answer)


def _on_reports(function: Callable[[str, str], float]) -> Callable[[Question, str], float]:
    return lambda question, reply: function(final_answer(reply), question.answer)


def _on_reply(function: Callable[[str], float]) -> Callable[[Question, str], float]:
    return lambda _, reply: function(reply)


def _closed_accuracy(question: Question, reply: str) -> float:
    return float(closed_hit(question, reply) is True)


def _accuracy(question: Question, reply: str) -> float:
    """Return what others print as one accuracy: the right choice, the place, the very words."""
    if question.box:
        return float(_iou(question, reply) >= HIT - 1e-9)  # rounding must not lose a hit
    if question.answer_type is AnswerType.CLOSED:
        return _closed_accuracy(question, reply)
    return open_.exact_match(scored_text(question, reply), question.answer)


def _iou(question: Question, reply: str) -> float:
    box = stated_box(reply)
    return 0.0 if box is None else intersection_over_union(box, question.box)


def _set_f1(question: Question, reply: str) -> float:
    return set_f1(question.answers, named_set(question.answers, question.choices, reply))


def _unparseable(question: Question, reply: str) -> float:
    return float(closed_hit(question, reply) is None)


_OPEN, _CLOSED, _REPORT = AnswerType.OPEN, AnswerType.CLOSED, AnswerType.REPORT

METRICS: tuple[Metric, ...] = (
    Metric(name="accuracy", score=_accuracy),
    Metric(name="exact_match", score=_on_texts(open_.exact_match), is_text=True),
    Metric(name="token_recall", score=_on_texts(open_.token_recall), is_text=True),
    Metric(name="token_f1", score=_on_texts(open_.token_f1), is_text=True),
    Metric(name="closed_accuracy", score=_closed_accuracy, answer_type=_CLOSED),
    Metric(name="unparseable", score=_unparseable, answer_type=_CLOSED, higher_is_better=False),
    Metric(
        name="open_exact_match", score=_on_texts(open_.exact_match), is_text=True, answer_type=_OPEN
    ),
    Metric(
        name="open_token_recall",
        score=_on_texts(open_.token_recall),
        is_text=True,
        answer_type=_OPEN,
    ),
    Metric(name="open_token_f1", score=_on_texts(open_.token_f1), is_text=True, answer_type=_OPEN),
    Metric(name="open_bleu", score=_on_texts(open_.bleu), is_text=True, answer_type=_OPEN),
    Metric(
        name="num_words",
        score=_on_reply(open_.num_words),
        for_reports=True,
        higher_is_better=None,
        is_share=False,
    ),
    Metric(name="report_bleu", score=_on_reports(report_bleu), answer_type=_REPORT),
    Metric(name="report_rouge_l", score=_on_reports(rouge_l), answer_type=_REPORT),
    Metric(name="set_f1", score=_set_f1, needs="answers"),
    Metric(name="box_iou", score=_iou, needs="box"),
    Metric(name="group_accuracy", score=_accuracy, needs="group"),
    Metric(
        name="repetition",
        score=_on_reply(open_.repetition),
        for_reports=True,
        higher_is_better=False,
    ),
)
"""The columns, in the order of the report."""

METRIC_NAMES = tuple(metric.name for metric in METRICS)


def _elsewhere(question: Question, reply: str) -> float:
    raise NotImplementedError("scored over all replies at once, by a package or a judge")


CLINICAL_METRICS: tuple[Metric, ...] = tuple(
    Metric(name=f"clinical_{metric.value}", score=_elsewhere, answer_type=_REPORT)
    for metric in ClinicalMetric
)
"""Columns that `clinical` fills."""

JUDGED_METRICS: tuple[Metric, ...] = tuple(
    Metric(name=name, score=_elsewhere)
    for name in ("judged_accuracy", "judged_open", "judged_open_correct")
)
"""Columns that a judge fills: all questions, closed ones by rule; open ones with partial credit;
open ones that are correct."""


def score_replies(questions: Sequence[Question], replies: Sequence[str | None]) -> Values:
    """Return (questions, metrics) values; NaN where the metric is not meant for the question.

    A question that was not asked (None) has no value at all.
    """
    values = np.full((len(questions), len(METRICS)), np.nan)
    for row, (question, reply) in enumerate(zip(questions, replies, strict=True)):
        for column, metric in enumerate(METRICS):
            if reply is not None and _fits(metric, question):
                values[row, column] = metric.score(question, reply)
    _join_groups(questions, values[:, METRIC_NAMES.index("group_accuracy")])
    return values


def _fits(metric: Metric, question: Question) -> bool:
    if metric.needs is not None and not getattr(question, metric.needs):
        return False
    if question.box and metric.is_text:
        return False
    if question.answer_type is _REPORT and metric.answer_type is None and not metric.for_reports:
        return False
    return metric.answer_type in (None, question.answer_type)


def _join_groups(questions: Sequence[Question], right: Values) -> None:
    """Leave one value per group, at its first question: 1 if all of the group are right."""
    members: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        if question.group is not None and not np.isnan(right[row]):
            members.setdefault(question.group, []).append(row)
    for rows in members.values():
        right[rows[0]] = right[rows].min()
        right[rows[1:]] = np.nan


def image_clusters(questions: Sequence[Question]) -> NDArray[np.int64]:
    """Number the images; a question without one is a cluster of its own.

    Images that one question shows together are one cluster, and so are those they are shown with.
    """
    joined: dict[str, str] = {}

    def first_of(image: str) -> str:
        while joined.setdefault(image, image) != image:
            image = joined[image]
        return image

    for question in questions:
        for image in question.more_images:
            joined[first_of(image)] = first_of(question.images[0])
    numbers: dict[tuple[str, str], int] = {}
    keys = (
        ("question", question.id) if question.image is None else ("image", first_of(question.image))
        for question in questions
    )
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
