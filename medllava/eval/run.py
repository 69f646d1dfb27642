"""The evaluation step: questions, replies, scores, report."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.questions import QuestionSet, load_questions
from medllava.data.benchmarks.task import published_rows
from medllava.eval.ask.describe import describe_decoding, describe_source
from medllava.eval.ask.load_encoder import load_encoder
from medllava.eval.ask.requests import (
    Answers,
    ask_model,
    closed_prompt_of,
    floors_without_model,
    read_answers,
)
from medllava.eval.config import (
    ANSWER_TOKENS,
    REPORT_TOKENS,
    ClinicalMetric,
    Condition,
    EvalConfig,
    Protocol,
)
from medllava.eval.contamination import IMAGE_FLAGS, Contamination, Flag, find_contamination
from medllava.eval.judged.ask_judge import JudgeConfig
from medllava.eval.judged.open_judge import JudgedAnswers, judge_answers, judge_lines
from medllava.eval.probes import build_probes
from medllava.eval.report.build import build_scores, score_subsets
from medllava.eval.report.html import render_report
from medllava.eval.report.html_sections import format_estimate, gain_rows
from medllava.eval.score.following import describe_verified, following_runs, verified_lines
from medllava.eval.score.llava_med_scores import score_llava_med, train_open_answers
from medllava.eval.score.looking import looking_lines, score_looking
from medllava.eval.score.probe_scores import score_probes
from medllava.eval.score.scores import Values, score_replies
from medllava.layout import (
    CONTAMINATION_FILE,
    EVAL_REPORT_FILE,
    JUDGEMENTS_FILE,
    PAGE_FILE,
    PREDICTIONS_FILE,
)
from medllava.progress import Progress, SilentProgress
from medllava.provenance import code_commit, package_versions
from medllava.records import (
    AnswerType,
    EvalReport,
    ModelRecord,
    Prediction,
    ProbePrediction,
    Question,
    StepSummary,
    TaskRecord,
)
from medllava.store import (
    contained_path,
    exclusive,
    write_json,
    write_jsonl,
    write_text,
)


def evaluate_task(
    config: EvalConfig,
    *,
    judge: JudgeConfig | None = None,
    progress: Progress = SilentProgress(),  # noqa: B008 - has no state
) -> StepSummary:
    """Ask a model the questions of a task, or take its answers, and score them.

    With `judge` the open answers are graded too, beside the strict scores.

    Output folder::

        report.json           scores with intervals, floors, probes, provenance
        report.html           the same to look at, with answers beside images
        predictions.jsonl     {id, condition, seed, text}, controls and probes included
        judgements.jsonl      what the judge said, reply by reply; with `judge`
        contamination.jsonl   flagged items and what raised the flags; with `train_data`
        answers/              replies as they came; the next run goes on from them
        probes/               corrupted images

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
    if config.clinical:
        from medllava.eval.score.clinical import require_packages  # noqa: PLC0415 - an extra

        require_packages(config.clinical)
    config = _with_length(config, questions)
    made = build_probes(questions, config.probes, seed=config.seeds[0])
    made = {variant: altered for variant, altered in made.items() if altered}
    with exclusive(config.output_dir):
        model = describe_source(config)
        described = ModelRecord.from_json(model, where=model["source"])
        if config.predictions is not None:
            answers = read_answers(config, questions, made)
        else:
            answers = ask_model(config, task, questions, made, model=model, progress=progress)
        answers.runs |= floors_without_model(config, questions)
        answers.runs |= following_runs(questions, answers.runs, verify=config.verify)
        found = _look_for_training_data(config, task, questions, progress)
        progress.start("scores")
        real = score_replies(questions, answers.real()[0])
        judged = None
        if judge is not None:
            replies = answers.real()[0]
            judged = judge_answers(config, judge, questions, replies, real, progress=progress)
        report = replace(
            _build_report(config, task, questions, answers, described),
            published=tuple(published_rows(task.name)),
            llava_med=_llava_med_report(config, task, questions, answers),
            probes=_probe_report(config, questions, answers) if made else None,
            looking=score_looking(
                questions, answers.runs, draws=config.draws, seed=config.seeds[0]
            ),
            verified=_verified_report(config, questions, answers),
            contamination=None
            if found is None
            else _contamination_report(config, questions, real, found),
        )
        report = _with_clinical(config, questions, answers, report)
        if judged is not None:
            real_scores = report.conditions[Condition.REAL.value] | judged.estimates
            conditions = report.conditions | {Condition.REAL.value: real_scores}
            report = replace(report, conditions=conditions, judge=judged.facts)
        return _write(config, task, answers, report, real, found, judged)


def _with_length(config: EvalConfig, questions: Sequence[Question]) -> EvalConfig:
    """Return the configuration with a length of replies, where it says none."""
    if config.decoding.max_new_tokens:
        return config
    has_reports = any(q.answer_type is AnswerType.REPORT for q in questions)
    length = REPORT_TOKENS if has_reports else ANSWER_TOKENS
    return replace(config, decoding=replace(config.decoding, max_new_tokens=length))


