"""The step: from a selection of articles to the figures folder.

    OUT/figures.parquet     one row per figure
    OUT/images/ab/...       the pictures, re-encoded, under names of ours
    OUT/rejected.parquet    everything left out, with stage and reason
    OUT/summary.json        counts, funnel, snapshot, settings
    OUT/ATTRIBUTION.md      who made what, under which licence
    OUT/report.html         the contact sheet
    OUT/webdataset/*.tar    the same for training that streams, if asked for
    OUT/.fetch/             listing, outcomes and kept objects: what a later run continues from

Whoever finishes the last shard writes the files.
"""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from medllava.errors import SetupError
from medllava.layout import FIGURES_FILE, PAGE_FILE, SUMMARY_FILE
from medllava.pmc.config import FetchConfig
from medllava.pmc.executors import run_executor
from medllava.pmc.hits import write_hit_report
from medllava.pmc.manifest import STAGES, Totals, write_manifest
from medllava.pmc.modality import ImageClassifier
from medllava.pmc.plan import plan_fetch
from medllava.pmc.report import write_report
from medllava.pmc.selection import (
    count_refreshed,
    describe_settings,
    freeze_listing,
    listing_path,
    shard_dir,
    shard_marker,
    work_dir,
)
from medllava.pmc.shards import run_shard
from medllava.pmc.state import Listing, Outcomes
from medllava.pmc.transport import ByteBudget
from medllava.pmc.webdataset import write_webdataset
from medllava.progress import Progress, SilentProgress
from medllava.records import StepSummary
from medllava.store import exclusive, write_json

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


def fetch_figures(
    config: FetchConfig,
    *,
    progress: Progress | None = None,
    classifier: ImageClassifier | None = None,
) -> StepSummary:
    """Fetch what the configuration selects, or go on with it, and write the figures folder.

    Args:
        config: selection, filters, limits.
        progress: told about phases.
        classifier: names the modality of an image; goes before `config.classifier`.

    Returns:
        Counts and the funnel; incomplete if articles are left for another run.

    Raises:
        DataError: the input or the folder does not fit the settings.
        RemoteError: a service does not answer at all.
        SetupError: the disk is full, or an extra is missing.
    """
    progress = progress or SilentProgress()
    if config.dry_run:
        return plan_fetch(config, progress=progress)
    with _disk_full_is_an_error(config.output_dir):
        freeze_listing(config, progress=progress)
        if config.executor is not None:
            submitted = run_executor(config)
            return submitted or finish_fetch(config, progress=progress)
        budget = ByteBudget(config.max_bytes)
        indices = range(config.num_shards) if config.shard_index is None else [config.shard_index]
        left = sum(
            run_shard(config, index, progress=progress, classifier=classifier, budget=budget)
            for index in indices
        )
        if left:
            return StepSummary(step="fetch-pmc", complete=False, counts={"articles_left": left})
        return finish_fetch(config, progress=progress)


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
    with (
        exclusive(work_dir(config)),
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
    shown = ("snapshot", "funnel", "modalities", "licenses", "splits", "reasons", "refresh")
    return StepSummary(
        step="fetch-pmc",
        counts={name: count for name, count in summary["counts"].items() if count},
        details={name: summary[name] for name in (*shown, "image_list") if name in summary},
        artifacts=artifacts,
        hint=f"medllava generate-instructions {folder} --stage align -o {folder.parent / 'align'}",
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
        "counts": dict(totals.counts),
        "refresh": count_refreshed(config),
        "funnel": _funnel(totals),
        "reasons": dict(totals.reasons.most_common()),
        "modalities": dict(totals.modalities.most_common()),
        "licenses": dict(totals.licenses.most_common()),
        "splits": dict(totals.splits.most_common()),
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


@contextmanager
def _disk_full_is_an_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise SetupError(
                f"the disk is full ({error.strerror}): {folder}."
                " Free space and run again; it goes on."
            ) from None
        raise
