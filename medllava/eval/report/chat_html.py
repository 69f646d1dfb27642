"""`report.html` of judged answers: scores by type and domain, and the widest gaps to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medllava import page
from medllava.eval.judged.chat_questions import ChatQuestion
from medllava.eval.report.html import thumbnail
from medllava.eval.report.html_sections import estimate_cell

_NUM_CARDS = 12
_COLUMNS = ("conversation", "description", "CXR", "MRI", "histology", "gross", "CT", "overall")
_PUBLISHED = {
    "LLaVA": (39.4, 26.2, 41.6, 33.4, 38.4, 32.9, 33.4, 36.1),
    "LLaVA-Med, stage 1": (22.6, 25.2, 25.8, 19.0, 24.8, 24.7, 22.2, 23.3),
    "LLaVA-Med, 10K": (42.4, 32.5, 46.1, 36.7, 43.5, 34.7, 37.5, 39.9),
    "LLaVA-Med, 60K": (53.7, 36.9, 57.3, 39.8, 49.8, 47.4, 52.4, 49.4),
    "LLaVA-Med, 60K-IM": (55.1, 36.4, 56.2, 40.4, 52.7, 51.8, 50.1, 50.2),
}
"""Source: LLaVA-Med, Li et al. 2023, figure of the chat evaluation; judge gpt-4-0314, retired."""


def render_chat_report(
    report: Mapping[str, Any],
    questions: Sequence[ChatQuestion],
    texts: Sequence[str],
    lines: Sequence[Mapping[str, Any]],
    *,
    image_dir: Path,
) -> str:
    """Return the page.

    Args:
        report: as written to `report.json`.
        questions: what was asked.
        texts: the candidate's answers, in the same order.
        lines: the judge's replies with their grades.
        image_dir: where images are; those that cannot be read are left out.
    """
    cards = [
        (thumbnail(question.image, image_dir), _words(question, text, gap))
        for question, text, gap in _widest_gaps(questions, texts, lines)
    ]
    sections = [
        ("Relative scores", _scores(report)),
        ("The judge", _judge(report)),
        ("Published rows", _published()),
    ]
    if cards:
        sections.append(("Widest gaps to the reference", page.render_cards(cards)))
    return page.render_page(
        f"chat, judged: {report['model']['source']}",
        subtitle=(
            f"{report['num_questions']:,} questions about {report['num_images']:,} images, graded "
            f"by {report['judge']['model']}; intervals: 95 %, bootstrap over images; "
            "*: fewer than 20 images. "
            "No clinical use."
        ),
        sections=sections,
    )


def _scores(report: Mapping[str, Any]) -> str:
    groups = report["groups"]
    table = page.render_table(
        ["", "questions", "relative score, %", "mean of ratios, %", "candidate", "reference"],
        [
            [
                name,
                group["relative_score"]["num_questions"],
                estimate_cell(group["relative_score"]),
                _one_decimal(group["llava_med"]["mean_of_ratios"]),
                estimate_cell(group["candidate"], is_share=False),
                estimate_cell(group["reference"], is_share=False),
            ]
            for name, group in groups.items()
        ],
    )
    known = {
        name: group["relative_score"]
        for name, group in groups.items()
        if group["relative_score"]["value"] is not None
    }
    bars = page.render_bars(
        {name: round(100 * score["value"], 1) for name, score in known.items()},
        ranges={
            name: (100 * score["low"], 100 * score["high"])
            for name, score in known.items()
            if score["low"] is not None
        },
    )
    note = page.render_text(
        "Relative score: the candidate's mean grade over the reference's, both orders of the two "
        "answers weighing the same. Mean of ratios: LLaVA-Med's own summary, reference shown "
        "first, one judgement per question."
    )
    return table + note + bars


def _judge(report: Mapping[str, Any]) -> str:
    judge, order = report["judge"], report["order"]
    facts = {
        "judge": f"{judge['model']}, answered as {', '.join(judge['answered_as']) or '-'}",
        "judgements": f"{judge['readable']:,} read of {judge['judgements']:,}; "
        f"{judge['unreadable']:,} unreadable, {judge['missing']:,} missing",
        "cost": f"{_cost(judge['cost_usd'])}, {judge['input_tokens']:,} tokens in, "
        f"{judge['output_tokens']:,} out",
        "advantage of the first place": _grades(order["first_place_advantage"]),
        "winner changes with the order": estimate_cell(
            {"value": order["winner_changes"], "low": None, "high": None}
        )
        + " % of questions",
        "notes": " ".join(report["task"]["notes"]),
    }
    return page.render_table(["", ""], list(facts.items()))


def _published() -> str:
    rows = [[name, *(f"{value:.1f}" for value in row)] for name, row in _PUBLISHED.items()]
    return page.render_table(["mean of ratios, %", *_COLUMNS], rows) + page.render_text(
        "LLaVA-Med, Li et al. 2023: 193 questions, judge gpt-4-0314, which can no longer be asked. "
        "Scores of another judge or other questions cannot be compared with these."
    )


def _widest_gaps(
    questions: Sequence[ChatQuestion], texts: Sequence[str], lines: Sequence[Mapping[str, Any]]
) -> list[tuple[ChatQuestion, str, float]]:
    gaps: dict[str, list[float]] = {}
    for line in lines:
        if line["reference"] is not None:
            key = line["trial"]["question_id"]
            gaps.setdefault(key, []).append(line["reference"] - line["candidate"])
    means = {key: sum(found) / len(found) for key, found in gaps.items()}
    ranked = sorted(
        (
            (question, text, means[question.id])
            for question, text in zip(questions, texts, strict=True)
            if question.id in means
        ),
        key=lambda item: -item[2],
    )
    return ranked[:_NUM_CARDS]


def _words(question: ChatQuestion, text: str, gap: float) -> list[str]:
    return [
        question.text,
        f"answer: {text or '(empty)'}",
        f"reference: {question.reference}",
        f"graded {gap:.1f} below the reference",
    ]


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _grades(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} grades"


def _cost(usd: float | None) -> str:
    return "price unknown" if usd is None else f"${usd:.2f}"
