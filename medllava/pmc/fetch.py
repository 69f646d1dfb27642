"""The step: from a selection of articles to the figures folder.

    OUT/figures.parquet     one row per figure
    OUT/images/ab/...       the pictures, re-encoded, under names of ours
    OUT/rejected.parquet    everything left out, with stage and reason
    OUT/summary.json        counts, funnel, snapshot, settings
    OUT/ATTRIBUTION.md      who made what, under which licence
    OUT/report.html         the contact sheet
    OUT/.fetch/             listing, outcomes and kept objects: what a later run continues from

A shard is a function of the listing, the settings, `num_shards` and its index; it ends in a marker.
Whoever finishes the last one writes the files.
"""

import errno
import fcntl
import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from medllava.errors import DataError, RemoteError, SetupError
from medllava.pmc.archive import Source
from medllava.pmc.article import ArticleReader
from medllava.pmc.config import FetchConfig
from medllava.pmc.manifest import STAGES, Totals, write_manifest
from medllava.pmc.modality import ImageClassifier
from medllava.pmc.report import write_report
from medllava.pmc.sources import open_source, select_articles
from medllava.pmc.state import Item, Listing, Outcome, Outcomes, write_listing
from medllava.progress import Progress, SilentProgress
from medllava.records import StepSummary
from medllava.store import exclusive, read_json, write_json

