"""The card of a model: hub metadata and a README in which every number has a source.

`ModelFacts` and the license report enter, Markdown leaves. The card holds no date and no machine,
so the same run gives the same bytes and pushing again changes nothing. What the run folders do not
say is printed as unknown.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from medllava.hub.facts import ROLES, Data, ModelFacts, StageRun
from medllava.hub.license_report import LicenseReport, Risk
from medllava.hub.licenses import parse_license
from medllava.hub.scores import REAL, Evaluation, Score
from medllava.records import Source

CARD_MARK = "<!-- Written by medllava push; edits are replaced by the next push. -->"
"""Tells a folder that push made from one that it must not touch."""

NOTICE = (
    "**For research only. This is not a medical device: do not use it for diagnosis, treatment or "
    "any other clinical purpose.** Answers can be fluent and wrong."
)

_DESCRIPTIVE = {"num_words", "repetition", "unparseable"}
"""They describe the answers and are no score: in the card's table, not in the hub's metadata."""

_USE = """```python
from transformers import pipeline

ask = pipeline("image-text-to-text", model="{repo_id}")
messages = [
    {{
        "role": "user",
        "content": [
            {{"type": "image", "path": "image.png"}},
            {{"type": "text", "text": "What kind of image is this?"}},
        ],
    }}
]
print(ask(text=messages, max_new_tokens=64, do_sample=False, return_full_text=False))
```

