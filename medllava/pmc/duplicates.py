"""Which figure shows a picture that an earlier one showed: the same bytes, or nearly the same look.

Hashes live in SQLite. Near means that at most seven of the 256 bits of the difference hash differ
(with the hash cut into eight bands such a pair agrees in one of them at least, so an index finds
it) and that the grey values agree as well: plates of a key share their grid, not their greys.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DISTANCE = 7
MAX_GREY_DIFFERENCE = 4.0
"""Mean over the 12 x 12 thumbnail, of 255. Recompression moves it by less than one."""
_BANDS = MAX_DISTANCE + 1
_HASH_DIGITS = 64
_BAND_DIGITS = _HASH_DIGITS // _BANDS
_CANDIDATES = (
    "SELECT DISTINCT near.id, look, figure FROM bands JOIN near ON near.id = bands.id"  # noqa: S608 - only question marks are put in
    f" WHERE band IN ({','.join('?' * _BANDS)}) ORDER BY near.id"
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
                "INSERT INTO bands VALUES (?, ?)", [(band, row.lastrowid) for band in _bands(look)]
            )
        return None

    def _exact(self, sha256: str) -> str | None:
        row = self._base.execute("SELECT figure FROM exact WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else str(row[0])

    def _near(self, look: str) -> str | None:
        """Return the first figure with an image close to this one."""
        if not look:
            return None
        for _, other, figure in self._base.execute(_CANDIDATES, _bands(look)):
            if are_alike(look, other):
                return str(figure)
        return None


def are_alike(look: str, other: str) -> bool:
    """Tell whether two pictures look nearly the same."""
    bits, other_bits = (int(value[:_HASH_DIGITS], 16) for value in (look, other))
    if (bits ^ other_bits).bit_count() > MAX_DISTANCE:
        return False
    greys, other_greys = (bytes.fromhex(value[_HASH_DIGITS:]) for value in (look, other))
    difference = sum(abs(a - b) for a, b in zip(greys, other_greys, strict=True))
    return difference <= MAX_GREY_DIFFERENCE * len(greys)


def _bands(look: str) -> list[str]:
    return [
        f"{band}{look[band * _BAND_DIGITS : (band + 1) * _BAND_DIGITS]}" for band in range(_BANDS)
    ]
