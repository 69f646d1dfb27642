"""`eval TASK --judge MODEL`: open answers graded against references, beside the strict scores.

Questions and replies enter; judged accuracies with intervals, how far judge and strict rules agree,
and how good the judge itself is on answers that people graded leave for `report.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medllava.errors import RecordError
from medllava.eval.config import EvalConfig
from medllava.eval.judged.ask_judge import JudgeConfig, Judged, ask_judge, total_cost
from medllava.eval.judged.verdicts import (
    PROMPT_VERSION,
    Grading,
    Verdict,
    build_request,
    parse_verdict,
    plan_gradings,
)
from medllava.eval.score.intervals import bootstrap
from medllava.eval.score.scores import JUDGED_METRICS, METRIC_NAMES, Values, image_clusters
from medllava.llm.protocol import ChatRequest
from medllava.progress import Progress
from medllava.records import AnswerType, Estimates, Question
from medllava.store import iter_jsonl

_MOST = 0.5


@dataclass(slots=True, kw_only=True)
class JudgedAnswers:
    """What the judge said about one set of replies."""

    estimates: Estimates
    """Of `JUDGED_METRICS`."""
    facts: dict[str, Any]
    """The `judge` section of the report."""
    lines: list[dict[str, Any]]
    """Every reply as it came, with the verdict read from it."""
    num_open: int = 0
    """Gradings without a verdict: unanswered or not readable."""


@dataclass(slots=True)
class _Verdicts:
    """Verdicts by question."""

    by_name: dict[str, list[Verdict]] = field(default_factory=dict)

    def credit(self, name: str) -> float:
        """Return the mean credit; NaN where there is no verdict."""
        found = self.by_name.get(name, [])
        return float(np.mean([v.credit for v in found])) if found else float("nan")

    def is_correct(self, name: str) -> float:
        """Return the share of verdicts that say correct; NaN where there is none."""
        found = self.by_name.get(name, [])
        return float(np.mean([v is Verdict.CORRECT for v in found])) if found else float("nan")


def judge_answers(
    config: EvalConfig,
    judge: JudgeConfig,
    questions: Sequence[Question],
    replies: Sequence[str],
    values: Values,
    *,
    progress: Progress,
) -> JudgedAnswers:
    """Have the open answers graded; closed ones keep their rule.

    Args:
        config: of the evaluation; the ledger goes into the `judge` of its folder.
        judge: whom to ask, and answers that people graded.
        questions: all of them.
        replies: under the real condition.
        values: their strict scores, (questions, metrics).
        progress: told about judgements.

    Raises:
        DataError: the labelled answers cannot be read.
        RemoteError: the judge answers nobody.
    """
    labelled = read_labels(judge.labels) if judge.labels is not None else []
    rows = [i for i, q in enumerate(questions) if _is_graded(q)]
    gradings = plan_gradings(
        [questions[i] for i in rows], [replies[i] for i in rows], repeats=judge.repeats
    )
    ledger = config.output_dir / "judge" / "ledger.jsonl"
    if not config.resume:
        ledger.unlink(missing_ok=True)
    checks = [grading for grading, _ in labelled]
    found, missing = ask_judge(
        judge,
        [*gradings, *checks],
        build=lambda grading, attempt: _request(judge, grading, attempt),
        read=lambda _, text: parse_verdict(text),
        ledger=ledger,
        progress=progress,
    )
    verdicts = _collect(found)
    unreadable = len(gradings) + len(checks) - missing - sum(r.said is not None for r in found)
    strict = values[:, METRIC_NAMES.index("accuracy")]
    columns = _columns(questions, strict, verdicts)
    clusters = image_clusters(questions)
    result = bootstrap(columns, clusters, draws=config.draws, seed=config.seeds[0])
    lines = [_line(reply) for reply in found]
    return JudgedAnswers(
        estimates={
            metric.name: estimate
            for i, metric in enumerate(JUDGED_METRICS)
            if (estimate := result.estimate(i)).value is not None
        },
        facts={
            "model": judge.model,
            "answered_as": sorted({line["model"] for line in lines if line["model"]}),
            "base_url": judge.base_url,
            "prompt_version": PROMPT_VERSION,
            "temperature": judge.temperature,
            "repeats": judge.repeats,
            "judgements": len(gradings),
            "missing": missing,
            "unreadable": unreadable,
            "verdicts": {v.value: _count(verdicts, rows, questions, v) for v in Verdict},
            "agreement_with_strict": _agreement(questions, rows, strict, verdicts),
            "order": _order(found),
            "labels": _measure(labelled, verdicts) if labelled else None,
            "input_tokens": sum(line["input_tokens"] for line in lines),
            "output_tokens": sum(line["output_tokens"] for line in lines),
            "cost_usd": total_cost(lines),
        },
        lines=lines,
        num_open=missing + unreadable,
    )


def read_judged_values(file: Path, questions: Sequence[Question], strict: Values) -> Values:
    """Return (questions, judged metrics) from the judgements that an evaluation wrote.

    Args:
        file: `judgements.jsonl`; verdicts about other questions than these are left out.
        questions: in the order of the rows.
        strict: their strict accuracies, (questions,).

    Raises:
        RecordError: a line has a verdict that is none; names the line.
    """
    known = {question.id for question in questions}
    verdicts = _Verdicts()
    for number, line in iter_jsonl(file):
        name, said = str(line.get("id")), line.get("verdict")
        if said is not None and said not in list(Verdict):
            raise RecordError(
                f"verdict {said!r} is not {', '.join(Verdict)}: {file}, line {number}."
            )
        if name in known and said is not None:
            verdicts.by_name.setdefault(name, []).append(Verdict(said))
    return _columns(questions, strict, verdicts)


def read_labels(file: Path) -> list[tuple[Grading, Verdict]]:
    """Read answers that people graded: JSONL of `question`, `reference`, `answer`, `verdict`.

    Raises:
        DataError: there is no such file.
        RecordError: a line lacks one, or its verdict is none of the three; names the line.
    """
    found: list[tuple[Grading, Verdict]] = []
    for number, line in iter_jsonl(file):
        where = f"{file}, line {number}"
        for key in ("question", "reference", "answer", "verdict"):
            if not isinstance(line.get(key), str):
                raise RecordError(f"a graded answer needs {key}, a text: {where}.")
        stated = line["verdict"].strip().lower()
        if stated not in list(Verdict):
            raise RecordError(f"verdict {stated!r} is not {', '.join(Verdict)}: {where}.")
        grading = Grading(
            name=f"label {number}",
            question=line["question"],
            reference=line["reference"],
            answer=line["answer"],
        )
        found.append((grading, Verdict(stated)))
    return found


def judge_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what the judge said, and how far it can be trusted, as lines for a terminal."""
    counts = ", ".join(f"{name} {n:,}" for name, n in facts["verdicts"].items())
    lines = [f"judge {facts['model']}: {counts}"]
    agreement = facts["agreement_with_strict"]
    if agreement["questions"]:
        lines.append(
            f"  agrees with the strict rule on {100 * agreement['share']:.1f} % of "
            f"{agreement['questions']:,} open questions (kappa {agreement['kappa']:.2f}); "
            f"right for the judge alone {agreement['judge_only']:,}, for the rule alone "
            f"{agreement['strict_only']:,}"
        )
    if (labels := facts["labels"]) is not None:
        lines.append(
            f"  on {labels['answers']:,} answers graded by people: agrees on "
            f"{100 * labels['share']:.1f} % [{100 * labels['low']:.1f}, {100 * labels['high']:.1f}]"
            f" (kappa {labels['kappa']:.2f})"
        )
    if facts["missing"] or facts["unreadable"]:
        lines.append(
            f"  NOT COMPLETE: {facts['missing']:,} judgements missing, {facts['unreadable']:,} not "
            "readable; they count in no score"
        )
    return lines


