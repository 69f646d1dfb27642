"""What is decided over all figures together: which is a copy of an earlier one, and which split.

Hashes live in SQLite; what counts as near is said in `images.perceptual_hash`. All figures of an
article, whatever its version, go to the same split, named in a file or else drawn by a seeded hash,
so no figure of a tested article is ever trained on.
"""

import csv
import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from medllava.errors import DataError
from medllava.images.perceptual_hash import NUM_BANDS, are_alike, hash_bands
from medllava.pmc.config import FetchConfig
from medllava.records import Split

_CANDIDATES = (
    "SELECT DISTINCT near.id, look, figure FROM bands JOIN near ON near.id = bands.id"  # noqa: S608 - only question marks are put in
    f" WHERE band IN ({','.join('?' * NUM_BANDS)}) ORDER BY near.id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The earlier figure, and how alike."""

    kind: str
    """`duplicate` or `near-duplicate`."""
    of: str


class DuplicateFinder:
    """Finds figures all of whose images were seen before, in the order they are given."""

    def __init__(self, base: sqlite3.Connection) -> None:
        """Keep the hashes in `base`."""
        self._base = base
        base.execute("CREATE TABLE exact (sha256 TEXT PRIMARY KEY, figure TEXT) WITHOUT ROWID")
        base.execute("CREATE TABLE near (id INTEGER PRIMARY KEY, look TEXT, figure TEXT)")
        base.execute("CREATE TABLE bands (band TEXT, id INT, PRIMARY KEY (band, id)) WITHOUT ROWID")

    def find(self, figure: str, sha256: Sequence[str], looks: Sequence[str]) -> Twin | None:
        """Return the twin of a figure, or remember its images and return None."""
        exact = [self._exact(value) for value in sha256]
        if exact and all(exact):
            return Twin(kind="duplicate", of=str(exact[0]))
        near = [found or self._near(look) for found, look in zip(exact, looks, strict=True)]
        if near and all(near):
            return Twin(kind="near-duplicate", of=str(near[0]))
        for value in sha256:
            self._base.execute("INSERT OR IGNORE INTO exact VALUES (?, ?)", (value, figure))
        for look in filter(None, looks):
            row = self._base.execute(
                "INSERT INTO near (look, figure) VALUES (?, ?)", (look, figure)
            )
            self._base.executemany(
                "INSERT INTO bands VALUES (?, ?)",
                [(band, row.lastrowid) for band in hash_bands(look)],
            )
        return None

    def _exact(self, sha256: str) -> str | None:
        row = self._base.execute("SELECT figure FROM exact WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else str(row[0])

    def _near(self, look: str) -> str | None:
        """Return the first figure with an image close to this one."""
        if not look:
            return None
        for _, other, figure in self._base.execute(_CANDIDATES, hash_bands(look)):
            if are_alike(look, other):
                return str(figure)
        return None


EXCLUDE = "exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """A function from PMCID to split."""

    validation_fraction: float
    test_fraction: float
    seed: int
    named: Mapping[str, Split | None] = field(default_factory=dict)
    """Articles that a file assigns; None drops the article."""

    @classmethod
    def from_config(cls, config: FetchConfig) -> Self:
        """Build the rule, reading the split file."""
        return cls(
            validation_fraction=config.validation_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
            named={} if config.split_file is None else load_split_file(config.split_file),
        )

    def split_of(self, pmcid: str) -> Split | None:
        """Return the split of an article, None if it is to be left out."""
        if pmcid in self.named:
            return self.named[pmcid]
        digest = hashlib.blake2b(f"{self.seed}:{pmcid}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        if place < self.test_fraction:
            return Split.TEST
        if place < self.test_fraction + self.validation_fraction:
            return Split.VALIDATION
        return Split.TRAIN


def load_split_file(path: Path) -> dict[str, Split | None]:
    """Read `pmcid,split` from CSV, or objects with these keys from JSONL.

    `split` is train, validation, test, or `exclude` for articles that must not appear at all.

    Raises:
        DataError: absent, or a line says something else; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"split file cannot be read ({error}): {path}. Check the path.") from None
    named: dict[str, Split | None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.lower().replace(" ", "").startswith("pmcid,")):
            continue
        pmcid, split = _parse_line(line, where=f"{path}, line {number}")
        if named.get(pmcid, split) != split:
            raise DataError(f"{pmcid} is in two splits: {path}, line {number}. Keep one line.")
        named[pmcid] = split
    return named


def _parse_line(line: str, *, where: str) -> tuple[str, Split | None]:
    try:
        if line.lstrip().startswith("{"):
            value = json.loads(line)
            fields = [str(value["pmcid"]), str(value["split"])]
        else:
            fields = [part.strip() for part in next(csv.reader([line]))]
        pmcid, split = fields
        return pmcid.partition(".")[0] if pmcid.startswith("PMC") else pmcid, (
            None if split == EXCLUDE else Split(split)
        )
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"expected a PMCID and train, validation, test or exclude, got {line!r:.80}: {where}."
        ) from None
