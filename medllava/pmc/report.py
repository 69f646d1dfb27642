"""The end of a fetch: the figures folder's files, its summary, and the contact sheet."""

import hashlib
import heapq
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medllava.layout import FIGURES_FILE, PAGE_FILE, REJECTED_FIGURES_FILE, SUMMARY_FILE
from medllava.page import render_bars, render_cards, render_page, render_table
from medllava.pmc.config import FetchConfig
from medllava.pmc.llava_urls import write_hit_report
from medllava.pmc.manifest import STAGES, Totals, write_manifest
from medllava.pmc.selection import (
    count_refreshed,
    describe_settings,
    listing_path,
    shard_dir,
    shard_marker,
    sweep_temporary,
    work_dir,
)
from medllava.pmc.state import Listing, Outcomes
from medllava.pmc.webdataset import write_webdataset
from medllava.progress import Progress
from medllava.records import StepSummary
from medllava.store import waiting_lock, write_json, write_text

NUM_CARDS = 48
_COUNTS = ("articles", "figures", "mentions", "kept", "kept_images", "kept_mentions", "rejected")
"""Shown also where they are zero."""


def finish_fetch(config: FetchConfig, *, progress: Progress) -> StepSummary:
    """Write the figures folder if every shard is complete; return the summary."""
    folder = config.output_dir
    open_shards = [i for i in range(config.num_shards) if not shard_marker(config, i).exists()]
    if open_shards:
        return StepSummary(
            step="fetch-pmc",
            complete=config.shard_index is not None and config.shard_index not in open_shards,
            counts={"shards": config.num_shards, "shards_left": len(open_shards)},
            artifacts={"figures": folder},
            hint=f"the same with --shard-index {open_shards[0]}; the last shard writes the files.",
        )
    progress.start("write the figures folder")
    sweep_temporary(folder)
    with (
        waiting_lock(work_dir(config) / "finish.lock"),  # two jobs may finish last
        closing(Listing(listing_path(config))) as listing,
        ExitStack() as stack,
    ):
        shards = [
            stack.enter_context(Outcomes(shard_dir(config, i) / "outcomes.sqlite"))
            for i in range(config.num_shards)
        ]
        facts = listing.facts
        totals = write_manifest(config, shards, listing.iter_misses(), facts=facts)
        summary = _summarize(config, totals, facts)
        artifacts = {"figures": folder / FIGURES_FILE, "report": folder / PAGE_FILE}
        if config.image_urls is not None:
            artifacts["image_list"] = folder / "image-list.jsonl"
            summary["image_list"] = write_hit_report(config, shards, artifacts["image_list"])
        write_json(folder / SUMMARY_FILE, summary)
        write_report(folder, summary)
        if config.webdataset:
            artifacts["webdataset"] = write_webdataset(folder)
    nothing = "" if totals.counts["kept"] else explain_nothing(folder, totals)
    align = folder.parent / "align"
    shown = ("snapshot", "funnel", "modalities", "licenses", "splits", "reasons", "refresh")
    return StepSummary(
        step="fetch-pmc",
        counts=summary["counts"],
        details={name: summary[name] for name in (*shown, "image_list") if name in summary}
        | ({"nothing_kept": nothing} if nothing else {}),
        artifacts=artifacts,
        hint=None
        if nothing
        else f"medllava generate-instructions {folder} --stage align -o {align}",
    )


