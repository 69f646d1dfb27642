"""What a fetch knows on disk: the frozen listing of articles, and the outcome of each.

Both are SQLite files, so that eight million articles cost no memory, a kill at any byte leaves the
last committed article, and everything comes back in one order. The listing is built once and shared
by all shards; each shard writes outcomes into a file of its own.
"""

import hashlib
import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from medllava.store import atomic_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One unit of work: an article version of the bucket, or a local file."""

    name: str
    """`PMC123.1`, or a path."""
    etag: str = ""
    """Of the metadata object, where the inventory tells."""
    version: int = 0

    @property
    def order(self) -> str:
        """Sorts PMCIDs by number and paths by name."""
        head, _, tail = self.name.partition(".")
        digits = head.removeprefix("PMC")
        return (
            f"{int(digits):012d}.{int(tail):04d}"
            if digits.isdigit() and tail.isdigit()
            else self.name
        )

    def shard(self, num_shards: int) -> int:
        """Return the shard that owns this item, the same on every machine."""
        digest = hashlib.blake2b(self.name.partition(".")[0].encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % num_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Something that was asked for and is not in the archive."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one article."""

    item: str
    order: str
    article: dict[str, Any]
    """Key, citation, license; what attribution needs."""
    figures: list[dict[str, Any]]
    """Kept figures: the record's fields, and hashes for the passes."""
    rejected: list[dict[str, str]]
    """Key, stage, reason, detail."""
    counts: dict[str, int]
    sources: dict[str, str] = field(default_factory=dict)
    """Figure id by image stem, of every figure of the article, kept or not."""
    metadata_md5: str = ""
    """Of the metadata object, to see at a refresh whether it changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRule:
    """Which of the listed items are taken."""

    latest: bool = True
    """The highest version of each article only."""
    limit: int | None = None
    """The first so many, in order."""
    sample: int | None = None
    """So many, drawn by a seeded hash of the name."""
    seed: int = 0


def write_listing(
    path: Path, entries: Iterable[Item | Miss], *, facts: dict[str, Any], rule: ListingRule
) -> None:
    """Freeze a selection.

    Args:
        path: file to make; it appears when it is complete.
        entries: items in any order, repeats merged, and what was not found.
        facts: source, snapshot date and the like, kept with it.
        rule: which of the items are taken.
    """
    with atomic_path(path) as temporary, closing(sqlite3.connect(temporary)) as base:
        base.executescript(_LISTING_TABLES)
        for entry in entries:
            if isinstance(entry, Miss):
                values = (entry.key, entry.reason, entry.detail)
                base.execute("INSERT OR IGNORE INTO misses VALUES (?, ?, ?)", values)
            else:
                article = entry.name.partition(".")[0] if entry.version else entry.name
                draw = _draw(rule.seed, article) if rule.sample is not None else ""
                base.execute(
                    "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?)",
                    (entry.name, entry.order, article, entry.version, entry.etag, draw),
                )
        base.execute("CREATE INDEX by_article ON items (article, version)")
        if rule.latest:
            base.execute(
                "DELETE FROM items WHERE EXISTS (SELECT 1 FROM items newer"
                " WHERE newer.article = items.article AND newer.version > items.version)"
            )
        if rule.sample is not None:
            base.execute(f"{_KEEP_FIRST} draw, ord LIMIT ?)", (rule.sample,))
        base.execute("CREATE INDEX by_order ON items (ord)")
        if rule.limit is not None:
            base.execute(f"{_KEEP_FIRST} ord LIMIT ?)", (rule.limit,))
        base.execute("INSERT INTO facts VALUES (?)", (json.dumps(facts),))
        base.commit()


_KEEP_FIRST = "DELETE FROM items WHERE name NOT IN (SELECT name FROM items ORDER BY"
_LISTING_TABLES = """
    CREATE TABLE items (name TEXT PRIMARY KEY, ord TEXT, article TEXT, version INT, etag TEXT,
        draw TEXT);
    CREATE TABLE misses (key TEXT PRIMARY KEY, reason TEXT, detail TEXT);
    CREATE TABLE facts (value TEXT);
