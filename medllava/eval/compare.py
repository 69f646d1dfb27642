"""Two sets of answers to the same questions: which is better, and could it be chance?

Two files of predictions enter, `compare.json` leaves: for every metric both scores, their
difference with its interval, and the p of a paired test; the same for what the right image is
worth (the visual gain) where both were asked with permuted images. Intervals and test treat an
image with all its questions as one draw.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medllava.data.benchmarks.questions import load_questions
from medllava.eval.ask.predict import read_predictions
from medllava.eval.config import PERMUTATIONS, Condition, EvalConfig
from medllava.eval.judged.open_judge import read_judged_values
from medllava.eval.report.build import gain_over, score_conditions
from medllava.eval.score.intervals import bootstrap, holm, paired_p_values
from medllava.eval.score.scores import (
    JUDGED_METRICS,
    METRIC_NAMES,
    METRICS,
    Metric,
    Values,
    image_clusters,
)
from medllava.layout import COMPARISON_FILE, JUDGEMENTS_FILE, PREDICTIONS_FILE
from medllava.progress import Progress, SilentProgress
from medllava.records import Question, StepSummary
from medllava.store import exclusive, sha256_of, write_json

SCHEMA_VERSION = 1
"""Of `compare.json`."""
_TOLD = ("systems", "metrics", "visual_gain", "visual_gain_over")


def compare_predictions(
    config: EvalConfig,
    first: Path,
    second: Path,
    *,
    progress: Progress = SilentProgress(),  # noqa: B008 - has no state
) -> StepSummary:
    """Compare two files of predictions, or two folders of `medllava eval`, on the same items.

    Writes `compare.json` into `config.output_dir`. Several seeds of a file are averaged per item.

    Raises:
        DataError: questions or predictions are missing or malformed; both must answer all items.
    """
    task = load_questions(
        config.task,
        data=config.data,
        split=config.split,
        image_dir=config.image_dir,
        language=config.language,
    )
    questions = task.questions[: config.limit]
    files = [path / PREDICTIONS_FILE if path.is_dir() else path for path in (first, second)]
    scores = [_scores(file, questions) for file in files]
    values = [found[Condition.REAL.value] for found in scores]
    judged = [path / JUDGEMENTS_FILE for path in (first, second)]
    metrics: tuple[Metric, ...] = METRICS
    if all(file.is_file() for file in judged):
        metrics += JUDGED_METRICS
        values = [_with_judged(v, f, questions) for v, f in zip(values, judged, strict=True)]
    draws, seed = config.draws, config.seeds[0]
    progress.start("comparison")
    report = {
        "schema_version": SCHEMA_VERSION,
        "task": {"name": task.name, "version": task.version, "split": task.split},
        "num_questions": len(questions),
        "systems": [
            {"name": name, "file": str(file), "sha256": sha256_of(file)}
            for name, file in zip(("a", "b"), files, strict=True)
        ],
        "metrics": compare_values(questions, *values, draws=draws, seed=seed, metrics=metrics),
        **compare_gains(questions, *scores, draws=draws, seed=seed),
        "test": "sign flips of whole images, two-sided; p_holm: corrected for several metrics",
    }
    target = config.output_dir / COMPARISON_FILE
    with exclusive(config.output_dir):
        write_json(target, report)
    return StepSummary(
        step="eval",
        counts={"questions": len(questions)},
        details={key: report[key] for key in _TOLD if key in report},
        artifacts={"comparison": target},
    )


def compare_values(
    questions: Sequence[Question],
    first: Values,
    second: Values,
    *,
    draws: int,
    seed: int,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, Any]:
    """Return for each metric both means, their difference with interval, p, and who won how often.

    Args:
        questions: in the order of the rows.
        first: (questions, metrics) scores of system a.
        second: the same of system b.
        draws: of the bootstrap, and sign patterns of the test.
        seed: of both.
        metrics: of the columns.
    """
    clusters = image_clusters(questions)
    result = bootstrap(np.hstack([first, second]), clusters, draws=draws, seed=seed)
    p_values = paired_p_values(second - first, clusters, draws=draws, seed=seed)
    found: dict[str, Any] = {}
    for column, metric in enumerate(metrics):
        a, b = column, column + len(metrics)
        difference = result.difference(b, a)
        if difference.value is None:
            continue
        gains = second[:, column] - first[:, column]
        found[metric.name] = {
            "a": result.estimate(a).to_json(),
            "b": result.estimate(b).to_json(),
            "b_minus_a": difference.to_json(),
            "p": float(p_values[column]),
            "a_higher": int((gains < 0).sum()),
            "b_higher": int((gains > 0).sum()),
            "higher_is_better": metric.higher_is_better,
        }
    corrected = holm([row["p"] for row in found.values()])
    for row, p in zip(found.values(), corrected, strict=True):
        row["p_holm"] = p
    return found


def compare_gains(
    questions: Sequence[Question],
    first: Mapping[str, Values],
    second: Mapping[str, Values],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return what the right image is worth to both, as `compare_values`; nothing if not asked.

    Args:
        questions: in the order of the rows.
        first: condition to (questions, metrics) scores of system a; permutations averaged.
        second: the same of system b.
        draws: of the bootstrap, and sign patterns of the test.
        seed: of both.
    """
    asked = [c.value for c in PERMUTATIONS if c.value in first and c.value in second]
    if not asked:
        return {}
    gains = [values[Condition.REAL.value] - values[asked[0]] for values in (first, second)]
    shares = {metric.name for metric in METRICS if metric.is_share and metric.higher_is_better}
    found = compare_values(questions, *gains, draws=draws, seed=seed)
    return {
        "visual_gain": {name: row for name, row in found.items() if name in shares},
        "visual_gain_over": gain_over(questions, asked),
    }


