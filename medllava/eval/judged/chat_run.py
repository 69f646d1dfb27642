"""`eval chat`: open-ended answers, graded by a judge against reference answers.

Questions enter; a model's answers, the judge's raw replies and a report leave. What was answered or
judged is on disk at once, so a run that was killed goes on and nothing is paid for twice.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllava.data.sources import image_root
from medllava.errors import DataError
from medllava.eval.ask.backends import build_answerer
from medllava.eval.ask.describe import describe_decoding, describe_source
from medllava.eval.ask.predict import Ask, collect_replies, read_texts
from medllava.eval.config import Condition, EvalConfig
from medllava.eval.judged.ask_judge import JudgeConfig, Judged, ask_judge, total_cost
from medllava.eval.judged.chat_questions import (
    ChatQuestion,
    compare_with_released,
    read_chat_questions,
)
from medllava.eval.judged.chat_scores import Judgement, score_judgements
from medllava.eval.judged.judge import (
    PROMPT_VERSION,
    Trial,
    build_request,
    parse_scores,
    plan_trials,
)
from medllava.eval.report.chat_html import render_chat_report
from medllava.layout import EVAL_REPORT_FILE, JUDGEMENTS_FILE, PAGE_FILE, PREDICTIONS_FILE
from medllava.llm.protocol import ChatRequest
from medllava.progress import Progress, SilentProgress
from medllava.provenance import code_commit, package_versions
from medllava.records import (
    BootstrapRecord,
    Estimate,
    EvalReport,
    ModelRecord,
    Prediction,
    StepSummary,
    TaskRecord,
)
from medllava.store import (
    contained_path,
    exclusive,
    sha256_of,
    write_json,
    write_jsonl,
    write_text,
)

TASK = "chat"
_DATED = re.compile(r"20\d\d-?[01]\d(?:-?[0-3]\d)?|-[01]\d[0-3]\d$")


def judge_chat(
    config: EvalConfig,
    judge: JudgeConfig,
    *,
    progress: Progress = SilentProgress(),  # noqa: B008 - has no state
) -> StepSummary:
    """Have a model answer, or take its answers, and have a judge compare them with the references.

    Output folder::

        report.json        relative scores by type and domain, order effects, cost, provenance
        report.html        the same to look at, with the widest gaps beside their images
        predictions.jsonl  {id, condition, seed, text}
        judgements.jsonl   every reply of the judge as it came, and the grades read from it
        answers/           the model's replies as they came
        judge/             the ledger of the judge: nothing in it is asked, or paid, again

    Raises:
        DataError: questions, images or predictions are missing or malformed.
        SetupError: the model cannot be loaded, or the judge's key is not set.
        RemoteError: the judge or the server answers nobody.
    """
    if config.data is None:
        raise DataError(
            "eval chat needs its questions: --data FILE, such as LLaVA-Med's "
            "llava_med_eval_qa50_qa.jsonl, and their images: --image-dir DIR."
        )
    questions = read_chat_questions(config.data)[: config.limit]
    root = image_root(config.data, config.image_dir)
    with exclusive(config.output_dir):
        texts, model = _answers(config, questions, root, progress)
        lines, missing = _judge(config, judge, questions, texts, progress)
        judgements = [
            Judgement(
                trial=Trial(**line["trial"]),
                reference=line["reference"],
                candidate=line["candidate"],
            )
            for line in lines
            if line["reference"] is not None
        ]
        report = _build_report(config, judge, questions, judgements, lines, missing, model)
        return _write(config, questions, texts, lines, report, root)


def _answers(
    config: EvalConfig, questions: Sequence[ChatQuestion], root: Path, progress: Progress
) -> tuple[list[str], ModelRecord]:
    """Return the candidate's answers and where they are from."""
    model = describe_source(config)
    described = ModelRecord.from_json(model, where=model["source"])
    if config.predictions is not None:
        return read_texts(config.predictions, [q.id for q in questions]), described
    asks = [
        Ask(
            id=question.id,
            condition=Condition.REAL.value,
            seed=config.seeds[0],
            image=None if question.image is None else str(contained_path(root, question.image)),
            text=question.text,
        )
        for question in questions
    ]
    absent = [ask.image for ask in asks if ask.image and not Path(ask.image).is_file()]
    if absent:
        raise DataError(
            f"{len(absent):,} images are not there ({absent[0]}): {root}. "
            "Name their folder with --image-dir."
        )
    file = config.output_dir / "answers" / "chat.jsonl"
    if not config.resume:
        file.unlink(missing_ok=True)
    facts = {"model": model, "decoding": str(config.decoding)}
    _forget_others(file, facts)
    replies = collect_replies(
        asks,
        build_answerer(config),
        file,
        progress=progress,
        is_greedy=config.decoding.temperature == 0,
    )
    return [replies[ask.key] for ask in asks], described


def _forget_others(file: Path, facts: dict[str, Any]) -> None:
    """Drop answers of another model or other settings; they must not be continued."""
    about = file.with_suffix(".about.json")
    text = json.dumps(facts, sort_keys=True, default=str)
    if about.is_file() and about.read_text(encoding="utf-8") == text:
        return
    file.unlink(missing_ok=True)
    write_text(about, text)


