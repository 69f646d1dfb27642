"""The outcomes of all shards become the figures folder: passes over everything, then the files.

Runs over the outcomes in one order, twice where needed, with a few rows in memory: duplicates and
splits are found through a SQLite scratch file, Parquet is written in row groups.
"""

import dataclasses
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from medllava.layout import ATTRIBUTION_FILE, FIGURES_FILE, REJECTED_FIGURES_FILE
from medllava.pmc.config import FetchConfig
from medllava.pmc.passes import DuplicateFinder, SplitRule
from medllava.pmc.state import Miss, Outcome, Outcomes, merge_outcomes
from medllava.records import FigureRecord
from medllava.store import atomic_path

_TEXT, _LIST = pa.string(), pa.list_(pa.string())
_TYPES: dict[str, pa.DataType] = {
    "version": pa.int32(),
    "in_text_mentions": _LIST,
    "other_captions": _LIST,
    "other_caption_languages": _LIST,
    "keywords": _LIST,
    "mesh": _LIST,
    "images": _LIST,
    "panel_score": pa.float32(),
    "panel_box": pa.list_(pa.int32()),
    "is_retracted": pa.bool_(),
    "sha256": _LIST,
    "source_md5": _LIST,
}
FIGURES_SCHEMA = pa.schema(
    [pa.field(f.name, _TYPES.get(f.name, _TEXT)) for f in dataclasses.fields(FigureRecord)]
)
"""One column per field of `FigureRecord`, text unless it is named above."""
REJECTED_SCHEMA = pa.schema(
    [("key", _TEXT), ("stage", _TEXT), ("reason", _TEXT), ("detail", _TEXT)]
)
STAGES = (
    "article",
    "figure",
    "rights",
    "caption",
    "language",
    "modality",
    "image",
    "panels",
    "split",
    "duplicates",
)
"""Where a figure can be left out, in order; `article` counts articles, the others figures."""
_ROWS = 2000
"""Rows of one Parquet row group, and of memory."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """What the summary, the report and the attribution are made of."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rejected_at: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    contexts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)


def write_manifest(
    config: FetchConfig,
    shards: Sequence[Outcomes],
    misses: Iterable[Miss] = (),
    *,
    facts: Mapping[str, Any],
) -> Totals:
    """Write `figures.parquet`, `rejected.parquet` and `ATTRIBUTION.md`; return the totals.

    Args:
        config: filters and the output folder.
        shards: what became of the articles.
        misses: what was asked for and is not there.
        facts: of the listing, at least `source` and `snapshot`.
    """
    totals = Totals()
    folder = config.output_dir
    rule = SplitRule.from_config(config)
    with ExitStack() as stack:
        figures = stack.enter_context(TableWriter(folder / FIGURES_FILE, FIGURES_SCHEMA))
        rejected = stack.enter_context(TableWriter(folder / REJECTED_FIGURES_FILE, REJECTED_SCHEMA))
        attribution = stack.enter_context(AttributionWriter(folder / ATTRIBUTION_FILE, facts))
        scratch = stack.enter_context(_scratch(folder))
        seen = _SeenArticles(scratch)
        finder = DuplicateFinder(scratch) if config.deduplicate else None
        for miss in misses:
            _count_rejected(
                totals, rejected, _reason(miss.key, "selection", miss.reason, miss.detail)
            )
        for outcome in merge_outcomes(shards):
            kept = 0
            totals.counts["articles"] += 1
            if not seen.add(str(outcome.article["key"])):
                twin = _reason(outcome.item, "article", "duplicate-article", outcome.article["key"])
                _count_rejected(totals, rejected, twin)
                continue
            totals.counts.update({k: v for k, v in outcome.counts.items() if k != "articles"})
            for row, reason in _judge(outcome, rule, finder):
                if reason is None:
                    figures.add(row)
                    _count_figure(totals, row)
                    kept += 1
                else:
                    _count_rejected(totals, rejected, reason)
            if kept:
                attribution.add(outcome.article, kept)
        totals.counts["kept"] = figures.count
        totals.counts["rejected"] = rejected.count
        totals.counts["named_articles"] = len(rule.named)
    return totals


