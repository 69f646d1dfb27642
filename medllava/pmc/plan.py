"""What a fetch would cost, from the frozen rules and a sample of the articles, without keeping any.

The selection is made as for a real run, in a scratch folder. Of a sample of its articles metadata
and XML are read and image sizes are asked for, which also measures the rate.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from medllava.errors import MedllavaError
from medllava.pmc.archive import ArticleFiles, Source, match_image
from medllava.pmc.config import FetchConfig
from medllava.pmc.jats import Figure, read_article
from medllava.pmc.rights import is_allowed
from medllava.pmc.selection import listing_path, write_selection
from medllava.pmc.sources import check_source, open_source
from medllava.pmc.state import Item, Listing
from medllava.progress import Progress
from medllava.records import StepSummary
from medllava.threads import thread_pool

SAMPLE_ARTICLES = 100
_SECONDS_PER_HOUR = 3600


@dataclass(slots=True, kw_only=True)
class _Sampled:
    """What one sampled article adds up to."""

    license: str
    is_kept: bool = False
    figures: int = 0
    objects: int = 1
    bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Estimate:
    articles: int = 0
    kept: int = 0
    figures: int = 0
    objects: int = 0
    bytes: int = 0
    licenses: Counter[str] = field(default_factory=Counter)

    def add(self, sampled: _Sampled) -> None:
        self.articles += 1
        self.kept += sampled.is_kept
        self.figures += sampled.figures
        self.objects += sampled.objects
        self.bytes += sampled.bytes
        self.licenses[sampled.license] += 1


def plan_fetch(config: FetchConfig, *, progress: Progress) -> StepSummary:
    """Estimate articles, figures, bytes, licenses and hours.

    Raises:
        DataError: the source cannot be used.
        RemoteError: a service does not answer.
    """
    check_source(config)
    with tempfile.TemporaryDirectory(prefix="medllava-plan-") as scratch:
        config = replace(config, output_dir=Path(scratch), dry_run=False)
        facts = write_selection(config, progress=progress)
        with closing(Listing(listing_path(config))) as listing:
            items = list(listing.iter_sample(SAMPLE_ARTICLES))
            total, misses = len(listing), sum(1 for _ in listing.iter_misses())
        progress.start("read a sample", total=len(items))
        source = open_source(config, shard_dir=Path(scratch))
        estimate = _Estimate()
        started = time.monotonic()
        with thread_pool(config.workers) as pool:
            for sampled in pool.map(lambda item: _sample(config, source, item), items):
                progress.advance()
                for part in sampled:
                    estimate.add(part)
        seconds = max(time.monotonic() - started, 1e-6)
    return _summarize(facts, total, misses, len(items), estimate, seconds)


def _summarize(
    facts: dict[str, object], total: int, misses: int, items: int, sample: _Estimate, seconds: float
) -> StepSummary:
    scale = total / max(items, 1)
    rate = sample.objects / seconds
    hours = sample.objects * scale / rate / _SECONDS_PER_HOUR if sample.objects else 0.0
    free = shutil.disk_usage(Path.cwd()).free
    return StepSummary(
        step="fetch-pmc",
        counts={
            "articles": total,
            "not_found": misses,
            "sampled": items,
            "articles_within_license": round(sample.kept * scale),
            "figures": round(sample.figures * scale),
            "objects": round(sample.objects * scale),
            "bytes": round(sample.bytes * scale),
            "free_disk_bytes": free,
            "objects_per_second": round(rate, 1),
            "hours": round(hours, 2),
        },
        details={
            "dry_run": True,
            "snapshot": facts["snapshot"],
            "source": facts,
            "licenses": dict(sample.licenses.most_common()),
        },
        hint="the same without --dry-run.",
    )


def _sample(config: FetchConfig, source: Source, item: Item) -> list[_Sampled]:
    sampled: list[_Sampled] = []
    try:
        sampled.extend(_measure(config, files) for files in source.iter_articles(item))
    except MedllavaError as error:
        # One article that cannot be had is part of the picture, not the end of the estimate.
        sampled.append(_Sampled(license=f"unreadable ({type(error).__name__})"))
    finally:
        source.release(item)
    return sampled


def _measure(config: FetchConfig, files: ArticleFiles) -> _Sampled:
    stated = files.metadata.license if files.metadata is not None else None
    if files.metadata is not None and not is_allowed(stated, config.licenses):
        return _Sampled(license=stated or "none stated")
    article = read_article(files.load_root(), with_mentions=False)
    code = stated or article.license.code
    sampled = _Sampled(license=code or "none stated", is_kept=is_allowed(code, config.licenses))
    if sampled.is_kept:
        sampled.figures = sum(1 for figure in article.figures if figure.graphics)
        names = [] if config.captions_only else list(_iter_images(files, article.figures))
        sampled.objects = 2 + len(names)
        sampled.bytes = files.size_of("") + sum(files.size_of(name) for name in names)
    return sampled


def _iter_images(files: ArticleFiles, figures: tuple[Figure, ...]) -> Iterator[str]:
    for figure in figures:
        for names in figure.graphics:
            name = match_image(names, files.image_names)
            if name is not None:
                yield name
