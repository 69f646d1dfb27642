"""One shard: items through a pool of threads, outcomes committed one by one, a marker at the end.

A shard is a function of the listing, the settings, `num_shards` and its index. What a service does
not give today stays open, and the next run goes on there.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from importlib import import_module

from medllava.errors import RemoteError, SetupError
from medllava.pmc.archive import Source
from medllava.pmc.article import ArticleReader
from medllava.pmc.config import FetchConfig
from medllava.pmc.modality import ImageClassifier
from medllava.pmc.selection import listing_path, load_wanted, shard_dir, shard_marker
from medllava.pmc.sources import open_source
from medllava.pmc.state import Item, Listing, Outcome, Outcomes
from medllava.pmc.transport import BudgetSpentError, ByteBudget
from medllava.progress import Progress
from medllava.store import exclusive, write_json

_LOGGER = logging.getLogger(__name__)
_MAX_FAILURES = 20
"""Items in a row that a service did not answer, after which the run stops asking."""


def run_shard(
    config: FetchConfig,
    index: int,
    *,
    progress: Progress,
    classifier: ImageClassifier | None = None,
    budget: ByteBudget | None = None,
) -> int:
    """Do what is left of one shard; return how many items were tried and stay open.

    The frozen listing must exist.

    Raises:
        DataError: another process works on this shard.
        RemoteError: the service does not answer at all.
    """
    if shard_marker(config, index).exists():
        return 0
    folder = shard_dir(config, index)
    with (
        exclusive(folder),
        Outcomes(folder / "outcomes.sqlite") as outcomes,
        closing(Listing(listing_path(config))) as listing,
    ):
        reader = ArticleReader(
            config,
            snapshot=str(listing.facts["snapshot"]),
            classifier=classifier or load_classifier(config.classifier),
            wanted=load_wanted(config),
        )
        runner = _ShardRunner(
            reader=reader,
            source=open_source(config, shard_dir=folder, budget=budget),
            outcomes=outcomes,
            progress=progress,
        )
        if config.num_shards == 1:
            progress.start("read articles", total=len(listing))
        else:
            progress.start(f"read articles of shard {index}")
        items = listing.iter_items(num_shards=config.num_shards, shard_index=index)
        left = runner.run(items, workers=_num_threads(config))
        if not left:
            shutil.rmtree(folder / "objects", ignore_errors=True)
            write_json(shard_marker(config, index), {"items": len(outcomes)})
    return left


def load_classifier(name: str) -> ImageClassifier | None:
    """Import `module:function`; None for an empty name.

    Raises:
        SetupError: it cannot be imported.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        loaded: ImageClassifier = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(
            f"image classifier cannot be loaded ({error}): {name!r}. Give MODULE:FUNCTION."
        ) from None
    return loaded


def _num_threads(config: FetchConfig) -> int:
    """Return as many threads as connections, or as cores where nothing is waited for."""
    return min(config.workers, os.cpu_count() or 1) if config.inputs else config.workers


class _ShardRunner:
    """Keeps the workers busy and commits what they return."""

    def __init__(
        self, *, reader: ArticleReader, source: Source, outcomes: Outcomes, progress: Progress
    ) -> None:
        self._reader, self._source = reader, source
        self._outcomes, self._progress = outcomes, progress
        self._left = 0
        self._failures = 0
        self._is_spent = False

    def run(self, items: Iterator[Item], *, workers: int) -> int:
        """Do every item that is not done; return how many stay open."""
        running: dict[Future[list[Outcome]], Item] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
            try:
                for item in items:
                    if item.name in self._outcomes:
                        self._progress.advance()
                        continue
                    if self._is_spent:
                        self._left += 1
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
            except BudgetSpentError:
                self._left += 1
                self._is_spent = True
                continue
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
