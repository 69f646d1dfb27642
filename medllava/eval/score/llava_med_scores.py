"""The `llava_med` part of a report: the numbers that LLaVA-Med's scripts print for these answers.

Questions and replies enter; percentages leave, each with the number of questions in its denominator
and its interval, under the script that computes it and the name that script gives it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medllava.data.benchmarks.questions import QuestionSet, load_questions
from medllava.errors import MedllavaError
from medllava.eval.score.intervals import bootstrap
from medllava.eval.score.llava_med_protocol import LegacyMetric, legacy_metrics
from medllava.eval.score.scores import Values, image_clusters
from medllava.records import AnswerType, Question
from medllava.store import read_json

CANDIDATES_FILE = "train_open_answers.json"
_PAPER = {"open": ("run_eval_batch", "recall"), "closed": ("run_eval_batch", "closed_accuracy")}
"""What the paper's table calls open and closed."""


def score_llava_med(
    questions: Sequence[Question],
    replies: Sequence[Sequence[str]],
    *,
    candidates: Sequence[str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return every number of the scripts, in percent as they print them.

    Args:
        questions: what was asked.
        replies: one sequence per seed, in the order of the questions; averaged.
        candidates: open training answers, for the one number that needs them; may be empty.
        draws: of the bootstrap over images.
        seed: of the draws.
    """
    metrics = [
        metric
        for metric in legacy_metrics(candidates)
        if any(question.answer_type is metric.answer_type for question in questions)
    ]
    values = np.mean([_columns(metrics, questions, texts) for texts in replies], axis=0)
    result = bootstrap(values, image_clusters(questions), draws=draws, seed=seed)
    scripts: dict[str, dict[str, Any]] = {}
    for column, metric in enumerate(metrics):
        estimate = result.estimate(column).to_json()
        for end in ("value", "low", "high"):
            number = estimate[end]
            estimate[end] = None if number is None else 100 * number
        if estimate["value"] is None:  # the script prints 0 where it counted nothing
            estimate["value"] = 0.0
        scripts.setdefault(metric.script, {})[metric.name] = estimate
    paper = {
        kind: scripts[script][name]
        for kind, (script, name) in _PAPER.items()
        if name in scripts.get(script, {})
    }
    return {
        "source": "LLaVA-Med v1.0.0 scripts, quirks included; not comparable with the scores above",
        "unit": "percent",
        "paper": paper,
        "scripts": scripts,
        "num_candidates": len(candidates),
    }


def train_open_answers(task: QuestionSet, name: str, *, data: Path | None) -> tuple[str, ...]:
    """Return the open answers of the training split, which `run_eval.py` chooses from.

    They are read from `train_open_answers.json` beside the questions, an object with the list under
    "0", else taken from the train split in its order. The reference never released its own list.

    Returns:
        The answers, or nothing where there is no train split at hand.
    """
    file = task.file.parent / CANDIDATES_FILE
    if file.is_file():
        values = read_json(file)
        listed = values.get("0") if isinstance(values, dict) else None
        return tuple(str(answer) for answer in listed) if isinstance(listed, list) else ()
    try:
        train = load_questions(name, data=data, split="train", language=task.language)
    except MedllavaError:
        return ()
    if train.file_sha256 == task.file_sha256 and train.split != task.split:
        shared = {question.id for question in task.questions}
        if any(question.id in shared for question in train.questions):
            return ()
    return tuple(q.answer for q in train.questions if q.answer_type is AnswerType.OPEN)


def _columns(
    metrics: Sequence[LegacyMetric], questions: Sequence[Question], replies: Sequence[str]
) -> Values:
    """Return (questions, metrics) values; NaN where a script leaves the question out."""
    values = np.full((len(questions), len(metrics)), np.nan)
    for row, (question, reply) in enumerate(zip(questions, replies, strict=True)):
        for column, metric in enumerate(metrics):
            if question.answer_type is metric.answer_type:
                values[row, column] = metric.score(reply, question.answer)
    return values