def _judge(
    config: EvalConfig,
    judge: JudgeConfig,
    questions: Sequence[ChatQuestion],
    texts: Sequence[str],
    progress: Progress,
) -> tuple[list[dict[str, Any]], int]:
    """Return a line per reply of the judge, and how many trials have none yet."""
    by_id = {q.id: (q, text) for q, text in zip(questions, texts, strict=True)}
    ledger = config.output_dir / "judge" / "ledger.jsonl"
    if not config.resume:
        ledger.unlink(missing_ok=True)

    def build(trial: Trial, attempt: int) -> ChatRequest:
        question, text = by_id[trial.question_id]
        asked = replace(trial, attempt=attempt)
        return build_request(asked, question, text, temperature=judge.temperature)

    replies, missing = ask_judge(
        judge,
        list(plan_trials(questions, repeats=judge.repeats)),
        build=build,
        read=lambda _, text: parse_scores(text),
        ledger=ledger,
        progress=progress,
    )
    return [_line(reply) for reply in replies], missing


def _line(judged: Judged[Trial, tuple[float, float]]) -> dict[str, Any]:
    trial, grades = judged.item, judged.said
    if grades is not None and trial.candidate_first:
        grades = grades[::-1]
    return {
        "trial": {
            "question_id": trial.question_id,
            "candidate_first": trial.candidate_first,
            "repeat": trial.repeat,
            "attempt": judged.attempt,
        },
        "reference": grades[0] if grades else None,
        "candidate": grades[1] if grades else None,
        **judged.facts(),
    }


def _build_report(
    config: EvalConfig,
    judge: JudgeConfig,
    questions: Sequence[ChatQuestion],
    judgements: Sequence[Judgement],
    lines: Sequence[dict[str, Any]],
    missing: int,
    model: ModelRecord,
) -> EvalReport:
    assert config.data is not None  # noqa: S101 - the caller looked
    scores = score_judgements(questions, judgements, draws=config.draws, seed=config.seeds[0])
    overall = scores["groups"]["overall"]["relative_score"]
    num_trials = len(questions) * 2 * judge.repeats
    notes = [compare_with_released(questions)]
    names = sorted({line["model"] for line in lines if line["model"]})
    if not any(_DATED.search(name) for name in [judge.model, *names]):
        notes.append(
            f"The judge's name {judge.model!r} has no date, so the model behind it may change: "
            "compare only scores of one run of the judge."
        )
    return EvalReport(
        task=TaskRecord(
            name=TASK,
            version=1,
            split="test",
            file=str(config.data),
            file_sha256=sha256_of(config.data),
            notes=tuple(notes),
            limit=config.limit,
        ),
        protocol="judged",
        num_questions=len(questions),
        num_images=len({q.image for q in questions if q.image}),
        conditions={
            Condition.REAL.value: {
                "relative_score": Estimate.from_json(overall, where="overall relative score")
            }
        },
        groups=scores["groups"],
        order=scores["order"],
        judge={
            "model": judge.model,
            "answered_as": names,
            "base_url": judge.base_url,
            "prompt_version": PROMPT_VERSION,
            "temperature": judge.temperature,
            "repeats": judge.repeats,
            "judgements": num_trials,
            "readable": len(judgements),
            "unreadable": num_trials - len(judgements) - missing,
            "missing": missing,
            "input_tokens": sum(line["input_tokens"] for line in lines),
            "output_tokens": sum(line["output_tokens"] for line in lines),
            "cost_usd": total_cost(lines),
        },
        model=model,
        decoding=describe_decoding(config, config.seeds[:1]),
        bootstrap=BootstrapRecord(draws=config.draws, seed=config.seeds[0]),
        packages=package_versions(),
        commit=code_commit(),
    )


def _write(
    config: EvalConfig,
    questions: Sequence[ChatQuestion],
    texts: Sequence[str],
    lines: Sequence[dict[str, Any]],
    report: EvalReport,
    root: Path,
) -> StepSummary:
    folder = config.output_dir
    files = {
        "report": folder / EVAL_REPORT_FILE,
        "page": folder / PAGE_FILE,
        "predictions": folder / PREDICTIONS_FILE,
        "judgements": folder / JUDGEMENTS_FILE,
    }
    write_jsonl(
        files["predictions"],
        (
            Prediction(id=question.id, seed=config.seeds[0], text=text).to_json()
            for question, text in zip(questions, texts, strict=True)
        ),
    )
    write_jsonl(files["judgements"], lines)
    written = report.to_json()
    write_text(files["page"], render_chat_report(written, questions, texts, lines, image_dir=root))
    write_json(files["report"], written)
    facts = written["judge"]
    return StepSummary(
        step="eval",
        complete=facts["missing"] == 0,
        counts={
            "questions": len(questions),
            "judgements": facts["readable"],
            "unreadable": facts["unreadable"],
            "missing": facts["missing"],
            **({} if facts["cost_usd"] is None else {"cost_usd": facts["cost_usd"]}),
        },
        details={key: written[key] for key in ("groups", "order", "judge", "conditions")},
        artifacts=files,
    )


def chat_lines(summary: StepSummary) -> list[str]:
    """Return the scores as lines for a terminal."""
    lines = [f"{'':<32}{'relative score':>22}{'mean of ratios':>18}{'questions':>11}"]
    for name, table in summary.details["groups"].items():
        score, theirs = table["relative_score"], table["llava_med"]["mean_of_ratios"]
        text = "-"
        if score["value"] is not None:
            text = f"{100 * score['value']:.1f}"
        if score["low"] is not None:
            text += f" [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        ratios = "-" if theirs is None else f"{theirs:.1f}"
        lines.append(f"{name:<32}{text:>22}{ratios:>18}{score['num_questions']:>11}")
    return [
        *lines,
        "relative score: candidate's mean grade over the reference's, both orders, in %, with",
        "95 % intervals by bootstrap over images; mean of ratios: LLaVA-Med's way, one order only",
    ]