def _look_for_training_data(
    config: EvalConfig, task: QuestionSet, questions: Sequence[Question], progress: Progress
) -> Contamination | None:
    if not config.train_data:
        return None
    progress.start("training data")
    root = task.image_dir or task.file.parent
    images = {image for question in questions for image in question.images}
    return find_contamination(
        questions,
        {image: contained_path(root, image) for image in images},
        config.train_data,
        image_dir=config.train_image_dir,
        local_copies={} if config.data is None else {task.name: config.data},
        encode=load_encoder(config) if config.encoder_twins else None,
    )


def _build_report(
    config: EvalConfig,
    task: QuestionSet,
    questions: Sequence[Question],
    answers: Answers,
    model: ModelRecord,
) -> EvalReport:
    return replace(
        build_scores(questions, answers.runs, draws=config.draws, seed=config.seeds[0]),
        task=TaskRecord(
            name=task.name,
            version=task.version,
            split=task.split,
            language=task.language,
            file=str(task.file),
            file_sha256=task.file_sha256,
            rule=task.rule,
            asked=task.describe(),
            notes=(*task.notes, *_refusal_notes(answers)),
            limit=config.limit,
        ),
        protocol=config.protocol.value,
        model=model,
        prompts={"closed": closed_prompt_of(config, task)},
        refused=answers.count_refused() or None,
        decoding=describe_decoding(config, config.seeds),
        packages=package_versions(),
        commit=code_commit(),
    )


def _refusal_notes(answers: Answers) -> list[str]:
    """Say what the model would not answer."""
    return [
        f"{sum(reasons.values())} questions were asked under {condition} and not answered "
        f"({', '.join(f'{reason} {count}' for reason, count in reasons.items())}); "
        "they count as wrong."
        for condition, reasons in answers.count_refused().items()
    ]


def _llava_med_report(
    config: EvalConfig, task: QuestionSet, questions: Sequence[Question], answers: Answers
) -> dict[str, Any] | None:
    if config.protocol is not Protocol.LLAVA_MED:
        return None
    return score_llava_med(
        questions,
        answers.real(),
        candidates=train_open_answers(task, config.task, data=config.data),
        draws=config.draws,
        seed=config.seeds[0],
    )


def _verified_report(
    config: EvalConfig, questions: Sequence[Question], answers: Answers
) -> dict[str, Any] | None:
    if not config.verify:
        return None
    verified = [text or "" for text in answers.runs[Condition.VERIFIED.value, config.seeds[0]]]
    return describe_verified(questions, answers.real()[0], verified)


def _with_clinical(
    config: EvalConfig, questions: Sequence[Question], answers: Answers, report: EvalReport
) -> EvalReport:
    """Add the clinical scores of reports to every condition."""
    if not config.clinical:
        return report
    from medllava.eval.score.clinical import clinical_estimates  # noqa: PLC0415 - needs an extra

    found = clinical_estimates(
        questions,
        answers.runs,
        config.clinical,
        device=config.device,
        draws=config.draws,
        seed=config.seeds[0],
    )
    conditions = {name: e | found.get(name, {}) for name, e in report.conditions.items()}
    return replace(report, conditions=conditions)


def _probe_report(
    config: EvalConfig, questions: Sequence[Question], answers: Answers
) -> dict[str, Any]:
    return score_probes(
        questions,
        answers.real()[0],
        answers.made,
        answers.probes,
        draws=config.draws,
        seed=config.seeds[0],
    )


def _contamination_report(
    config: EvalConfig, questions: Sequence[Question], values: Values, found: Contamination
) -> dict[str, Any]:
    has_image = [found.has(q.id, IMAGE_FLAGS) for q in questions]
    has_any = [found.has(q.id, Flag) for q in questions]
    subsets = {
        "all": [True] * len(questions),
        "without flagged images": [not flagged for flagged in has_image],
        "without any flag": [not flagged for flagged in has_any],
        "flagged": has_any,
    }
    return {
        "train_data": found.sources,
        "encoder": found.encoder,
        "flags": found.counts(),
        "num_flagged": sum(has_any),
        "num_unread": len(found.unread),
        "unread": found.unread[:_NAMED_UNREAD],
        "scores": score_subsets(
            questions, values, subsets, draws=config.draws, seed=config.seeds[0]
        ),
    }