def _judge(
    outcome: Outcome, rule: SplitRule, finder: DuplicateFinder | None
) -> Iterator[tuple[dict[str, Any], dict[str, str] | None]]:
    """Yield every figure of an article with None, and everything left out with its reason."""
    for reason in outcome.rejected:
        yield {}, reason
    if not outcome.figures:
        return
    split = rule.split_of(str(outcome.article["pmcid"]))
    for figure in outcome.figures:
        row = figure["record"]
        if split is None:
            yield row, _reason(row["figure_id"], "split", "excluded", "excluded by the split file")
            continue
        twin = finder.find(row["figure_id"], row["sha256"], figure["looks"]) if finder else None
        if twin is not None:
            yield row, _reason(row["figure_id"], "duplicates", twin.kind, twin.of)
            continue
        row["split"] = split.value
        yield row, None


def _reason(key: str, stage: str, reason: str, detail: str) -> dict[str, str]:
    return {"key": key, "stage": stage, "reason": reason, "detail": detail}


def _count_rejected(totals: Totals, rejected: "TableWriter", reason: dict[str, str]) -> None:
    rejected.add(reason)
    totals.reasons[reason["reason"]] += 1
    totals.rejected_at[reason["stage"]] += 1


def _count_figure(totals: Totals, row: dict[str, Any]) -> None:
    totals.modalities[row["modality"]] += 1
    totals.licenses[row["license"] or "none stated"] += 1
    totals.splits[row["split"]] += 1
    totals.contexts[row["context"]] += 1
    totals.languages[row["caption_language"]] += 1
    totals.counts["kept_images"] += len(row["images"])
    totals.counts["kept_mentions"] += len(row["in_text_mentions"])


class TableWriter:
    """Rows into a Parquet file that appears when it is complete."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Prepare to write `path`."""
        self._path, self._schema = path, schema
        self._rows: list[dict[str, Any]] = []
        self._stack = ExitStack()
        self.count = 0

    def __enter__(self) -> Self:
        """Open a temporary file beside the path."""
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(temporary, self._schema, compression="zstd")
        )
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest and put the file in place, unless something failed."""
        if kind is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)


class AttributionWriter:
    """Who made what, and under which license, as Markdown."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Prepare to write `path`, with the source and date of a listing in its head."""
        is_local = facts["source"] == "local files"
        where = "local copies" if is_local else "https://registry.opendata.aws/ncbi-pmc"
        self._path = path
        self._head = _ATTRIBUTION_HEAD.format(date=facts["snapshot"], where=where)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Write the head."""
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._handle = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        self._handle.write(self._head)
        return self

    def add(self, article: dict[str, Any], num_figures: int) -> None:
        """Add the entry of one article."""
        parts = [article.get("citation") or article.get("title") or article["key"]]
        if article.get("title") and article["title"] not in parts[0]:
            parts.insert(0, article["title"])
        license_ = article.get("license") or "no license stated"
        url = f" ({article['license_url']})" if article.get("license_url") else ""
        text = " ".join(part.rstrip(".") + "." for part in parts)
        for sign in "\\`*_[]<>#|":
            text = text.replace(sign, f"\\{sign}")
        figures = f"{num_figures} figure{'s' if num_figures > 1 else ''}"
        self._handle.write(f"- {article['key']}: {text} {license_}{url}. {figures}.\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in place, unless something failed."""
        self._stack.__exit__(kind, error, trace)


_ATTRIBUTION_HEAD = """# Attribution

Figures and captions: National Institutes of Health (NIH), National Library of Medicine (NLM),
National Center for Biotechnology Information (NCBI), PubMed Central (PMC) Article Datasets,
accessed on {date} from {where}.

We thank NLM for making them available. NLM does not endorse this data set or anything made with it.
The data may be older than what the archive holds today.

Each article keeps its own license, named below; whoever passes figures on must name the authors and
keep to it. Images were re-encoded without metadata and captions were turned into plain text.

"""


class _SeenArticles:
    """Remembers article keys on disk."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        base.execute("CREATE TABLE articles (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, key: str) -> bool:
        """Add a key; False if it was there."""
        return self._base.execute("INSERT OR IGNORE INTO articles VALUES (?)", (key,)).rowcount == 1


class _scratch:  # noqa: N801 - used like a function
    """A SQLite file that is gone afterwards, also after an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> sqlite3.Connection:
        with tempfile.NamedTemporaryFile(
            dir=self._folder, prefix=".scratch.", delete=False
        ) as handle:
            self._path = Path(handle.name)
        self._base = sqlite3.connect(self._path, isolation_level=None)
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        return self._base

    def __exit__(self, *_: object) -> None:
        self._base.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
