"""Our scores as metrics of Hugging Face `evaluate`: `BiomedicalVqa().compute(...)`.

They compose with that library (`combine`, `evaluator`, `add_batch`) and work without the network,
because nothing is fetched. Importing this module loads `evaluate`; `medllava eval` does not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from medllava.eval.score.llava_med_scores import score_llava_med
from medllava.eval.score.scores import METRICS, Metric, score_replies
from medllava.records import AnswerType, Question

_CITATION = "medllava: biomedical visual question answering, whole words and clipped counts"
_INPUTS = """
    predictions: replies.
    references: reference answers.
    answer_types: "closed" or "open", one per reference.
    questions: what was asked; alternatives named with "or" in a question are choices.
"""


class BiomedicalVqa(evaluate.Metric):  # type: ignore[misc]
    """Every score of the strict protocol over a set of answers, means between 0 and 1."""

    metrics: Sequence[Metric] = METRICS

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info("Closed accuracy, exact match, token F1 and recall, BLEU, length.")

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        answer_types: Sequence[str],
        questions: Sequence[str],
    ) -> dict[str, float]:
        asked = build_questions(references, answer_types, questions)
        values = score_replies(asked, predictions)
        means = {}
        for column, metric in enumerate(METRICS):
            counted = values[:, column][values[:, column] == values[:, column]]
            if metric in self.metrics and len(counted):
                means[metric.name] = float(counted.mean())
        return means


class ClosedAccuracy(BiomedicalVqa):
    """Closed accuracy and the share of replies that state no answer."""

    metrics = tuple(m for m in METRICS if m.name in ("closed_accuracy", "unparseable"))


class TokenRecall(BiomedicalVqa):
    """Clipped token recall, over all and over open questions."""

    metrics = tuple(m for m in METRICS if m.name in ("token_recall", "open_token_recall"))


class LlavaMedScores(evaluate.Metric):  # type: ignore[misc]
    """What LLaVA-Med's released scripts print for these answers, in percent, quirks included."""

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info("LLaVA-Med's own numbers, for comparing with its published rows only.")

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        answer_types: Sequence[str],
        questions: Sequence[str],
    ) -> dict[str, float]:
        asked = build_questions(references, answer_types, questions)
        found = score_llava_med(asked, [predictions], candidates=(), draws=1, seed=0)
        return {
            f"{script}.{name}": estimate["value"]
            for script, estimates in found["scripts"].items()
            for name, estimate in estimates.items()
        }


def build_questions(
    references: Sequence[str], answer_types: Sequence[str], questions: Sequence[str]
) -> list[Question]:
    """Return the columns as questions, each about an image of its own."""
    return [
        Question(
            id=str(number),
            image=None,
            question=question,
            answer=reference,
            answer_type=AnswerType(kind.lower()),
        )
        for number, (reference, kind, question) in enumerate(
            zip(references, answer_types, questions, strict=True)
        )
    ]


def _metric_info(description: str) -> evaluate.MetricInfo:
    text = datasets.Value("string")
    columns: Mapping[str, Any] = {
        "predictions": text,
        "references": text,
        "answer_types": text,
        "questions": text,
    }
    return evaluate.MetricInfo(
        description=description,
        citation=_CITATION,
        inputs_description=_INPUTS,
        features=datasets.Features(columns),
    )