def _is_graded(question: Question) -> bool:
    """Tell open answers in words; places and closed answers have their rules."""
    return question.answer_type is AnswerType.OPEN and not question.box


def _request(judge: JudgeConfig, grading: Grading, attempt: int) -> ChatRequest:
    return build_request(grading, attempt, temperature=judge.temperature)


def _collect(found: Sequence[Judged[Grading, Verdict]]) -> _Verdicts:
    verdicts = _Verdicts()
    for reply in found:
        if reply.said is not None:
            verdicts.by_name.setdefault(reply.item.name, []).append(reply.said)
    return verdicts


def _columns(questions: Sequence[Question], strict: Values, verdicts: _Verdicts) -> Values:
    """Return (questions, judged metrics)."""
    columns = np.full((len(questions), len(JUDGED_METRICS)), np.nan)
    for i, question in enumerate(questions):
        if _is_graded(question):
            credit = verdicts.credit(question.id)
            columns[i] = credit, credit, verdicts.is_correct(question.id)
        else:
            columns[i, 0] = strict[i]
    return columns


def _count(
    verdicts: _Verdicts, rows: Sequence[int], questions: Sequence[Question], wanted: Verdict
) -> int:
    return sum(verdicts.by_name.get(questions[i].id, []).count(wanted) for i in rows)