def _write(
    config: EvalConfig,
    task: QuestionSet,
    answers: Answers,
    report: EvalReport,
    values: Values,
    found: Contamination | None,
    judged: JudgedAnswers | None,
) -> StepSummary:
    folder, questions = config.output_dir, task.questions[: config.limit]
    files = {
        "report": folder / EVAL_REPORT_FILE,
        "page": folder / PAGE_FILE,
        "predictions": folder / PREDICTIONS_FILE,
    }
    write_jsonl(
        files["predictions"], (p.to_json() for p in _iter_predictions(config, questions, answers))
    )
    if found is not None:
        files["contamination"] = folder / CONTAMINATION_FILE
        write_jsonl(
            files["contamination"],
            [
                {"id": q.id, "image": q.image, "flags": found.flags[q.id]}
                for q in questions
                if q.id in found.flags
            ],
        )
    if judged is not None:
        files["judgements"] = folder / JUDGEMENTS_FILE
        write_jsonl(files["judgements"], judged.lines)
    write_text(
        files["page"],
        render_report(
            report,
            questions,
            answers.real()[0],
            values,
            image_dir=task.image_dir if config.images_on_page else None,
        ),
    )
    written = report.to_json()
    write_json(files["report"], written)
    gains = ("visual_gain", "visual_gain_over", "gain_over_all", "num_permutations")
    shown = ("task", "conditions", *gains, "protocol")
    if_there = (
        *("llava_med", "probes", "looking", "verified"),
        *("contamination", "judge", "refused"),
    )
    unread = len(found.unread) if found is not None else 0
    num_open = judged.num_open if judged is not None else 0
    return StepSummary(
        step="eval",
        complete=unread == 0 and num_open == 0,
        hint=_unread_hint(found) if found is not None and unread else None,
        counts={"questions": len(questions), "images": written["num_images"]},
        details={key: written[key] for key in shown}
        | {key: written[key] for key in if_there if written[key] is not None},
        artifacts=files,
    )


def _unread_hint(found: Contamination) -> str:
    """Say what the contamination check could not look at, and what to do."""
    return (
        f"{len(found.unread):,} images could not be opened, so they were not looked for "
        f"({', '.join(found.unread[:3])}). Name their folder with --train-image-dir (training) or "
        "--image-dir (test), and run again."
    )


def contamination_lines(summary: StepSummary) -> list[str]:
    """Return what was shared with the training data as lines for a terminal."""
    found = summary.details.get("contamination")
    if found is None:
        return []
    flags = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in found["flags"].items())
    lines = [f"training data: {found['num_flagged']:,} items flagged ({flags})"]
    lines += [
        f"  {source['path']}: {source['records']:,} records, {source['images']:,} images "
        f"compared, {source['images_not_readable']:,} not readable"
        for source in found["train_data"]
    ]
    if found["encoder"]:
        encoder = found["encoder"]
        lines.append(
            f"  second look by the vision encoder: finds {encoder['found']} of "
            f"{encoder['planted']} copies planted among the test images"
        )
    if found["num_unread"]:
        named = ", ".join(found["unread"][:3])
        lines.append(f"  NOT COMPLETE: {found['num_unread']:,} images were not looked at: {named}")
    return lines


def _iter_predictions(
    config: EvalConfig, questions: Sequence[Question], answers: Answers
) -> Iterator[Prediction]:
    for (condition, seed), replies in answers.runs.items():
        for question, text in zip(questions, replies, strict=True):
            if text is None:
                continue
            yield Prediction(id=question.id, condition=condition, seed=seed, text=text)
    for variant, altered in answers.probes.items():
        for probed, text in zip(answers.made[variant], altered, strict=True):
            yield ProbePrediction(
                id=probed.base.id,
                condition=variant,
                seed=config.seeds[0],
                text=text,
                question=probed.question.question,
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
    asked = [summary.details["task"]["asked"], *summary.details["task"]["notes"]]
    rows = {name.replace("_", " "): row for name, row in summary.details["conditions"].items()}
    rows |= gain_rows(summary.details)
    names = [name for name in _PRINTED if name in rows[Condition.REAL.value]]
    width = max(len(row) for row in rows) + 2
    lines = [f"{'':<{width}}" + "".join(f"{name.replace('_', ' '):>22}" for name in names)]
    for row, estimates in rows.items():
        cells = "".join(f"{format_estimate(estimates.get(name)):>22}" for name in names)
        lines.append(f"{row:<{width}}{cells}")
    lines.append(
        "in %, with 95 % intervals over images (shares: Wilson with their design effect; "
        "differences: bootstrap); *: fewer than 20 images"
    )
    if summary.details["visual_gain"]:
        gains = summary.details["visual_gain"]
        counted = max(estimate["num_questions"] for estimate in gains.values())
        lines.append(
            f"real minus permuted: among {summary.details['visual_gain_over']}, "
            f"{summary.details['num_permutations']} orders; {counted:,} questions, those whose "
            "image has another to take its place"
        )
    for kind, estimate in summary.details.get("llava_med", {}).get("paper", {}).items():
        lines.append(f"LLaVA-Med protocol, {kind:<6} {estimate['value']:>22.4f}")
    sections = {"verified": verified_lines, "looking": looking_lines, "judge": judge_lines}
    for name, lines_of in sections.items():
        if name in summary.details:
            lines += lines_of(summary.details[name])
    return [*asked, "", *lines, *contamination_lines(summary)]


_NAMED_UNREAD = 100
_PRINTED = (
    "judged_accuracy",
    "accuracy",
    "closed_accuracy",
    "open_token_recall",
    "token_recall",
    "unparseable",
    "report_bleu",
    "report_rouge_l",
    *(f"clinical_{metric.value}" for metric in ClinicalMetric),
)
