"""The step: from a selection of articles to the figures folder, shard by shard.

    OUT/figures.parquet     one row per figure
    OUT/images/ab/...       the pictures, without metadata, under names of ours
    OUT/rejected.parquet    everything left out, with stage and reason
    OUT/summary.json        counts, funnel, snapshot, settings
    OUT/ATTRIBUTION.md      who made what, under which license
    OUT/report.html         the contact sheet
    OUT/webdataset/*.tar    the same for training that streams, if asked for
    OUT/.fetch/             listing, outcomes and kept objects: what a later run continues from

A figure walks: here -> `transport` -> `archive` -> `xml` -> `article` -> `jats`, `text`,
`mentions` -> `figures`, `rights`, `modality` -> `images` -> `state` -> `manifest`. A shard is a
function of the listing, the settings, `num_shards` and its index. What a service does not give
today stays open, and the next run goes on there. Whoever finishes the last shard writes the files.
"""

import errno
import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from medllava.errors import MedllavaError, RemoteError, SetupError
from medllava.pmc.archive import BucketSource, ObjectError, Source, UnansweredError
from medllava.pmc.article import ArticleReader
from medllava.pmc.config import FetchConfig
from medllava.pmc.executors import check_executor, plan_executor, run_executor
from medllava.pmc.modality import ImageClassifier, load_classifier
from medllava.pmc.passes import load_split_file
from medllava.pmc.plan import plan_fetch
from medllava.pmc.processes import WORTH_IT, process_pool, read_item
from medllava.pmc.report import finish_fetch
from medllava.pmc.selection import (
    freeze_listing,
    listing_path,
    load_wanted,
    shard_dir,
    shard_marker,
)
from medllava.pmc.sources import open_source
from medllava.pmc.state import Item, Listing, Outcome, Outcomes
from medllava.pmc.transport import BudgetSpentError, ByteBudget
from medllava.progress import Progress, SilentProgress
from medllava.records import StepSummary
from medllava.store import exclusive, write_json
from medllava.threads import thread_pool

