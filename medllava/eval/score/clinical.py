"""Reports read as a clinician would: entities, labelled findings, synonyms and denial.

Pairs of a written and a reference report enter, a number between 0 and 1 for each leaves. Kept
packages read them, with weights of their own that come from the Hugging Face hub the first time:
what is not installed, or cannot be loaded, is an error that names the command, never a zero.

Source: RadGraph-XL, Delbrouck et al. 2024 (F1 of entities with "partial" relations); CheXbert, Smit
et al. 2020; RaTEScore, Zhao et al. 2024.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from medllava.errors import SetupError
from medllava.eval.config import ClinicalMetric
from medllava.eval.score.intervals import Values, bootstrap
from medllava.eval.score.scores import image_clusters
from medllava.records import AnswerType, Estimates, Question
from medllava.score.final_answer import final_answer

INSTALL = "pip install 'medllava[reports]'"
_log = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Written and reference reports to one number each."""
Runs = Mapping[tuple[str, int], Sequence[str | None]]


def clinical_estimates(
    questions: Sequence[Question],
    runs: Runs,
    metrics: Sequence[ClinicalMetric],
    *,
    device: str,
    draws: int,
    seed: int,
) -> dict[str, Estimates]:
    """Return the clinical scores of every condition, with their 95 % intervals over images.

    Args:
        questions: those of the kind `report` are scored.
        runs: (condition, seed) to replies; several seeds of a condition are averaged.
        metrics: what to read them by.
        device: `cpu`, or one with CUDA.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        SetupError: a package or its weights are not there.
    """
    rows = [i for i, q in enumerate(questions) if q.answer_type is AnswerType.REPORT]
    if not rows or not metrics:
        return {}
    names = [f"clinical_{metric.value}" for metric in metrics]
    scorers = [load_scorer(metric, device=device) for metric in metrics]
    found: dict[str, list[Values]] = {}
    for (condition, _), replies in sorted(runs.items()):
        values = np.full((len(questions), len(metrics)), np.nan)
        kept = [row for row in rows if replies[row] is not None]
        written = [final_answer(replies[row] or "") for row in kept]
        expected = [questions[row].answer for row in kept]
        for column, scorer in enumerate(scorers):
            values[kept, column] = scorer(written, expected)
        found.setdefault(condition, []).append(values)
    columns = np.hstack([np.mean(arrays, axis=0) for arrays in found.values()])
    result = bootstrap(columns, image_clusters(questions), draws=draws, seed=seed)
    return {
        condition: {
            name: estimate
            for i, name in enumerate(names)
            if (estimate := result.estimate(number * len(names) + i)).value is not None
        }
        for number, condition in enumerate(found)
    }


def require_packages(metrics: Sequence[ClinicalMetric]) -> None:
    """Look for the packages before a model is asked for hours.

    Raises:
        SetupError: one cannot be imported.
    """
    for metric in metrics:
        _package(_PACKAGES[metric])


def load_scorer(metric: ClinicalMetric, *, device: str) -> Scorer:
    """Load the package of a metric with its weights.

    Raises:
        SetupError: either is not there.
    """
    return _LOADERS[metric]("cuda" if device.startswith("cuda") else "cpu")


def _load_radgraph(device: str) -> Scorer:
    package = _package(_PACKAGES[ClinicalMetric.RADGRAPH])
    with _loading("radgraph", "StanfordAIMI/RRG_scorers (radgraph-xl.tar.gz)"):
        cuda = 0 if device == "cuda" else -1
        scorer = package.F1RadGraph(reward_level="partial", model_type="radgraph-xl", cuda=cuda)

    def score(written: Sequence[str], expected: Sequence[str]) -> list[float]:
        with redirect_stdout(StringIO()):  # it prints, and stdout carries results only
            return [float(one) for one in scorer(hyps=list(written), refs=list(expected))[1]]

    return score


def _load_chexbert(device: str) -> Scorer:
    package = _package(_PACKAGES[ClinicalMetric.CHEXBERT])
    with _loading("f1chexbert", "StanfordAIMI/RRG_scorers (chexbert.pth) and bert-base-uncased"):
        labeler = package.F1CheXbert(device=device)

    def score(written: Sequence[str], expected: Sequence[str]) -> list[float]:
        pairs = zip(written, expected, strict=True)
        return [label_f1(labeler.get_label(a), labeler.get_label(b)) for a, b in pairs]

    return score


def _load_ratescore(device: str) -> Scorer:
    package = _package(_PACKAGES[ClinicalMetric.RATESCORE])
    with _loading("RaTEScore", "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C"):
        scorer = package.RaTEScore(use_gpu=device == "cuda")

    def score(written: Sequence[str], expected: Sequence[str]) -> list[float]:
        # An empty report has no entities, which the package takes for half right.
        said = [row for row, text in enumerate(written) if text.strip()]
        found = [0.0] * len(written)
        if said:
            given = scorer.compute_score([written[i] for i in said], [expected[i] for i in said])
            for row, one in zip(said, given, strict=True):
                found[row] = float(one)
        return found

    return score


_LOADERS: Mapping[ClinicalMetric, Callable[[str], Scorer]] = {
    ClinicalMetric.RADGRAPH: _load_radgraph,
    ClinicalMetric.CHEXBERT: _load_chexbert,
    ClinicalMetric.RATESCORE: _load_ratescore,
}


_PACKAGES = {
    ClinicalMetric.RADGRAPH: "radgraph",
    ClinicalMetric.CHEXBERT: "f1chexbert",
    ClinicalMetric.RATESCORE: "RaTEScore",
}


def label_f1(written: Sequence[int], expected: Sequence[int]) -> float:
    """Return the F1 of the findings that two reports state as there; 1 where neither states one.

    Args:
        written: 0 or 1 for each of CheXbert's labels.
        expected: the same of the reference.
    """
    stated = sum(written) + sum(expected)
    both = sum(a and b for a, b in zip(written, expected, strict=True))
    return 2 * both / stated if stated else 1.0


def _package(name: str) -> Any:  # noqa: ANN401 - these packages have no types
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetupError(
            f"--clinical needs the package {name}, which cannot be imported ({error}). "
            f"Run {INSTALL}, or leave it out."
        ) from None


@contextmanager
def _loading(name: str, weights: str) -> Iterator[None]:
    """Say what is missing where a package cannot load its weights; its prints go to the log."""
    said = StringIO()
    try:
        with redirect_stdout(said):
            yield
    except Exception as error:
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise SetupError(
            f"{name} could not load its weights ({detail:.160}). They come from the Hugging Face "
            f"hub: {weights}. Run this once where it can be reached, with HF_HUB_OFFLINE unset, or "
            "leave it out of --clinical."
        ) from error
    finally:
        if said.getvalue().strip():
            _log.info("%s: %s", name, said.getvalue().strip())
