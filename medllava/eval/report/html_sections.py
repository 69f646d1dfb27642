"""Parts of `report.html` that not every report has: probes, contamination, published rows.

Values of `report.json` enter; (heading, HTML) pairs leave, none where there is nothing to show.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medllava import page
from medllava.data.benchmarks.task import load_task, task_names
from medllava.eval.score.intervals import FEW_IMAGES

Section = tuple[str, str]

_PUBLISHED_METRICS = {
    "open": "open_token_recall",
    "closed": "closed_accuracy",
    "all": "token_recall",
}
_PROBE_MEASURES = {
    "base_accuracy": "as asked, %",
    "accuracy": "altered, %",
    "change": "change",
    "all_right": "all right, %",
    "consistent": "consistent, %",
    "denied": "denial picked, %",
    "verified": "altered, polarity checked, %",
}
_SUBSET_METRICS = ("closed_accuracy", "open_token_recall", "exact_match", "token_recall")


def format_estimate(estimate: Mapping[str, Any] | None, *, is_share: bool = True) -> str:
    """Return "value [low, high]", shares in percent; a dash where there is none.

    A star marks what rests on fewer than 20 images.
    """
    if estimate is None or estimate["value"] is None:
        return "-"
    factor = 100 if is_share else 1
    mark = "*" if 0 < (estimate.get("num_images") or 0) < FEW_IMAGES else ""
    text = f"{factor * estimate['value']:.1f}{mark}"
    if estimate["low"] is None:
        return text
    return f"{text} [{factor * estimate['low']:.1f}, {factor * estimate['high']:.1f}]"


def estimate_cell(estimate: Mapping[str, Any] | None, *, is_share: bool = True) -> str:
    """Return the same for a table's cell, which may break before the interval but not inside."""
    return format_estimate(estimate, is_share=is_share).replace(", ", ",\u00a0")


