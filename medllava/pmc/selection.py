"""The selection of a figures folder: frozen at the first run, taken anew by a refresh.

OUT/.fetch/settings.json    what decides the content; a run with other values is refused
OUT/.fetch/listing.sqlite   the articles, shared by all shards
OUT/.fetch/refresh.jsonl    what the last refresh found gone or changed
"""

from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from medllava.errors import DataError, RemoteError
from medllava.pmc.archive import BucketSource, ObjectError, Source
from medllava.pmc.config import FetchConfig
from medllava.pmc.llava_urls import iter_wanted
from medllava.pmc.sources import check_source, open_source, select_articles
from medllava.pmc.state import Item, Listing, ListingRule, Outcomes, write_listing
from medllava.printable import without_password
from medllava.progress import Progress
from medllava.store import (
    JsonlWriter,
    exclusive,
    iter_jsonl,
    read_json,
    waiting_lock,
    write_json,
)

_FREE_SETTINGS = frozenset(
    {
        *(
            "output_dir",
            "email",
            "workers",
            "processes",
            "max_bytes",
            "refresh",
            "dry_run",
            "shard_index",
        ),
        *("executor", "executor_options", "retry_seconds", "timeout_seconds", "give_up_after"),
        *("retry_rejected", "entrez_url", "converter_url"),
        *("webdataset", "deduplicate", "validation_fraction", "test_fraction", "split_file"),
    }
)
"""May differ between runs into one folder: limits, and what the final passes decide anew."""
TRANSPORT_REASONS = frozenset(
    {"object-missing", "checksum", "refused", "no-answer", "unreadable", "http-error"}
)
"""Of rejections that tell of a connection or a disk; `http-error` is of older folders."""


def work_dir(config: FetchConfig) -> Path:
    """Return the folder of what later runs continue from."""
    return config.output_dir / ".fetch"


def listing_path(config: FetchConfig) -> Path:
    """Return the file of the frozen selection."""
    return work_dir(config) / "listing.sqlite"


def shard_dir(config: FetchConfig, index: int) -> Path:
    """Return the folder of one shard."""
    return work_dir(config) / "shards" / f"{index:05d}-of-{config.num_shards:05d}"


def shard_marker(config: FetchConfig, index: int) -> Path:
    """Return the file that says that a shard is complete."""
    return shard_dir(config, index) / "complete.json"


def freeze_listing(config: FetchConfig, *, progress: Progress) -> None:
    """Select the articles once and for all shards, or anew if a refresh is asked for.

    Raises:
        DataError: the folder holds a selection made with other settings.
        RemoteError: a service does not answer.
    """
    check_source(config)
    folder = work_dir(config)
    folder.mkdir(parents=True, exist_ok=True)
    settings = describe_settings(config)
    pending = folder / "refresh.pending"
    with waiting_lock(folder / "listing.lock"):  # shards start together: one lists, others wait
        sweep_temporary(folder)
        known = folder / "settings.json"
        if known.exists():
            _check_settings(read_json(known), settings, config.output_dir)
        else:
            write_json(known, settings)
        is_first = not listing_path(config).exists()
        if config.refresh and not is_first and not pending.exists():
            write_json(pending, {"replaces": read_facts(config)["snapshot"]})
            write_selection(config, progress=progress)
        elif is_first:
            write_selection(config, progress=progress)
        if config.retry_rejected:
            progress.start("open what was left out")
            _reopen_rejected(config)
        if pending.exists():  # also of a refresh that was killed
            progress.start("compare with the new snapshot")
            _drop_outdated(config)
            pending.unlink()


def read_facts(config: FetchConfig) -> dict[str, Any]:
    """Return source and snapshot of the frozen selection."""
    with closing(Listing(listing_path(config))) as listing:
        return listing.facts


def load_wanted(config: FetchConfig) -> dict[str, set[str]] | None:
    """Return the image stems of an image list by PMCID, None if none is given."""
    if config.image_urls is None:
        return None
    wanted: dict[str, set[str]] = {}
    for image in iter_wanted(config.image_urls):
        wanted.setdefault(image.pmcid, set()).add(image.stem)
    return wanted


def describe_settings(config: FetchConfig) -> dict[str, Any]:
    """Return the settings that decide what is read, as JSON values."""
    values: dict[str, Any] = {}
    for field in fields(config):
        if field.name not in _FREE_SETTINGS:
            value = getattr(config, field.name)
            if isinstance(value, tuple):
                value = [str(v.resolve()) if isinstance(v, Path) else str(v) for v in value]
            values[field.name] = str(value) if isinstance(value, Path) else value
    values["base_url"] = without_password(config.base_url)
    return values


