"""Which source a configuration means: opens it, and lists what it selects."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.pmc.archive import Source
from medllava.pmc.config import FetchConfig
from medllava.pmc.packages import LocalSource
from medllava.pmc.state import Item
from medllava.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Work items in any order, with the facts of their origin."""

    items: Iterable[Item]
    facts: dict[str, Any]
    """At least `source` and `snapshot` (ISO date)."""


def open_source(config: FetchConfig, *, shard_dir: Path) -> Source:
    """Open the source for reading; `shard_dir` holds what is kept until an article is done."""
    if config.inputs:
        return LocalSource(config.inputs, scratch_dir=shard_dir / "scratch")
    raise DataError("no source. Give --input.")


def select_articles(config: FetchConfig, *, progress: Progress) -> Selection:
    """List what the configuration selects."""
    del progress
    today = datetime.now(UTC).date().isoformat()
    source = LocalSource(config.inputs, scratch_dir=config.output_dir)
    return Selection(items=source.iter_items(), facts={"source": "local files", "snapshot": today})