def _summarize(config: FetchConfig, totals: Totals, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the summary file's content."""
    return {
        "snapshot": facts["snapshot"],
        "source": facts,
        "settings": describe_settings(config),
        "splitting": {
            "by": "article",
            "validation_fraction": config.validation_fraction,
            "test_fraction": config.test_fraction,
            "seed": config.seed,
            "split_file": config.split_file,
            "named_articles": totals.counts.pop("named_articles", 0),
        },
        "counts": {**dict.fromkeys(_COUNTS, 0), **totals.counts},
        "refresh": count_refreshed(config),
        "funnel": _funnel(totals),
        "reasons": dict(totals.reasons.most_common()),
        "modalities": dict(totals.modalities.most_common()),
        "licenses": dict(totals.licenses.most_common()),
        "splits": dict(totals.splits.most_common()),
        "languages": dict(totals.languages.most_common()),
        "contexts": dict(totals.contexts.most_common()),
    }


def _funnel(totals: Totals) -> list[dict[str, Any]]:
    """Return what went into each stage and came out: articles first, then figures."""
    rows = []
    count = totals.counts["articles"]
    for stage in STAGES:
        lost = totals.rejected_at[stage]
        rows.append({"stage": stage, "in": count, "rejected": lost, "out": count - lost})
        count = totals.counts["figures"] if stage == "article" else count - lost
    return rows


def explain_nothing(folder: Path, totals: Totals) -> str:
    """Return why no figure was kept, and what helps against the reason met most."""
    if not totals.reasons:
        return "No figure was kept: no article with a figure was found. Check what is selected."
    reason, count = totals.reasons.most_common(1)[0]
    remedy = REMEDIES.get(reason, f"See the details in {folder / REJECTED_FIGURES_FILE}.")
    return f"No figure was kept; most was left out as {reason!r} ({count:,}). {remedy}"


REMEDIES = {
    "license": "Allow other licenses with --license CODE, or --license any.",
    "license-conflict": "The sources state different licenses; --license any takes them all.",
    "third-party": "--set filter.keep_flagged=true keeps them, flagged.",
    "retracted": "--set filter.keep_retracted=true keeps them.",
    "notice": "--set filter.keep_retracted=true keeps notices too.",
    "supplement": "--set filter.keep_supplements=true keeps them.",
    "image-missing": "Put the image files beside the XML, or list the words alone with"
    " --set filter.captions_only=true.",
    "image-small": "Lower --set filter.min_pixels=N.",
    "caption-short": "Lower --set filter.min_caption_words=N.",
    "caption-long": "Raise --set filter.max_caption_words=N.",
    "modality": "Name other kinds with --modality, or none.",
    "language": "Name other languages with --language, or none.",
    "panel-small": "Lower --set filter.min_pixels=N.",
    "panel-modality": "Name other kinds with --modality, or none.",
    "several-panels": "Take --panels keep or split.",
    "no-graphic": "The figures name no image; --set filter.captions_only=true lists their words.",
    "no-article": "The files hold no JATS article; give XML of PubMed Central or a mirror.",
    "xml-malformed": "The files are no well-formed XML; give XML of PubMed Central or a mirror.",
    "metadata-malformed": "The metadata describe something else; get the mirror again.",
    "not-in-bucket": "Check the ids; the archive holds open-access articles only.",
    "bad-id": "Give PMCIDs, PMIDs or DOIs.",
    "bad-key": "Name the metadata of a mirror PMCID.version.json.",
    "bad-name": "Give the files names in UTF-8.",
    "excluded": "The split file excludes them; check --split-file.",
    "object-missing": "Check --base-url, or take a new listing with --refresh.",
}
"""What helps against the reason that most is left out for."""


def write_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `report.html` from the manifest and the summary; return its path."""
    cards = [_card(row) for row in sample_figures(folder / FIGURES_FILE, NUM_CARDS)]
    sections = [
        (
            "Funnel",
            render_table(
                ["stage", "in", "left out", "kept"],
                [(s["stage"], s["in"], s["rejected"], s["out"]) for s in summary["funnel"]],
            ),
        ),
        ("Modalities", render_bars(summary["modalities"])),
        ("Languages of captions", render_bars(summary["languages"])),
        ("Licenses", render_bars(summary["licenses"])),
        ("Splits by article", render_bars(summary["splits"])),
        ("Why things were left out", render_table(["reason", "count"], summary["reasons"].items())),
        ("A sample of figures", render_cards(cards)),
    ]
    path = folder / PAGE_FILE
    subtitle = f"{summary['counts'].get('kept', 0):,} figures, snapshot {summary['snapshot']}"
    write_text(
        path,
        render_page(
            "Figures of PubMed Central",
            subtitle=subtitle,
            sections=sections,
        ),
    )
    return path


def sample_figures(path: Path, number: int) -> list[dict[str, Any]]:
    """Return figures drawn by a hash of their id: the same ones every time, from everywhere."""
    best: list[tuple[str, str, dict[str, Any]]] = []
    columns = [
        "figure_id",
        "label",
        "caption",
        "images",
        "modality",
        "license",
        "split",
        "citation",
    ]
    for batch in pq.ParquetFile(path).iter_batches(batch_size=2000, columns=columns):
        rows = [(_rank(row["figure_id"]), row["figure_id"], row) for row in batch.to_pylist()]
        best = heapq.nsmallest(number, [*best, *rows])
    return [row for _, _, row in best]


def _rank(figure_id: str) -> str:
    return hashlib.blake2b(figure_id.encode(), digest_size=8).hexdigest()


def _card(row: dict[str, Any]) -> tuple[str | None, list[str]]:
    caption = row["caption"] if len(row["caption"]) <= 400 else row["caption"][:400] + "..."
    facts = f"{row['modality']} - {row['license'] or 'no license'} - {row['split']}"
    return (row["images"][0] if row["images"] else None), [
        f"{row['figure_id']} {row['label']}",
        caption,
        facts,
    ]