"""


def _draw(seed: int, article: str) -> str:
    return hashlib.blake2b(f"{seed}:{article}".encode(), digest_size=8).hexdigest()


class Listing:
    """A frozen selection, read in order."""

    def __init__(self, path: Path) -> None:
        """Open a file that `write_listing` made."""
        self._base = _connect(path)
        self.facts: dict[str, Any] = json.loads(
            self._base.execute("SELECT value FROM facts").fetchone()[0]
        )

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self._base.execute("SELECT COUNT(*) FROM items").fetchone()[0])

    def iter_items(self, *, num_shards: int = 1, shard_index: int = 0) -> Iterator[Item]:
        """Yield the items of one shard, in order."""
        for name, version, etag in self._base.execute(
            "SELECT name, version, etag FROM items ORDER BY ord"
        ):
            item = Item(name=name, version=version, etag=etag)
            if item.shard(num_shards) == shard_index:
                yield item

    def iter_sample(self, number: int) -> Iterator[Item]:
        """Yield so many items, spread evenly over the order."""
        step = max(len(self) // max(number, 1), 1)
        rows = self._base.execute("SELECT name, version, etag FROM items ORDER BY ord")
        for position, (name, version, etag) in enumerate(rows):
            if position % step == 0 and position // step < number:
                yield Item(name=name, version=version, etag=etag)

    def iter_misses(self) -> Iterator[Miss]:
        """Yield what was asked for and not found."""
        for key, reason, detail in self._base.execute("SELECT * FROM misses ORDER BY key"):
            yield Miss(key=key, reason=reason, detail=detail)

    def has_article(self, name: str) -> bool:
        """Tell whether another version of the article of `name` is in the selection."""
        article = name.partition(".")[0]
        found = self._base.execute("SELECT 1 FROM items WHERE article = ?", (article,))
        return found.fetchone() is not None

    def find(self, name: str) -> Item | None:
        """Return the item of a name, None if it is not in the selection."""
        row = self._base.execute(
            "SELECT name, version, etag FROM items WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else Item(name=row[0], version=row[1], etag=row[2])

    def close(self) -> None:
        """Close the file."""
        self._base.close()


class Outcomes:
    """The outcomes of one shard: added article by article, read back in order."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = _connect(path)
        self._base.executescript(
            "CREATE TABLE IF NOT EXISTS outcomes (item TEXT, part INT, ord TEXT, body TEXT,"
            " PRIMARY KEY (item, part));"
            "CREATE INDEX IF NOT EXISTS by_order ON outcomes (ord);"
            "CREATE TABLE IF NOT EXISTS done (item TEXT PRIMARY KEY, etag TEXT);"
            "CREATE TABLE IF NOT EXISTS open"
            " (item TEXT PRIMARY KEY, reason TEXT, detail TEXT, runs INT);"
        )

    def __contains__(self, item: str) -> bool:
        """Tell whether an item is done."""
        return (
            self._base.execute("SELECT 1 FROM done WHERE item = ?", (item,)).fetchone() is not None
        )

    def __len__(self) -> int:
        """Return the number of items done."""
        return int(self._base.execute("SELECT COUNT(*) FROM done").fetchone()[0])

    def add(self, item: Item, outcomes: Iterable[Outcome]) -> None:
        """Commit an item with all its articles at once."""
        with self._base:
            for part, outcome in enumerate(outcomes):
                body = asdict(outcome)
                self._base.execute(
                    "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)",
                    (item.name, part, outcome.order, json.dumps(body, ensure_ascii=False)),
                )
            self._base.execute("INSERT OR REPLACE INTO done VALUES (?, ?)", (item.name, item.etag))
            self._base.execute("DELETE FROM open WHERE item = ?", (item.name,))

    def leave_open(self, item: Item, reason: str, detail: str) -> int:
        """Note why an item could not be decided; return in how many runs that happened."""
        with self._base:
            self._base.execute(
                "INSERT INTO open VALUES (?, ?, ?, 1) ON CONFLICT (item) DO UPDATE SET"
                " reason = excluded.reason, detail = excluded.detail, runs = runs + 1",
                (item.name, reason, detail[:300]),
            )
        row = self._base.execute("SELECT runs FROM open WHERE item = ?", (item.name,))
        return int(row.fetchone()[0])

    def iter_open(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, reason and detail of every item that could not be decided."""
        yield from self._base.execute("SELECT item, reason, detail FROM open ORDER BY item")

    def any_done(self) -> Item | None:
        """Return an item that was read, None if there is none."""
        row = self._base.execute(
            "SELECT done.item, etag FROM done JOIN outcomes ON done.item = outcomes.item"
            " WHERE outcomes.body NOT LIKE '%object-missing%' ORDER BY done.rowid DESC LIMIT 1"
        ).fetchone()
        return None if row is None else Item(name=row[0], etag=row[1], version=1)

    def remove(self, item: str) -> None:
        """Forget an item, so that it is done again or not at all."""
        with self._base:
            self._base.execute("DELETE FROM outcomes WHERE item = ?", (item,))
            self._base.execute("DELETE FROM done WHERE item = ?", (item,))
            self._base.execute("DELETE FROM open WHERE item = ?", (item,))

    def iter_done(self) -> Iterator[tuple[str, str]]:
        """Yield name and etag of every done item."""
        yield from self._base.execute("SELECT item, etag FROM done ORDER BY item")

    def iter_outcomes(self, item: str | None = None) -> Iterator[Outcome]:
        """Yield the outcomes of one item, or of all, in order."""
        rows = (
            self._base.execute("SELECT body FROM outcomes ORDER BY ord, item, part")
            if item is None
            else self._base.execute(
                "SELECT body FROM outcomes WHERE item = ? ORDER BY part", (item,)
            )
        )
        for (body,) in rows:
            yield Outcome(**json.loads(body))

    def iter_article(self, pmcid: str) -> Iterator[Outcome]:
        """Yield the outcomes of all versions of an article, oldest first."""
        first, last = (f"{int(pmcid.removeprefix('PMC')):012d}{sign}" for sign in "./")
        rows = self._base.execute(
            "SELECT body FROM outcomes WHERE ord > ? AND ord < ? ORDER BY ord", (first, last)
        )
        for (body,) in rows:
            yield Outcome(**json.loads(body))

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def __enter__(self) -> Self:
        """Return the outcomes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def merge_outcomes(shards: Iterable[Outcomes]) -> Iterator[Outcome]:
    """Yield the outcomes of all shards in one order that does not depend on their number."""
    yield from heapq.merge(
        *(shard.iter_outcomes() for shard in shards),
        key=lambda outcome: (outcome.order, outcome.item),
    )


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, check_same_thread=False)
    base.execute("PRAGMA cache_size = -256")  # kilobytes: a thousand shards may be open at once
    base.execute("PRAGMA synchronous = NORMAL")
    return base
