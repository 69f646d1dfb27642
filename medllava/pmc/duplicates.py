"""Which figure shows a picture that an earlier one showed: the same bytes, or nearly the same look.

Hashes live in SQLite; what counts as near is said in `images.perceptual_hash`.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from medllava.images.perceptual_hash import NUM_BANDS, are_alike, hash_bands

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
