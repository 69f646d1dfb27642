"""Local files read by several processes, since threads of Python share one core.

Each process holds a reader and a source of its own; items go in, outcomes come back to the run,
which alone commits them. A process ends when the run does, however that ends.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

from medllava.pmc.archive import Source, UnansweredError
from medllava.pmc.article import ArticleReader
from medllava.pmc.config import FetchConfig
from medllava.pmc.modality import load_classifier
from medllava.pmc.selection import load_wanted
from medllava.pmc.sources import open_source
from medllava.pmc.state import Item, Outcome

WORTH_IT = 200
"""Items from which the second that a process takes to start is earned back."""


@dataclass(slots=True)
class _Desk:
    """What one process reads with."""

    reader: ArticleReader
    source: Source


_desks: list[_Desk] = []
"""One in a process that reads, none elsewhere."""


@contextmanager
def process_pool(
    config: FetchConfig, *, shard_dir: Path, snapshot: str
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool for `read_item`; what waits is thrown away when the block fails.

    Args:
        config: filters, inputs, and how many processes.
        shard_dir: where packages are unpacked.
        snapshot: date of the listing.
    """
    pool = ProcessPoolExecutor(
        config.processes,
        # A copy of this process would inherit its threads' locks.
        mp_context=get_context("spawn"),
        initializer=_sit_down,
        initargs=(config, shard_dir, snapshot),
    )
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def read_item(item: Item) -> list[Outcome]:
    """Return an item's outcomes; runs in a process of the pool.

    Raises:
        UnansweredError: it cannot be read today.
    """
    desk = _desks[0]
    try:
        return desk.reader.read(item, desk.source.iter_articles(item))
    except UnansweredError as error:
        # Of the plain class, which another process can unpack.
        raise UnansweredError(str(error), reason=error.reason) from None


def _sit_down(config: FetchConfig, shard_dir: Path, snapshot: str) -> None:
    """Prepare a process: Ctrl-C is the run's to answer, and none outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reader = ArticleReader(
        config,
        snapshot=snapshot,
        classifier=load_classifier(config.classifier),
        wanted=load_wanted(config),
    )
    _desks.append(_Desk(reader, open_source(config, shard_dir=shard_dir)))


def _end_with_parent() -> None:
    """Leave when the run was killed: its queue would be waited for without an end."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