def gain_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return real minus permuted as rows of a score table: the harder floor, then all images."""
    named = {
        "real minus permuted": report["visual_gain"],
        "real minus permuted over all": report["gain_over_all"],
    }
    return {name: gains for name, gains in named.items() if gains}


def probe_section(probes: Mapping[str, Any] | None) -> list[Section]:
    """Return what `probe_scores.score_probes` found."""
    if not probes:
        return []
    shown = [m for m in _PROBE_MEASURES if any(m in row for row in probes.values())]
    table = page.render_table(
        ["probe", "items", *(_PROBE_MEASURES[measure] for measure in shown)],
        [
            [name, row["num_questions"], *(estimate_cell(row.get(measure)) for measure in shown)]
            for name, row in probes.items()
        ],
    )
    note = page.render_text(
        "Each row asks the same closed items again: denied, in other words, with moved choices, "
        "or with a worse picture. All right: right as asked and as altered. Consistent: the two "
        "answers imply each other, right or wrong; a model that always says yes is never "
        "consistent under negation and always under rewording. Denial picked: the reply is a "
        "choice such as 'No edema'; polarity checked: such picks are put right by rule."
    )
    return [("Probes", table + note)]


def looking_section(found: Mapping[str, Any] | None) -> list[Section]:
    """Return what `looking.score_looking` found: does the answer depend on the picture?"""
    if not found or not found["scores"]:
        return []
    named = {
        "visual_reliance": "visual reliance (VRS): accuracy minus accuracy with another image",
        "image_sensitivity": "image sensitivity (IS): answers that change with the image",
        "visual_claims": "replies that reason: they claim to see something",
        "hallucinated_visual_reasoning": "hallucinated visual reasoning (HVRR): they claim so and "
        "answer the same whatever is shown",
        "hallucinated_claims": "the latter among those that claim",
    }
    table = page.render_table(
        ["", "%", "questions"],
        [
            [named[name], estimate_cell(estimate), estimate["num_questions"]]
            for name, estimate in found["scores"].items()
        ],
    )
    shown = " and ".join(found["compared_with"])
    note = f"Compared with {shown}, {found['orders']} orders. "
    if not found["num_reasoning"]:
        note += "No reply reasons, so nothing can be said about its reasoning."
    return [("Does the answer depend on the image?", table + page.render_text(note))]


def verified_section(found: Mapping[str, Any] | None) -> list[Section]:
    """Return what a verifier changed."""
    if not found:
        return []
    rows = [[name.replace("_", " "), count] for name, count in found.items() if name != "rules"]
    note = page.render_text(
        "A rule changed replies after they were made and looked at no image; the condition "
        "'verified' has the scores. They are not the model's own."
    )
    return [
        (f"Verified: {', '.join(found['rules'])}", page.render_table(["", "replies"], rows) + note)
    ]


def judge_section(found: Mapping[str, Any] | None, real: Mapping[str, Any]) -> list[Section]:
    """Return what a judge of open answers said, and how far it can be trusted."""
    if not found or "verdicts" not in found:
        return []
    scores = page.render_table(
        ["score", "%"],
        [
            [name.replace("_", " "), estimate_cell(estimate)]
            for name, estimate in real.items()
            if name.startswith("judged_")
        ],
    )
    agreement, labels = found["agreement_with_strict"], found["labels"]
    rows: list[list[Any]] = [
        [f"{name} verdicts", count] for name, count in found["verdicts"].items()
    ]
    if agreement["questions"]:
        rows.append(["agrees with the strict rule", f"{100 * agreement['share']:.1f} %"])
        rows.append(["right for the judge alone", agreement["judge_only"]])
        rows.append(["right for the rule alone", agreement["strict_only"]])
    if labels is not None:
        text = (
            f"{100 * labels['share']:.1f} % [{100 * labels['low']:.1f}, {100 * labels['high']:.1f}]"
        )
        rows.append([f"agrees with people on {labels['answers']} answers", text])
    rows += [[name, found[name]] for name in ("missing", "unreadable") if found[name]]
    note = page.render_text(
        f"Judge: {found['model']}. Judged accuracy takes the judge for open answers and the rule "
        "for closed ones; partial verdicts count half. Answers without a verdict count in no score."
    )
    return [("Judged answers", scores + page.render_table(["", ""], rows) + note)]


def contamination_section(found: Mapping[str, Any] | None) -> list[Section]:
    """Return what `contamination.find_contamination` found, and what it does to the scores."""
    if not found:
        return []
    unread = found["num_unread"]
    flags = page.render_table(
        ["flag", "items"],
        [
            *found["flags"].items(),
            *([["images not read, so not compared", unread]] if unread else []),
        ],
    )
    metrics = [
        m for m in _SUBSET_METRICS if any(m in s["scores"] for s in found["scores"].values())
    ]
    scores = page.render_table(
        ["questions", "number", *(f"{m.replace('_', ' ')}, %" for m in metrics)],
        [
            [name, s["num_questions"], *(estimate_cell(s["scores"].get(m)) for m in metrics)]
            for name, s in found["scores"].items()
        ],
    )
    read = "; ".join(
        f"{source['path']}: {source['records']:,} records, {source['images']:,} images"
        + (f", {n:,} not readable" if (n := source["images_not_readable"]) else "")
        for source in found["train_data"]
    )
    text = page.render_text(
        f"Compared with {read}. Flags are reasons to look, not verdicts; contamination.jsonl "
        "names each item and the training record that raised the flag."
    )
    return [("Shared with the training data", flags + scores + text)]


def llava_med_section(found: Mapping[str, Any] | None) -> list[Section]:
    """Return what LLaVA-Med's scripts print for these answers, script by script."""
    if not found:
        return []
    rows = [
        [
            *(script, name.replace("_", " ")),
            *(estimate_cell(estimate, is_share=False), estimate["num_questions"]),
        ]
        for script, estimates in found["scripts"].items()
        for name, estimate in estimates.items()
    ]
    table = page.render_table(["script", "its name for it", "%", "questions counted"], rows)
    note = page.render_text(
        "Computed as LLaVA-Med's released scripts compute them, quirks included: 'no' is found "
        "inside 'normal', repeating a word raises recall, exact match is a precision. For "
        "comparing with its published rows, where open is recall and closed is the closed "
        "accuracy of run_eval_batch."
    )
    return [("LLaVA-Med's own numbers", table + note)]


def published_section(task: str, report: Mapping[str, Any]) -> list[Section]:
    """Return the published rows of a shipped task, with whose rules scored them."""
    published = load_task(task).published if task in task_names() else ()
    if not published:
        return []
    columns = sorted({column for table in published for column in table.columns})
    rows = [[*_own_row(report, name), *cells] for name, cells in _own_cells(report, columns)]
    for table in published:
        for name, *values in table.rows:
            cells = dict(zip(table.columns, values, strict=True))
            rows.append(
                [name, table.protocol, table.setting]
                + [f"{cells[c]:.1f}" if c in cells else "-" for c in columns]
            )
    table_html = page.render_table(
        ["system", "protocol", "setting", *(f"{column}, %" for column in columns)], rows
    )
    sources = sorted({table.source for table in published})
    note = page.render_text(
        "Only rows of one protocol can be compared, and most differences between published rows "
        "lie inside the intervals of a test of this size, which they do not give. "
        f"Sources: {'; '.join(sources)}."
    )
    return [("Published rows", table_html + note)]


def _own_row(report: Mapping[str, Any], protocol: str) -> list[str]:
    return [f"this report: {report['model']['source']}", protocol, "as measured"]


def _own_cells(
    report: Mapping[str, Any], columns: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield our scores under each protocol that the report has, one cell per column."""
    real = report["conditions"]["real"]
    yield "strict", [estimate_cell(real.get(_PUBLISHED_METRICS[c])) for c in columns]
    if report["llava_med"]:
        paper = report["llava_med"]["paper"]  # in percent already
        yield "llava-med", [estimate_cell(paper.get(c), is_share=False) for c in columns]