_LOGGER = logging.getLogger(__name__)
_FREE_SETTINGS = frozenset(
    [
        "output_dir",
        "workers",
        "max_bytes",
        "refresh",
        "dry_run",
        "executor",
        "executor_options",
        "shard_index",
        "email",
        "webdataset",
        "deduplicate",
        "validation_fraction",
        "test_fraction",
        "split_file",
    ]
)
"""May differ between runs into one folder: limits, and what the final passes decide anew."""
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_FAILURES = 20
"""Items in a row that a service did not answer, after which the run stops asking."""


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
        Counts and the funnel; incomplete if articles are left for another run or other shards.

    Raises:
        DataError: the input or the folder does not fit the settings.
        RemoteError: a service does not answer at all.
        SetupError: the disk is full, or an extra is missing.
    """
    progress = progress or SilentProgress()
    with _disk_full_is_an_error(config.output_dir):
        listing_path = freeze_listing(config, progress=progress)
        left = 0
        indices = range(config.num_shards) if config.shard_index is None else [config.shard_index]
        for index in indices:
            left += run_shard(config, listing_path, index, progress=progress, classifier=classifier)
        return finish_fetch(config, left=left, progress=progress)


def work_dir(config: FetchConfig) -> Path:
    """Return the folder of what later runs continue from."""
    return config.output_dir / ".fetch"


def freeze_listing(config: FetchConfig, *, progress: Progress) -> Path:
    """Select the articles once and for all shards; return the listing's path.

    Raises:
        DataError: the folder holds a selection made with other settings.
    """
    folder = work_dir(config)
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(config)
    with (folder / "listing.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # shards start together; one lists, the others wait
        path = folder / "listing.sqlite"
        known = folder / "settings.json"
        if known.exists():
            _check_settings(read_json(known), settings, config.output_dir)
        else:
            write_json(known, settings)
        if not path.exists():
            progress.start("select articles")
            selection = select_articles(config, progress=progress)
            write_listing(
                path,
                selection.items,
                facts=selection.facts,
                latest=config.versions == "latest",
                limit=config.limit,
            )
    return path


def run_shard(
    config: FetchConfig,
    listing_path: Path,
    index: int,
    *,
    progress: Progress,
    classifier: ImageClassifier | None = None,
) -> int:
    """Do what is left of one shard; return how many items stay open."""
    folder = shard_dir(config, index)
    marker = folder / "complete.json"
    if marker.exists():
        return 0
    with exclusive(folder), Outcomes(folder / "outcomes.sqlite") as outcomes:
        listing = Listing(listing_path)
        source = open_source(config, shard_dir=folder)
        reader = ArticleReader(
            config,
            snapshot=str(listing.facts["snapshot"]),
            classifier=classifier or _load_classifier(config.classifier),
        )
        items = listing.iter_items(num_shards=config.num_shards, shard_index=index)
        runner = _ShardRunner(reader=reader, source=source, outcomes=outcomes, progress=progress)
        progress.start(
            "read articles" if config.num_shards == 1 else f"read articles of shard {index}",
            total=len(listing) if config.num_shards == 1 else None,
        )
        left = runner.run(items, workers=config.workers)
        listing.close()
        if not left:
            write_json(marker, {"items": len(outcomes)})
    return left


def finish_fetch(config: FetchConfig, *, left: int, progress: Progress) -> StepSummary:
    """Write the figures folder if every shard is complete; return the summary."""
    folder = config.output_dir
    missing = [
        i for i in range(config.num_shards) if not (shard_dir(config, i) / "complete.json").exists()
    ]
    if missing and (left or config.shard_index is None):
        return StepSummary(
            step="fetch-pmc",
            complete=False,
            counts={"left": left},
            details={"shards_left": missing},
        )
    if missing:
        return StepSummary(
            step="fetch-pmc",
            counts={"shards": config.num_shards, "shards_left": len(missing)},
            artifacts={"shard": shard_dir(config, config.shard_index or 0)},
            hint="the other shards; the last one writes the figures.",
        )
    progress.start("write the manifest")
    listing = Listing(work_dir(config) / "listing.sqlite")
    with exclusive(work_dir(config)), ExitStack() as stack:
        shards = [
            stack.enter_context(Outcomes(shard_dir(config, i) / "outcomes.sqlite"))
            for i in range(config.num_shards)
        ]
        totals = write_manifest(config, shards)
        summary = _summarize(config, totals, listing.facts)
        write_json(folder / "summary.json", summary)
        report = write_report(folder, summary)
    listing.close()
    return StepSummary(
        step="fetch-pmc",
        counts={k: v for k, v in summary["counts"].items() if v},
        details={
            k: summary[k] for k in ("snapshot", "modalities", "licenses", "splits", "reasons")
        },
        artifacts={"figures": folder / "figures.parquet", "report": report},
        hint=f"medllava generate-instructions {folder} --stage align -o {folder.parent / 'align'}",
    )


def shard_dir(config: FetchConfig, index: int) -> Path:
    """Return the folder of one shard."""
    return work_dir(config) / "shards" / f"{index:05d}-of-{config.num_shards:05d}"


class _ShardRunner:
    """Keeps the workers busy and commits what they return."""

    def __init__(
        self,
        *,
        reader: ArticleReader,
        source: Source,
        outcomes: Outcomes,
        progress: Progress,
    ) -> None:
        self._reader, self._source = reader, source
        self._outcomes, self._progress = outcomes, progress
        self._left = 0
        self._failures = 0

    def run(self, items: Iterator[Item], *, workers: int) -> int:
        """Do every item that is not done; return how many failed for now."""
        running: dict[Future[list[Outcome]], Item] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
            try:
                for item in items:
                    if item.name in self._outcomes:
                        self._progress.advance()
                        continue
                    running[pool.submit(self._read, item)] = item
                    if len(running) >= 2 * workers:
                        self._collect(running)
                while running:
                    self._collect(running)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return self._left

    def _read(self, item: Item) -> list[Outcome]:
        return self._reader.read(item, self._source.iter_articles(item))

    def _collect(self, running: dict[Future[list[Outcome]], Item]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            item = running.pop(future)
            self._progress.advance()
            try:
                outcomes = future.result()
            except RemoteError as error:
                self._left += 1
                self._failures += 1
                _LOGGER.warning("%s is left for another run: %s", item.name, error)
                if self._failures >= _MAX_FAILURES:
                    raise
                continue
            self._failures = 0
            self._outcomes.add(item, outcomes)
            self._source.release(item)


def _settings(config: FetchConfig) -> dict[str, Any]:
    """Return the settings that decide what is read, as JSON values."""
    values: dict[str, Any] = {}
    for field in fields(config):
        if field.name not in _FREE_SETTINGS:
            value = getattr(config, field.name)
            if isinstance(value, tuple):
                value = [str(v.resolve()) if isinstance(v, Path) else str(v) for v in value]
            values[field.name] = str(value) if isinstance(value, Path) else value
    return values


def _check_settings(known: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    for name, value in wanted.items():
        if known.get(name) != value:
            raise DataError(
                f"this folder was begun with {name} = {known.get(name)!r}, not {value!r}: {folder}."
                " Name another folder with -o, or repeat the first settings."
            )


def _load_classifier(name: str) -> ImageClassifier | None:
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        loaded: ImageClassifier = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SetupError(
            f"image classifier cannot be loaded ({error}): {name!r}. Give MODULE:FUNCTION."
        ) from None
    return loaded


def _summarize(config: FetchConfig, totals: Totals, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the summary file's content."""
    return {
        "snapshot": facts["snapshot"],
        "source": facts,
        "settings": _settings(config),
        "splitting": {
            "by": "article",
            "validation_fraction": config.validation_fraction,
            "test_fraction": config.test_fraction,
            "seed": config.seed,
            "split_file": config.split_file,
        },
        "counts": dict(totals.counts),
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
