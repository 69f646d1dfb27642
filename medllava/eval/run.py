"""The evaluation step: questions, replies, scores, report."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medllava.data.benchmarks import QuestionSet, image_paths, load_questions
from medllava.errors import DataError
from medllava.eval.config import ASKED_CONDITIONS, Condition, EvalConfig
from medllava.eval.controls import constant_replies, majority_replies, permute_images
from medllava.eval.html import format_estimate, render_report
from medllava.eval.predict import Answerer, Ask, build_asks, collect_replies, read_predictions
from medllava.eval.provenance import code_commit, describe_model, package_versions
from medllava.eval.report import SCHEMA_VERSION, build_scores, score_conditions
from medllava.progress import Progress, SilentProgress
from medllava.records import Question, StepSummary
from medllava.store import atomic_path, exclusive, sha256_of, write_json, write_text

Runs = dict[tuple[str, int], list[str]]
"""(condition, seed) to replies in the order of the questions."""


def evaluate_task(
    config: EvalConfig,
    *,
    progress: Progress = SilentProgress(),  # noqa: B008 - has no state
) -> StepSummary:
    """Ask a model the questions of a task, or take its answers, and score them.

    Output folder::

        report.json         scores with intervals, floors, provenance
        report.html         the same to look at, with answers beside images
        predictions.jsonl   {id, condition, seed, text}, controls included
        answers/            replies as they came; the next run goes on from them

    Raises:
        DataError: questions, images or predictions are missing or malformed.
        SetupError: the model cannot be loaded, or does not fit.
        RemoteError: a server gave no answer after retries.
    """
    task = load_questions(
        config.task,
        data=config.data,
        split=config.split,
        image_dir=config.image_dir,
        language=config.language,
    )
    questions = task.questions[: config.limit]
    with exclusive(config.output_dir):
        if config.predictions is not None:
            model: dict[str, Any] = {"source": str(config.predictions)}
            model["predictions_sha256"] = sha256_of(config.predictions)
            runs = _runs_from_file(config, questions)
        else:
            model = describe_model(config.checkpoint or "")
            runs = _runs_from_model(config, task, questions, model, progress=progress)
        runs |= _runs_without_model(config, questions)
        progress.start("scores")
        report = _build_report(config, task, questions, runs, model)
        return _write(config, task, questions, runs, report)


def _runs_from_file(config: EvalConfig, questions: Sequence[Question]) -> Runs:
    assert config.predictions is not None  # noqa: S101 - the caller looked
    found = read_predictions(config.predictions, questions)
    wanted = {c.value for c in (*config.conditions, Condition.REAL) if c in ASKED_CONDITIONS}
    absent = sorted(wanted - {condition for condition, _ in found})
    if absent:
        raise DataError(
            f"no answers under {', '.join(absent)}: {config.predictions}. "
            "Only a model can be shown other images; use --ckpt, or leave these --controls out."
        )
    return {run: replies for run, replies in found.items() if run[0] in wanted}


def _runs_without_model(config: EvalConfig, questions: Sequence[Question]) -> Runs:
    runs: Runs = {}
    if Condition.MAJORITY in config.conditions:
        runs[Condition.MAJORITY.value, 0] = majority_replies(questions)
    if Condition.CONSTANT in config.conditions:
        runs[Condition.CONSTANT.value, 0] = constant_replies(questions)
    return runs


def _runs_from_model(
    config: EvalConfig,
    task: QuestionSet,
    questions: Sequence[Question],
    model: dict[str, Any],
    *,
    progress: Progress,
) -> Runs:
    asks = _all_asks(config, task, questions)
    answers = config.output_dir / "answers" / f"{_fingerprint(config, task, model)}.jsonl"
    if not config.resume:
        answers.unlink(missing_ok=True)
    answerer = _build_answerer(config)
    replies = collect_replies(asks, answerer, answers, progress=progress)
    runs: Runs = {}
    for ask in asks:
        runs.setdefault((ask.condition, ask.seed), []).append(replies[ask.key])
    return runs


def _all_asks(config: EvalConfig, task: QuestionSet, questions: Sequence[Question]) -> list[Ask]:
    paths = image_paths(task, questions)
    asked = [c for c in Condition if c in ASKED_CONDITIONS and c in config.conditions]
    asks: list[Ask] = []
    for condition in asked:
        for seed in config.seeds:
            instead = {}
            if condition is Condition.PERMUTED:
                contents = {image: sha256_of(path) for image, path in paths.items()}
                instead = permute_images(contents, seed=seed)
            asks += build_asks(
                questions,
                condition=condition,
                seed=seed,
                image_paths=paths,
                shown_instead=instead,
                closed_prompt=_closed_prompt(config, task),
            )
    return asks


def _closed_prompt(config: EvalConfig, task: QuestionSet) -> str:
    own = config.decoding.closed_prompt
    return task.closed_prompt if own is None else own


def _fingerprint(config: EvalConfig, task: QuestionSet, model: dict[str, Any]) -> str:
    """Name what the replies depend on; other weights or prompts must not be continued."""
    facts = [
        model["source"],
        model["weights_sha256"],
        task.file_sha256,
        str(task.image_dir),
        config.decoding.max_new_tokens,
        config.decoding.temperature,
        _closed_prompt(config, task),
        config.backend.value,
        config.dtype,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _build_answerer(config: EvalConfig) -> Answerer:
    from medllava.eval.engine import Engine  # noqa: PLC0415 - torch, only where a model answers
    from medllava.model.load import load_model  # noqa: PLC0415

    loaded = load_model(config.checkpoint or "", device=config.device, dtype=config.dtype)
    return Engine(loaded, config.decoding)


def _build_report(
    config: EvalConfig,
    task: QuestionSet,
    questions: Sequence[Question],
    runs: Runs,
    model: dict[str, Any],
) -> dict[str, Any]:
    scores = build_scores(questions, runs, draws=config.draws, seed=config.seeds[0])
    decoding = {
        "max_new_tokens": config.decoding.max_new_tokens,
        "temperature": config.decoding.temperature,
        "seeds": list(config.seeds),
        "backend": config.backend.value,
        "dtype": config.dtype,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {
            "name": task.name,
            "version": task.version,
            "split": task.split,
            "file": str(task.file),
            "file_sha256": task.file_sha256,
            "rule": task.rule,
            "notes": list(task.notes),
            "limit": config.limit,
        },
        "protocol": config.protocol.value,
        **scores,
        "model": model,
        "prompts": {"closed": _closed_prompt(config, task)},
        "decoding": {} if config.predictions else decoding,
        "packages": package_versions(),
        "commit": code_commit(),
    }


def _write(
    config: EvalConfig,
    task: QuestionSet,
    questions: Sequence[Question],
    runs: Runs,
    report: dict[str, Any],
) -> StepSummary:
    folder = config.output_dir
    files = {
        "report": folder / "report.json",
        "page": folder / "report.html",
        "predictions": folder / "predictions.jsonl",
    }
    with atomic_path(files["predictions"]) as temporary, temporary.open("w") as handle:
        for (condition, seed), replies in runs.items():
            for question, text in zip(questions, replies, strict=True):
                line = {"id": question.id, "condition": condition, "seed": seed, "text": text}
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    real = (Condition.REAL.value, min(seed for name, seed in runs if name == Condition.REAL))
    values = score_conditions(questions, {real: runs[real]})[0][Condition.REAL.value]
    write_text(
        files["page"],
        render_report(report, questions, runs[real], values, image_dir=task.image_dir),
    )
    write_json(files["report"], report)
    return StepSummary(
        step="eval",
        counts={"questions": len(questions), "images": report["num_images"]},
        details={key: report[key] for key in ("conditions", "visual_gain", "protocol")},
        artifacts=files,
    )


def default_output_dir(task: str, *, checkpoint: str, predictions: Path | None) -> Path:
    """Return `CKPT/eval/TASK`; beside the predictions, or here for a model of the hub."""
    name = Path(task).stem or "task"
    if predictions is not None:
        return predictions.parent / "eval" / name
    folder = Path(checkpoint)
    return (folder if folder.is_dir() else Path()) / "eval" / name


def score_lines(summary: StepSummary) -> list[str]:
    """Return the scores as lines for a terminal."""
    rows = dict(summary.details["conditions"])
    if summary.details["visual_gain"]:
        rows["real minus permuted"] = summary.details["visual_gain"]
    names = [name for name in _PRINTED if name in rows[Condition.REAL.value]]
    lines = [f"{'':<20}" + "".join(f"{name.replace('_', ' '):>22}" for name in names)]
    for row, estimates in rows.items():
        cells = "".join(f"{format_estimate(estimates.get(name)):>22}" for name in names)
        lines.append(f"{row:<20}{cells}")
    return [*lines, "in %, with 95 % intervals by bootstrap over images"]


_PRINTED = ("closed_accuracy", "open_token_recall", "exact_match", "token_recall", "unparseable")