_LOGGER = logging.getLogger(__name__)
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FOLDER_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
_WINDOW, _MAX_FAILURES = 50, 20
"""Of the last items, how many may stay without an answer before the run stops asking."""
_NAMED_OPEN = 20
"""Open articles that the summary names; all of them stand in the shards' outcomes."""


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
        SetupError: the folder cannot be written, the disk is full, or an extra is missing.
    """
    progress = progress or SilentProgress()
    if config.split_file is not None:
        load_split_file(config.split_file)  # what is wrong with it is said before hours of reading
    load_classifier(config.classifier)
    if config.executor is not None:
        check_executor(config)
    if config.dry_run:
        return plan_executor(config) or plan_fetch(config, progress=progress)
    with _folder_errors(config.output_dir):
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
            return StepSummary(
                step="fetch-pmc",
                complete=False,
                counts={"articles_left": left},
                details=_describe_open(config),
            )
        return finish_fetch(config, progress=progress)


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
            give_up_after=config.give_up_after,
        )
        if config.num_shards == 1:
            progress.start("read articles", total=len(listing))
        else:
            progress.start(f"read articles of shard {index}")
        items = listing.iter_items(num_shards=config.num_shards, shard_index=index)
        num_left = len(listing) - len(outcomes)
        is_worth_it = config.processes > 1 and config.inputs and num_left >= WORTH_IT
        if is_worth_it and classifier is None:
            snapshot = str(listing.facts["snapshot"])
            with process_pool(config, shard_dir=folder, snapshot=snapshot) as pool:
                left = runner.run(items, pool, read_item, most=2 * config.processes)
        else:
            num_threads = _num_threads(config)
            with thread_pool(num_threads, name="fetch") as threads:
                left = runner.run(items, threads, runner.read, most=2 * num_threads)
        if not left:
            shutil.rmtree(folder / "objects", ignore_errors=True)
            write_json(shard_marker(config, index), {"items": len(outcomes)})
    return left


def _num_threads(config: FetchConfig) -> int:
    """Return as many threads as connections, or as cores where nothing is waited for."""
    return min(config.workers, os.cpu_count() or 1) if config.inputs else config.workers


class _ShardRunner:
    """Keeps the workers busy and commits what they return."""

    def __init__(
        self,
        *,
        reader: ArticleReader,
        source: Source,
        outcomes: Outcomes,
        progress: Progress,
        give_up_after: int,
    ) -> None:
        self._reader, self._source = reader, source
        self._outcomes, self._progress = outcomes, progress
        self._give_up_after = give_up_after
        self._left = 0
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        """Of the last items, whether there was no answer."""
        self._doubtful: list[Item] = []
        """Items of which the service says that an object is not there: asked again at the end."""
        self._hopeless: list[Item] = []
        """Items without an answer in so many runs that they are given up."""
        self._is_spent = False

    def run(
        self,
        items: Iterator[Item],
        pool: Executor,
        read: Callable[[Item], list[Outcome]],
        *,
        most: int,
    ) -> int:
        """Do every item that is not done; return how many stay open.

        Args:
            items: of the shard, in order.
            pool: threads or processes.
            read: what they do with an item.
            most: items that wait or are read at a time.
        """
        running: dict[Future[list[Outcome]], Item] = {}
        for item in items:
            if item.name in self._outcomes:
                self._progress.advance()
                continue
            if self._is_spent:
                self._left += 1
                continue
            running[pool.submit(read, item)] = item
            if len(running) >= most:
                self._collect(running)
        while running:
            self._collect(running)
        self._settle()
        return self._left

    def read(self, item: Item) -> list[Outcome]:
        """Return the outcomes of an item, read in this process."""
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
            except UnansweredError as error:
                self._leave_open(item, error)
                continue
            except BrokenProcessPool:
                raise SetupError(
                    f"a process that reads was ended from outside, most likely for want of memory,"
                    f" near {item.name}. Run the same command again, with fewer --workers."
                ) from None
            self._recent.append(False)
            if self._source.is_remote and _lacks_object(outcomes):
                self._doubtful.append(item)
            else:
                self._commit(item, outcomes)

    def _commit(self, item: Item, outcomes: list[Outcome]) -> None:
        self._outcomes.add(item, outcomes)
        self._source.release(item)

    def _leave_open(self, item: Item, error: UnansweredError) -> None:
        """Decide nothing about an item; stop the run where hardly anything is answered."""
        runs = self._outcomes.leave_open(item, error.reason, str(error))
        self._recent.append(True)
        if sum(self._recent) >= _MAX_FAILURES and 2 * sum(self._recent) > len(self._recent):
            raise error
        if 0 < self._give_up_after <= runs:
            self._hopeless.append(item)
            return
        _LOGGER.warning("%s is left for another run: %s", item.name, error)
        self._left += 1

    def _settle(self) -> None:
        """Ask once more for what is said not to be there, and commit what can be believed.

        A portal or a wrong address answers 404 for everything. So a 404 counts only while an
        article that this shard has read before is still there.

        Raises:
            RemoteError: every object of the shard is said to be missing; nothing is committed.
        """
        for items, gives_up in ((self._doubtful, False), (self._hopeless, True)):
            if not items:
                continue
            outcomes = {item: self._read_again(item, gives_up=gives_up) for item in items}
            is_reliable = self._answers_for_known()
            for item, found in outcomes.items():
                if found and (is_reliable or not _lacks_object(found)):
                    self._commit(item, found)
                else:
                    self._left += 1
                    if found:
                        self._outcomes.leave_open(item, "object-missing", "not confirmed")
        if self._doubtful and self._left and not len(self._outcomes):
            raise RemoteError(
                f"everything that was asked for is said not to be there:"
                f" {self._doubtful[0].name} and {len(self._doubtful) - 1:,} more."
                " Nothing was decided. Check --base-url and the proxy, or take a new listing with"
                " --refresh; then run the same command again."
            )

    def _read_again(self, item: Item, *, gives_up: bool) -> list[Outcome]:
        """Return the outcomes of an item, nothing if there is still no answer."""
        try:
            return self._reader.read(item, self._source.iter_articles(item), gives_up=gives_up)
        except BudgetSpentError:
            return []
        except UnansweredError as error:
            self._outcomes.leave_open(item, error.reason, str(error))
            return []

    def _answers_for_known(self) -> bool:
        """Tell whether the source still gives an article that it gave before."""
        known = self._outcomes.any_done()
        if known is None or not isinstance(self._source, BucketSource):
            return known is not None
        with suppress(ObjectError, RemoteError):
            self._source.read_metadata(known.name)
            self._source.release(known)
            return True
        return False


def _lacks_object(outcomes: list[Outcome]) -> bool:
    return any(row["reason"] == "object-missing" for o in outcomes for row in o.rejected)


def _describe_open(config: FetchConfig) -> dict[str, object]:
    """Return why articles are open, by reason, and the first of them by name."""
    reasons: Counter[str] = Counter()
    named: dict[str, str] = {}
    for index in range(config.num_shards):
        path = shard_dir(config, index) / "outcomes.sqlite"
        if not path.exists():
            continue
        with Outcomes(path) as outcomes:
            for item, reason, detail in outcomes.iter_open():
                reasons[reason] += 1
                if len(named) < _NAMED_OPEN:
                    named[item] = detail
    return {"open": dict(reasons.most_common()), "open_articles": named} if reasons else {}


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system says of the folder into errors that a user can act on."""
    try:
        yield
    except MedllavaError:
        raise
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise SetupError(
                f"the disk is full ({error.strerror}): {folder}."
                " Free space and run again; it goes on."
            ) from None
        if error.errno in _FOLDER_ERRORS:
            raise SetupError(
                f"the folder cannot be written ({error.strerror}): {error.filename or folder}."
                " Name another one with -o."
            ) from None
        raise
