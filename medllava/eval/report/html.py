"""`report.html`: the scores beside their floors, and answers beside the images they are about.

The values of `report.json` and the replies enter, one self-contained page leaves.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medllava import page
from medllava.errors import DataError
from medllava.eval.config import Condition
from medllava.eval.report.html_sections import (
    contamination_section,
    estimate_cell,
    gain_rows,
    judge_section,
    llava_med_section,
    looking_section,
    probe_section,
    published_section,
    verified_section,
)
from medllava.eval.score.scores import CLINICAL_METRICS, METRICS, Metric, Values
from medllava.records import EvalReport, Question
from medllava.store import contained_path

_NUM_CARDS = 12
_BAR_METRICS = ("closed_accuracy", "token_recall", "report_rouge_l")
_GROUP_METRICS = ("token_recall", "report_rouge_l", "accuracy")
_THUMBNAIL_PIXELS = 256


def render_report(
    evaluation: EvalReport,
    questions: Sequence[Question],
    replies: Sequence[str],
    values: Values,
    *,
    image_dir: Path | None,
) -> str:
    """Return the page.

    Args:
        evaluation: as written to `report.json`.
        questions: what was asked.
        replies: under the real condition, in the same order.
        values: their scores, (questions, metrics).
        image_dir: where images are; None or unreadable images are left out.
    """
    report = evaluation.to_json()
    task = evaluation.task
    sections = contamination_section(evaluation.contamination)
    sections += [("Scores", _score_table(report) + _floor_bars(report["conditions"]))]
    sections += _groups("By answer type", report["by_answer_type"])
    sections += _groups("By category", report["by_category"])
    sections += judge_section(evaluation.judge, report["conditions"][Condition.REAL.value])
    sections += verified_section(evaluation.verified)
    sections += looking_section(evaluation.looking)
    sections += probe_section(evaluation.probes)
    sections += llava_med_section(evaluation.llava_med)
    sections += published_section(task.name, report)
    right, wrong = _examples(questions, values)
    for heading, rows in (("Worst errors", wrong), ("Right answers", right)):
        cards = [_card(questions[row], replies[row], image_dir) for row in rows]
        if cards:
            sections.append((heading, page.render_cards(cards)))
    sections.append(("What was asked, and with what", _facts(evaluation)))
    return page.render_page(
        f"{task.name}: {evaluation.model.source}",
        subtitle=(
            f"{evaluation.num_questions:,} questions about {evaluation.num_images:,} images, "
            f"{task.split}; intervals: 95 %, over images; *: fewer than 20 images. "
            "No clinical use."
        ),
        sections=sections,
    )


def _shown_metrics(conditions: Mapping[str, Any]) -> list[Metric]:
    known = (*METRICS, *CLINICAL_METRICS)
    return [m for m in known if any(m.name in estimates for estimates in conditions.values())]


def _score_table(scores: Mapping[str, Any]) -> str:
    """Return a row per metric, for conditions are few; metrics of equal numbers share a row."""
    columns = {name.replace("_", " "): found for name, found in scores["conditions"].items()}
    table = _by_metric(_shown_metrics(columns), columns)
    gains = gain_rows(scores)
    if not gains:
        return table
    among = scores["visual_gain_over"]
    note = f"What the images add, permuted among {among}; intervals of the paired difference:"
    gained = [metric for metric in METRICS if metric.name in scores["visual_gain"]]
    return table + page.render_text(note) + _by_metric(gained, gains)


def _by_metric(metrics: Sequence[Metric], columns: Mapping[str, Mapping[str, Any]]) -> str:
    return page.render_table(
        ["score", *columns],
        [[name, *cells] for name, cells in _merged(metrics, list(columns.values()))],
    )


def _merged(
    metrics: Sequence[Metric], estimates: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """Return (names, cells) of metrics; those with the same numbers everywhere are one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        cells = [estimate_cell(e.get(metric.name), is_share=metric.is_share) for e in estimates]
        names.setdefault(tuple(cells), []).append(metric.name.replace("_", " "))
    shares = {metric.name.replace("_", " ") for metric in metrics if metric.is_share}
    return [
        (", ".join(found) + (", %" if found[0] in shares else ""), list(cells))
        for cells, found in names.items()
    ]


