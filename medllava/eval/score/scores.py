"""Replies to a matrix: a row per question, a column per metric, NaN where a metric is not meant.

Every metric of the strict protocol is a mean over questions, so that one bootstrap gives all
intervals. `intervals` takes the matrix, `metrics` wraps the same functions for `evaluate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllava.records import AnswerType, Question
from medllava.score import open_ended as open_
from medllava.score.closed import chosen_choice, closed_hit
from medllava.score.final_answer import final_answer

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column: what is measured, on which questions, and which way is better."""

    name: str
    score: Callable[[Question, str], float]
    answer_type: AnswerType | None = None
    """Questions it is meant for; None: all."""
    higher_is_better: bool | None = True
    """None: neither."""
    is_share: bool = True
    """Between 0 and 1, so shown in percent."""


def scored_text(question: Question, reply: str) -> str:
    """Return what text metrics compare: the final answer, or the choice that it names."""
    chosen = chosen_choice(question.choices, reply) if question.choices else None
    return final_answer(reply) if chosen is None else chosen


def _on_texts(function: Callable[[str, str], float]) -> Callable[[Question, str], float]:
    return lambda question, reply: function(scored_text(question, reply), question.answer)


def _on_reply(function: Callable[[str], float]) -> Callable[[Question, str], float]:
    return lambda _, reply: function(reply)


def _closed_accuracy(question: Question, reply: str) -> float:
    return float(closed_hit(question, reply) is True)


def _accuracy(question: Question, reply: str) -> float:
    """Return what others print as one accuracy: the right choice, or the very words."""
    if question.answer_type is AnswerType.CLOSED:
        return _closed_accuracy(question, reply)
    return open_.exact_match(scored_text(question, reply), question.answer)


def _unparseable(question: Question, reply: str) -> float:
    return float(closed_hit(question, reply) is None)


_OPEN, _CLOSED = AnswerType.OPEN, AnswerType.CLOSED

METRICS: tuple[Metric, ...] = (
    Metric(name="accuracy", score=_accuracy),
    Metric(name="exact_match", score=_on_texts(open_.exact_match)),
    Metric(name="token_recall", score=_on_texts(open_.token_recall)),
    Metric(name="token_f1", score=_on_texts(open_.token_f1)),
    Metric(name="closed_accuracy", score=_closed_accuracy, answer_type=_CLOSED),
    Metric(name="unparseable", score=_unparseable, answer_type=_CLOSED, higher_is_better=False),
    Metric(name="open_exact_match", score=_on_texts(open_.exact_match), answer_type=_OPEN),
    Metric(name="open_token_recall", score=_on_texts(open_.token_recall), answer_type=_OPEN),
    Metric(name="open_token_f1", score=_on_texts(open_.token_f1), answer_type=_OPEN),
    Metric(name="open_bleu", score=_on_texts(open_.bleu), answer_type=_OPEN),
    Metric(
        name="num_words",
        score=_on_reply(open_.num_words),
        higher_is_better=None,
        is_share=False,
    ),
    Metric(name="repetition", score=_on_reply(open_.repetition), higher_is_better=False),
)
"""The columns, in the order of the report."""

METRIC_NAMES = tuple(metric.name for metric in METRICS)


def score_replies(questions: Sequence[Question], replies: Sequence[str | None]) -> Values:
    """Return (questions, metrics) values; NaN where the metric is not meant for the question.

    A question that was not asked (None) has no value at all.
    """
    values = np.full((len(questions), len(METRICS)), np.nan)
    for row, (question, reply) in enumerate(zip(questions, replies, strict=True)):
        for column, metric in enumerate(METRICS):
            if reply is not None and metric.answer_type in (None, question.answer_type):
                values[row, column] = metric.score(question, reply)
    return values


def image_clusters(questions: Sequence[Question]) -> NDArray[np.int64]:
    """Number the images; a question without one is a cluster of its own."""
    numbers: dict[tuple[str, str], int] = {}
    keys = (
        ("question", question.id) if question.image is None else ("image", question.image)
        for question in questions
    )
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