def _agreement(
    questions: Sequence[Question], rows: Sequence[int], strict: Values, verdicts: _Verdicts
) -> dict[str, Any]:
    """Compare "correct" by most verdicts with the strict rule, on the same open answers."""
    pairs = [
        (bool(share > _MOST), bool(strict[i] == 1))
        for i in rows
        if not np.isnan(share := verdicts.is_correct(questions[i].id))
    ]
    return {
        "questions": len(pairs),
        "share": float(np.mean([a == b for a, b in pairs])) if pairs else None,
        "kappa": cohen_kappa([str(a) for a, _ in pairs], [str(b) for _, b in pairs]),
        "judge_only": sum(a and not b for a, b in pairs),
        "strict_only": sum(b and not a for a, b in pairs),
    }


def _order(found: Sequence[Judged[Grading, Verdict]]) -> dict[str, Any] | None:
    """Return the mean credit by which answer was shown first; None where one order was asked."""
    by_order: dict[bool, list[float]] = {True: [], False: []}
    for reply in found:
        if reply.said is not None and not reply.item.name.startswith("label "):
            by_order[reply.item.reference_first].append(reply.said.credit)
    if not all(by_order.values()):
        return None
    return {
        "reference_first": float(np.mean(by_order[True])),
        "answer_first": float(np.mean(by_order[False])),
    }


def _measure(labelled: Sequence[tuple[Grading, Verdict]], verdicts: _Verdicts) -> dict[str, Any]:
    """Compare the judge with people: agreement with its interval, kappa, and who says what."""
    pairs = [
        (verdicts.by_name[grading.name][0], human)
        for grading, human in labelled
        if grading.name in verdicts.by_name
    ]
    same = np.array([[float(a is b)] for a, b in pairs])
    estimate = bootstrap(same, np.arange(len(pairs)), draws=1_000, seed=0).estimate(0)
    return {
        "answers": len(pairs),
        "share": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "kappa": cohen_kappa([a.value for a, _ in pairs], [b.value for _, b in pairs]),
        "table": {
            human.value: {
                said.value: sum(a is said and b is human for a, b in pairs) for said in Verdict
            }
            for human in Verdict
        },
    }


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return the agreement of two raters beyond chance; None where chance explains all.

    Source: Cohen 1960, a coefficient of agreement for nominal scales.
    """
    if not first:
        return None
    same = float(np.mean([a == b for a, b in zip(first, second, strict=True)]))
    chance = sum(first.count(n) * second.count(n) for n in set(first)) / len(first) ** 2
    return None if chance == 1 else (same - chance) / (1 - chance)


def _line(reply: Judged[Grading, Verdict]) -> dict[str, Any]:
    return {
        "id": reply.item.name,
        "repeat": reply.item.repeat,
        "attempt": reply.attempt,
        "reference_first": reply.item.reference_first,
        "verdict": None if reply.said is None else reply.said.value,
        **reply.facts(),
    }