def _floor_bars(conditions: Mapping[str, Any]) -> str:
    """Draw the score that says most beside its floors."""
    metric = _main_metric(conditions[Condition.REAL.value], _BAR_METRICS)
    estimates = {name: found[metric] for name, found in conditions.items() if metric in found}
    return page.render_text(f"{metric.replace('_', ' ').capitalize()}, %:") + _bars(estimates)


def _main_metric(present: Collection[str], names: Sequence[str]) -> str:
    return next((name for name in names if name in present), next(iter(present)))


def _bars(estimates: Mapping[str, Mapping[str, Any]]) -> str:
    return page.render_bars(
        {name: round(100 * e["value"], 1) for name, e in estimates.items()},
        ranges={
            name: (100 * e["low"], 100 * e["high"])
            for name, e in estimates.items()
            if e["low"] is not None
        },
    )


def _groups(heading: str, groups: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not groups:
        return []
    metrics = [m for m in _shown_metrics(groups) if m.higher_is_better]
    merged = _merged(metrics, list(groups.values()))
    table = page.render_table(
        ["", "questions", *(name for name, _ in merged)],
        [
            [
                name,
                max(e["num_questions"] for e in estimates.values()),
                *(cells[row] for _, cells in merged),
            ]
            for row, (name, estimates) in enumerate(groups.items())
        ],
    )
    main = _main_metric({n for estimates in groups.values() for n in estimates}, _GROUP_METRICS)
    bars = _bars({n: estimates[main] for n, estimates in groups.items() if main in estimates})
    heading_of_bars = f"{main.replace('_', ' ').capitalize()}, %:"
    return [(heading, table + page.render_text(heading_of_bars) + bars)]


def _facts(report: EvalReport) -> str:
    task, decoding = report.task, report.decoding
    facts = {
        "model": report.model.source,
        "weights (SHA-256)": report.model.weights_sha256 or "-",
        "questions": f"{task.name}, version {task.version}, {task.split}",
        "file": f"{task.file} (SHA-256 {task.file_sha256})",
        "open or closed": task.rule,
        "answer-format prompt": report.prompts["closed"] or "none: asked as written",
        "decoding": ", ".join(f"{key} {value}" for key, value in decoding.to_json().items())
        if decoding
        else "made elsewhere",
        "protocol": report.protocol,
        "packages": ", ".join(f"{name} {v}" for name, v in report.packages.items()),
        "code": report.commit or "-",
        "notes": " ".join(task.notes) or "-",
    }
    return page.render_table(["", ""], list(facts.items()))


def _examples(questions: Sequence[Question], values: Values) -> tuple[list[int], list[int]]:
    """Return rows of right and of worst replies, one per image as long as there are enough."""
    recall = values[:, [m.name for m in METRICS].index("token_recall")]
    closed = values[:, [m.name for m in METRICS].index("closed_accuracy")]
    written = values[:, [m.name for m in METRICS].index("report_rouge_l")]
    score = [
        next((value for value in (c, w, r) if value == value), 0.0)
        for r, c, w in zip(recall, closed, written, strict=True)
    ]
    worst = sorted(range(len(questions)), key=lambda row: score[row])
    wrong = [row for row in worst if score[row] < 1]
    right = [row for row in range(len(questions)) if score[row] == 1]
    return _spread(questions, right), _spread(questions, wrong)


def _spread(questions: Sequence[Question], rows: Sequence[int]) -> list[int]:
    seen: set[str | None] = set()
    first: list[int] = []
    rest: list[int] = []
    for row in rows:
        (rest if questions[row].image in seen else first).append(row)
        seen.add(questions[row].image)
    return (first + rest)[:_NUM_CARDS]


def _card(question: Question, reply: str, image_dir: Path | None) -> tuple[str | None, list[str]]:
    lines = [question.question, f"answer: {reply or '(empty)'}", f"reference: {question.answer}"]
    return thumbnail(question.image, image_dir), lines


def thumbnail(image: str | None, image_dir: Path | None) -> str | None:
    """Return a small JPEG as a data address, so that the page stays whole when it is sent."""
    if image is None or image_dir is None or not (image_dir / image).is_file():
        return None
    from medllava.images.encode import image_address, shrink  # noqa: PLC0415 - only with images
    from medllava.images.load import load_image  # noqa: PLC0415 - not needed without images

    try:
        picture = load_image(contained_path(image_dir, image))
    except DataError:
        return None
    return image_address(shrink(picture, _THUMBNAIL_PIXELS), kind="JPEG")