def comparison_lines(summary: StepSummary) -> list[str]:
    """Return the comparison as lines for a terminal."""
    numbers = f"{'a':>9}{'b':>9}{'b minus a':>26}{'p':>9}{'p Holm':>9}"
    lines = [f"{'':<20}{numbers}{'a higher':>10}{'b higher':>10}"]
    for metric in (*METRICS, *JUDGED_METRICS):
        row = summary.details["metrics"].get(metric.name)
        if row is None:
            continue
        factor = 100 if metric.is_share else 1
        a, b = (factor * row[name]["value"] for name in ("a", "b"))
        lines.append(
            f"{metric.name.replace('_', ' '):<20}{a:>9.1f}{b:>9.1f}"
            f"{_signed(row['b_minus_a'], factor):>26}{row['p']:>9.4f}{row['p_holm']:>9.4f}"
            f"{row['a_higher']:>10,}{row['b_higher']:>10,}"
        )
    gain = summary.details.get("visual_gain", {}).get("accuracy")
    if gain is not None:
        a, b = (100 * gain[name]["value"] for name in ("a", "b"))
        lines.append(
            f"visual gain, accuracy over {summary.details['visual_gain_over']}: {a:.1f} -> {b:.1f} "
            f"({_signed(gain['b_minus_a'], 100)}, p {gain['p']:.4f})"
        )
    note = "paired, over images; p Holm: corrected for the number of metrics"
    return [*lines, f"shares in %; intervals and p: {note}"]


def _signed(estimate: dict[str, Any], factor: int) -> str:
    text = f"{factor * estimate['value']:+.1f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{factor * estimate['low']:+.1f}, {factor * estimate['high']:+.1f}]"


def _with_judged(values: Values, file: Path, questions: Sequence[Question]) -> Values:
    """Add the columns of a judge, where both folders hold its judgements."""
    strict = values[:, METRIC_NAMES.index("accuracy")]
    return np.hstack([values, read_judged_values(file, questions, strict)])


def _scores(file: Path, questions: Sequence[Question]) -> dict[str, Values]:
    runs = read_predictions(file, questions)
    kept = (Condition.REAL, *PERMUTATIONS)
    return score_conditions(questions, {r: texts for r, texts in runs.items() if r[0] in kept})[0]