def count_refreshed(config: FetchConfig) -> dict[str, int]:
    """Return how many articles the last refresh found removed, superseded or changed."""
    path = work_dir(config) / "refresh.jsonl"
    counts: dict[str, int] = {}
    if path.exists():
        for _, line in iter_jsonl(path, allow_torn_tail=True):
            counts[str(line["why"])] = counts.get(str(line["why"]), 0) + 1
    return counts


def write_selection(config: FetchConfig, *, progress: Progress) -> dict[str, Any]:
    """Freeze which articles are taken; return the facts about the selection."""
    progress.start("select articles")
    selection = select_articles(config)
    rule = ListingRule(
        latest=config.versions == "latest",
        limit=config.limit,
        sample=config.sample,
        seed=config.seed,
    )
    write_listing(listing_path(config), selection.entries, facts=selection.facts, rule=rule)
    return selection.facts


def _check_settings(known: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    for name, value in wanted.items():
        if name in known and known[name] != value:  # a folder may be older than a setting
            raise DataError(
                f"this folder was begun with {name} = {known.get(name)!r}, not {value!r}: {folder}."
                " Name another folder with -o, or repeat the first settings."
            )


def _drop_outdated(config: FetchConfig) -> None:
    """Forget every article that the new snapshot lacks or describes differently."""
    log = work_dir(config) / "refresh.jsonl"
    log.unlink(missing_ok=True)
    with closing(Listing(listing_path(config))) as listing, JsonlWriter(log) as lines:
        for index in range(config.num_shards):
            folder = shard_dir(config, index)
            shard_marker(config, index).unlink(missing_ok=True)
            with exclusive(folder), Outcomes(folder / "outcomes.sqlite") as outcomes:
                source = open_source(config, shard_dir=folder)
                for name, etag in list(outcomes.iter_done()):
                    why = _why_outdated(
                        config, listing, outcomes, source, Item(name=name, etag=etag)
                    )
                    if why:
                        lines.write({"item": name, "why": why})
                        _delete_images(config.output_dir, outcomes, name)
                        outcomes.remove(name)


def _reopen_rejected(config: FetchConfig) -> None:
    """Forget every article of which something was left out for the reason that is asked for.

    Raises:
        DataError: nothing was left out for it.
    """
    wanted = config.retry_rejected
    reopened = 0
    seen: set[str] = set()
    for index in range(config.num_shards):
        folder = shard_dir(config, index)
        if not (folder / "outcomes.sqlite").exists():
            continue
        with exclusive(folder), Outcomes(folder / "outcomes.sqlite") as outcomes:
            names: dict[str, None] = {}
            for outcome in outcomes.iter_outcomes():
                reasons = {row["reason"] for row in outcome.rejected}
                seen |= reasons
                if wanted in reasons or (wanted == "any" and reasons):
                    names[outcome.item] = None
            for name in names:
                outcomes.remove(name)
            if names:
                shard_marker(config, index).unlink(missing_ok=True)
            reopened += len(names)
    if not reopened and wanted != "any" and wanted not in seen:
        raise DataError(
            f"nothing was left out as {wanted!r} when articles were read."
            f" Reasons here: {', '.join(sorted(seen)) or 'none'}."
        )


def _why_outdated(
    config: FetchConfig,
    listing: Listing,
    outcomes: Outcomes,
    source: Source,
    known: Item,
) -> str | None:
    """Say why an item's outcome holds no longer, None if it does."""
    now = listing.find(known.name)
    if now is None:
        is_newer = config.versions == "latest" and listing.has_article(known.name)
        return "superseded" if is_newer else "removed"
    found = list(outcomes.iter_outcomes(known.name))
    if any(row["reason"] in TRANSPORT_REASONS for outcome in found for row in outcome.rejected):
        return "asked-again"  # what a connection said is never carried into a new snapshot
    if known.etag and known.etag == now.etag:
        return None
    if not isinstance(source, BucketSource):
        return "changed"  # local files are read again, which costs little
    try:
        md5 = source.read_metadata(known.name)[3]
    except (ObjectError, RemoteError):
        return "changed"
    finally:
        source.release(known)
    same = [outcome.metadata_md5 == md5 for outcome in found]
    return None if same and all(same) else "changed"


def _delete_images(folder: Path, outcomes: Outcomes, item: str) -> None:
    for outcome in outcomes.iter_outcomes(item):
        for figure in outcome.figures:
            for path in figure["record"]["images"]:
                (folder / path).unlink(missing_ok=True)


def sweep_temporary(folder: Path) -> None:
    """Delete what killed runs left half written; the caller holds the folder's lock."""
    for pattern in (".*.tmp", ".scratch.*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
