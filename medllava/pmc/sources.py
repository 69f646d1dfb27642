"""Which source a configuration means: opens it, and lists what it selects."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.pmc.archive import BucketSource, Source
from medllava.pmc.config import FetchConfig
from medllava.pmc.entrez import Entrez, iter_batches, iter_lines
from medllava.pmc.listing import find_inventory, iter_inventory, list_versions
from medllava.pmc.llava_urls import iter_wanted
from medllava.pmc.packages import LocalSource
from medllava.pmc.state import Item, Miss
from medllava.pmc.transport import ByteBudget, HttpStore, RetryPolicy, Transport
from medllava.printable import without_password
from medllava.threads import thread_pool

_DEAD = re.compile(
    r"oa\.fcgi|ftp\.ncbi\.nlm\.nih\.gov|/oa_package|/oa_bulk|oa_file_list|/pub/pmc\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Work items in any order, with the facts of their origin."""

    entries: Iterable[Item | Miss]
    facts: dict[str, Any]
    """At least `source` and `snapshot` (ISO date)."""


def check_source(config: FetchConfig) -> None:
    """Refuse contradicting or dead sources before anything is written.

    Raises:
        DataError: more than one source, or an address that was shut down.
    """
    given = [
        name
        for name, value in (
            ("--input", config.inputs),
            ("--ids", config.ids),
            ("--query", config.query),
            ("--sample", config.sample),
            ("--from-llava-med-urls", config.image_urls),
        )
        if value
    ]
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} are different sources. Give one of them.")
    for address in (config.base_url, *map(str, config.inputs), str(config.ids or "")):
        if _DEAD.search(address):
            raise DataError(
                f"this address of the archive was shut down in August 2026: {address}."
                " Leave --base-url out to use the bucket that replaced it, and give PMCIDs with"
                " --ids; packages that you still hold on disk are read with --input."
            )


def open_transport(config: FetchConfig, *, budget: ByteBudget | None = None) -> Transport:
    """Open the bucket, or the copy of it that `base_url` names."""
    return Transport(
        config.base_url,
        email=config.email,
        retry=RetryPolicy(
            base_seconds=config.retry_seconds, timeout_seconds=config.timeout_seconds
        ),
        budget=budget,
    )


def open_source(
    config: FetchConfig, *, shard_dir: Path, budget: ByteBudget | None = None
) -> Source:
    """Open the source for reading; `shard_dir` holds what is kept until an article is done."""
    if config.inputs:
        return LocalSource(config.inputs, scratch_dir=shard_dir / "scratch")
    transport = open_transport(config, budget=budget)
    return BucketSource(HttpStore(transport, keep_dir=shard_dir / "objects"))


def select_articles(config: FetchConfig) -> Selection:
    """List what the configuration selects.

    Raises:
        DataError: the selection names nothing that can be used.
        RemoteError: a service does not answer.
    """
    today = datetime.now(UTC).date().isoformat()
    if config.inputs:
        source = LocalSource(config.inputs, scratch_dir=config.output_dir)
        return Selection(
            entries=source.iter_items(), facts={"source": "local files", "snapshot": today}
        )
    if config.query is not None:
        pmcids: Iterable[str | Miss] = Entrez(config).iter_pmcids(config.query, config.licenses)
        origin = f"search: {config.query}"
    elif config.ids is not None:
        pmcids = Entrez(config).iter_converted(_read_ids(config.ids))
        origin = "list of ids"
    elif config.image_urls is not None:
        wanted = iter_wanted(config.image_urls)
        pmcids = dict.fromkeys(image.pmcid for image in wanted)
        origin = "LLaVA-Med image list"
    else:
        return _select_inventory(config)
    facts = {"source": origin, "snapshot": today, "bucket": without_password(config.base_url)}
    return Selection(entries=_iter_versions(config, pmcids), facts=facts)


def _select_inventory(config: FetchConfig) -> Selection:
    transport = open_transport(config)
    inventory = find_inventory(transport)
    facts = {
        "source": "inventory",
        "snapshot": inventory.date,
        "bucket": without_password(config.base_url),
    }
    return Selection(entries=iter_inventory(transport, inventory), facts=facts)


def _iter_versions(config: FetchConfig, pmcids: Iterable[str | Miss]) -> Iterator[Item | Miss]:
    """Ask the bucket which versions it holds of each article, some at a time."""
    transport = open_transport(config)
    with thread_pool(config.workers) as pool:
        for batch in iter_batches(pmcids, 1000):
            misses = [entry for entry in batch if isinstance(entry, Miss)]
            names = [entry for entry in batch if not isinstance(entry, Miss)]
            yield from misses
            for name, items in zip(
                names, pool.map(lambda name: list_versions(transport, name), names), strict=True
            ):
                yield from items
                if not items:
                    yield Miss(key=name, reason="not-in-bucket", detail="the bucket has no version")


def _read_ids(path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            handle = (
                sys.stdin if str(path) == "-" else stack.enter_context(path.open(encoding="utf-8"))
            )
            yield from iter_lines(handle)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"list of ids cannot be read ({error}): {path}.") from None