It is a plain `LlavaForConditionalGeneration`: no remote code, safetensors only. `medllava chat
image.png --ckpt {repo_id}` and `transformers serve` load the same folder."""


def render_model_card(
    facts: ModelFacts,
    licenses: LicenseReport,
    *,
    repo_id: str,
    weights: str,
    accepted: Sequence[Risk] = (),
) -> str:
    """Return README.md with its metadata block.

    Args:
        facts: what the checkpoint folder knows.
        licenses: its licenses.
        repo_id: where it goes, for the commands.
        weights: their hash.
        accepted: risks that the user took on by name; the card says so.
    """
    sections = [
        ("Use", _USE.format(repo_id=repo_id)),
        ("Parts", f"{_parts_section(facts)}\n\nSHA-256 of the weights: `{weights}`."),
        ("Training", _training_section(facts)),
        ("Data", _data_section(facts.stages)),
        ("Evaluation", _evaluation_section(facts.evaluations, repo_id)),
        ("Cost", _cost_section(facts.stages)),
        ("License", render_license_report(licenses, accepted)),
        ("Limits", _limits_section(facts)),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    title = repo_id.rsplit("/", 1)[-1]
    lead = str(facts.recipe.get("description") or "A biomedical vision-language assistant.")
    head = f"{_metadata(facts, licenses, repo_id)}\n{CARD_MARK}\n\n# {title}"
    return f"{head}\n\n{lead}\n\n{NOTICE}\n\n{body}\n"


def render_license_report(licenses: LicenseReport, accepted: Sequence[Risk] = ()) -> str:
    """Return the license report as a Markdown table, its conclusion and the accepted risks."""
    rows = [(row.kind, row.what, row.terms.name, row.note) for row in licenses.rows]
    lines = [
        f"Published under **{licenses.published_name}**, because {licenses.reason}.",
        "",
        render_table(("", "what", "license", "note"), rows),
    ]
    lines += [f"\nRisk accepted by the publisher, `{r.name}`: {r.reason}." for r in accepted]
    return "\n".join(lines)


def render_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; cell text cannot break it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def license_metadata(licenses: LicenseReport) -> dict[str, Any]:
    """Return the hub's license keys for the license report's conclusion."""
    terms = licenses.terms
    if terms.hub_tag:
        return {"license": terms.hub_tag}
    return {"license": "other", "license_name": terms.slug, "license_link": terms.url or None}


def _metadata(facts: ModelFacts, licenses: LicenseReport, repo_id: str) -> str:
    starts = [facts.start] if facts.start and facts.start.count("/") == 1 else []
    bases = starts + [part.hub_id for part in facts.parts if part.hub_id]
    names = [source.name for stage in facts.stages for source in stage.data.sources]
    datasets = list(dict.fromkeys(name for name in names if name.count("/") == 1))
    results = [result for e in facts.evaluations if e.weights_sha256 for result in _results(e)]
    data = ModelCardData(
        base_model=bases or None,
        datasets=datasets or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["llava", "medical", "biomedical", "visual-question-answering", "medllava"],
        eval_results=results or None,
        model_name=repo_id.rsplit("/", 1)[-1] if results else None,
        **license_metadata(licenses),
    )
    values = data.to_yaml(original_order=["license", "library_name", "pipeline_tag", "tags"])
    return f"---\n{values}\n---"


def _results(evaluation: Evaluation) -> Iterator[EvalResult]:
    seen = set()
    for score in evaluation.scores:
        # Where all questions are open, say, several metrics are one number: it is told once.
        same = (score.value, score.low, score.high, score.count)
        if score.condition != REAL or score.metric in _DESCRIPTIVE or same in seen:
            continue
        seen.add(same)
        protocol = {"protocol": evaluation.protocol} if evaluation.protocol else {}
        interval = {} if score.low is None else {"interval_95": [score.low, score.high]}
        yield EvalResult(
            task_type="image-text-to-text",
            dataset_type=evaluation.task,
            dataset_name=evaluation.task,
            dataset_split=evaluation.split,
            dataset_args={"sha256": evaluation.data_sha256} if evaluation.data_sha256 else None,
            metric_type=score.metric,
            metric_name=score.metric.replace("_", " "),
            metric_value=score.value,
            metric_args={**protocol, **interval} or None,
        )


def _parts_section(facts: ModelFacts) -> str:
    rows: list[tuple[str, ...]] = []
    for part in facts.parts:
        is_random = part.source == "random"
        name = "none needed" if is_random else parse_license(part.license).name
        rows.append((ROLES[part.role], part.source, name, ""))
        rows += [("- from", *source_cells(source)) for source in part.sources]
    text = render_table(("part", "source", "license", "note"), rows)
    return f"{text}\n\nTraining started from `{facts.start}`." if facts.start else text


def source_cells(source: Source) -> tuple[str, str, str]:
    """Return a source as table cells: title, license, note with the start of its hash."""
    digest = f"sha256 {source.sha256[:12]}" if source.sha256 else ""
    note = ", ".join(filter(None, (source.note, digest)))
    return source.title, parse_license(source.license).name, note


def _training_section(facts: ModelFacts) -> str:
    rows = []
    for stage in facts.stages:
        settings = facts.recipe.get("stage", {}).get(stage.stage, {})
        rows.append(
            (
                stage.stage,
                stage.recipe or "unknown",
                settings.get("learning_rate", "unknown"),
                settings.get("global_batch_size", "unknown"),
                _known(stage.steps),
                _known(stage.tokens),
                _known(stage.seed),
                (stage.git_commit or "unknown")[:12],
            )
        )
    headers = ("stage", "recipe", "learning rate", "batch", "steps", "tokens", "seed", "commit")
    recipe = json.dumps(facts.recipe, indent=2, ensure_ascii=False)
    return (
        f"{render_table(headers, rows)}\n\n{_commands(facts.stages)}\n\n"
        "The settings are those of the resolved recipe, also in `recipe.json`; the full record of "
        "the run is `run.json`.\n\n<details><summary>Resolved recipe</summary>\n\n"
        f"```json\n{recipe}\n```\n\n</details>"
    )


def _commands(stages: Sequence[StageRun]) -> str:
    """Return the commands that trained, as a block of shell lines."""
    lines = [stage.command or f"# stage {stage.stage}: command unknown" for stage in stages]
    lines = [" ".join(line.replace("`", "'").split()) for line in lines]
    return "```sh\n" + "\n".join(lines) + "\n```"


def _data_section(stages: Sequence[StageRun]) -> str:
    parts = []
    for stage in stages:
        data = stage.data
        dropped = "" if data.dropped is None else f", {data.dropped:,} dropped"
        name = f" from {data.name}" if data.name else ""
        parts.append(f"**Stage {stage.stage}:** {_known(data.used)} records used{dropped}{name}.")
        rows = [(title, _counts(counts)) for title, counts in _breakdowns(data)]
        parts.append(render_table(("per", "records"), rows))
    sources = dict.fromkeys(source for stage in stages for source in stage.data.sources)
    if sources:
        parts.append("**Where the images came from:**")
        parts.append(render_table(("source", "license", "note"), map(source_cells, sources)))
    else:
        parts.append("Where the images came from: unknown.")
    return "\n\n".join(parts)


def _breakdowns(data: Data) -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "license", data.licenses
    yield "modality", data.modalities
    yield "teacher", data.teachers


def _evaluation_section(evaluations: Sequence[Evaluation], repo_id: str) -> str:
    if not evaluations:
        return "Not evaluated: no report was at hand."
    parts = ["Scores with 95 % intervals over images; the floors stand beside them."]
    for evaluation in evaluations:
        told = [
            f"{_known(evaluation.num_questions)} questions about "
            f"{_known(evaluation.num_images)} images",
            f"split {evaluation.split or 'unknown'}",
            f"protocol {evaluation.protocol or 'unknown'}",
        ]
        if evaluation.data_file:
            told.append(f"`{evaluation.data_file}`, sha256 `{evaluation.data_sha256}`")
        is_verified = evaluation.weights_sha256 is not None
        told.append("made with these weights" if is_verified else "weights not recorded")
        parts.append(f"**{evaluation.task}**: {'; '.join(told)}.")
        floors = tuple(dict.fromkeys(s.condition for s in evaluation.scores if s.condition != REAL))
        headers = ("metric", "score", *floors)
        parts.append(render_table(headers, _score_rows(evaluation.scores, floors)))
        parts.append(f"```sh\n{evaluation.command(repo_id)}\n```")
    return "\n\n".join(parts)


def _score_rows(scores: Sequence[Score], floors: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield a row per number; metrics that agree in every column share one."""
    found = {(score.metric, score.condition): _estimate(score) for score in scores}
    names: dict[tuple[str, ...], list[str]] = {}
    for score in scores:
        if score.condition == REAL:
            beside = (found.get((score.metric, floor), "") for floor in floors)
            names.setdefault((_estimate(score), *beside), []).append(score.metric)
    for cells, metrics in names.items():
        yield ", ".join(metrics).replace("_", " "), *cells


def _estimate(score: Score) -> str:
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.value:.3f}{interval}"


def _cost_section(stages: Sequence[StageRun]) -> str:
    rows = []
    for stage in stages:
        grams = stage.carbon_grams
        carbon = "not measured" if grams is None else f"{grams:,.0f} g CO2eq"
        rows.append((stage.stage, stage.hardware or "unknown", _time(stage.seconds), carbon))
    packages = {k: v for stage in stages for k, v in stage.packages.items()}
    told = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    table = render_table(("stage", "hardware", "time", "carbon"), rows)
    return f"{table}\n\nPackages: {told or 'unknown'}."


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"


def _limits_section(facts: ModelFacts) -> str:
    lines = [
        "- It repeats the gaps and errors of the data named above, and nothing is known about "
        "images unlike those.",
        "- It invents findings. Where a score above is close to its permuted or blank floor, the "
        "model answers from the words of the question and not from the image.",
    ]
    if not facts.evaluations:
        lines.append("- It was not evaluated: nothing is known about how often it is right.")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name or 'unknown'} {count:,}" for name, count in ordered) or "unknown"


def _known(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "unknown" if value is None else str(value)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
