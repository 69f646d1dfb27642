"""Lengths to bins that are as full as they can be.

One image takes hundreds of tokens, so that a bin of 2,048 holds two to four examples and how they
are matched decides how much of it stays empty. Two ways are tried and the one with fewer bins is
taken: best fit, longest first, which is good where bins hold many examples; and whole bins at a
time, the longest example with the ones that fill up its bin exactly, which is good where they hold
few. `fewest_bins` is a bound that no way of packing gets under.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pack = tuple[int, ...]
"""Numbers of the examples that share a bin."""

Lengths = NDArray[np.int64]
_SEARCHED = 2
"""The last so many examples of a bin are searched for together."""


def fill_bins(lengths: Lengths, order: Sequence[int] | Lengths, *, capacity: int) -> list[Pack]:
    """Put examples into bins.

    Args:
        lengths: tokens of every example of the index.
        order: the examples to pack; it decides among equal lengths.
        capacity: tokens of a bin; no example is longer.

    Returns:
        Bins in the order they were opened.
    """
    ways = (_fill_best_fit, _fill_one_by_one)
    return min((way(lengths, order, capacity) for way in ways), key=len)


def fewest_bins(lengths: Lengths, *, capacity: int) -> int:
    """Return a number of bins that cannot be undercut.

    Beside the sum of all lengths it counts: bins that hold more than j examples hold at least the
    shortest ones, so there are only so many of them, and the others hold j at most.
    """
    ascending = np.sort(lengths)
    sums = np.concatenate([[0], np.cumsum(ascending)])
    count, most = len(ascending), int(capacity // ascending[0])
    bound = math.ceil(int(sums[-1]) / capacity)
    for j in range(1, most):
        larger = np.arange(count // (j + 1) + 1)
        possible = int(larger[sums[(j + 1) * larger] <= capacity * larger].max())
        bound = max(bound, math.ceil((count - possible * (most - j)) / j))
    return int(bound)


def _fill_best_fit(lengths: Lengths, order: Sequence[int] | Lengths, capacity: int) -> list[Pack]:
    """Put examples, longest first, each into the fullest bin that still has room."""
    by_length = sorted(order, key=lambda example: -lengths[example])
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # room left -> bins that have exactly this much
    rooms = 0  # bit r is set when a bin has room r, so the fullest bin that fits is one shift away
    for example in by_length:
        length = int(lengths[example])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = open_bins[room].pop()
            if not open_bins[room]:
                rooms &= ~(1 << room)
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(int(example))
        room -= length
        open_bins.setdefault(room, []).append(number)
        rooms |= 1 << room
    return [tuple(members) for members in bins]


def _fill_one_by_one(lengths: Lengths, order: Sequence[int] | Lengths, capacity: int) -> list[Pack]:
    """Fill one bin after the other, each around the longest example that is left."""
    waiting = _Waiting(lengths, order)
    bins = []
    while waiting.count:
        members = [waiting.take(waiting.longest)]
        room = capacity - int(lengths[members[0]])
        while waiting.count and room >= waiting.shortest:
            chosen = waiting.choose(room)
            members += [waiting.take(length) for length in chosen]
            room -= sum(chosen)
        bins.append(tuple(members))
    return bins


class _Waiting:
    """Examples that are in no bin yet, by length."""

    def __init__(self, lengths: Lengths, order: Sequence[int] | Lengths) -> None:
        self._stacks: dict[int, list[int]] = {}
        for example in reversed(list(order)):
            self._stacks.setdefault(int(lengths[example]), []).append(int(example))
        self._values = np.array(sorted(self._stacks), dtype=np.int64)
        self._counts = np.array([len(self._stacks[int(v)]) for v in self._values])
        self.count = int(self._counts.sum())
        self._total = int((self._values * self._counts).sum())

    @property
    def longest(self) -> int:
        return int(self._values[-1])

    @property
    def shortest(self) -> int:
        return int(self._values[0])

    def take(self, length: int) -> int:
        """Take out one example of this length."""
        place = int(np.searchsorted(self._values, length))
        self._counts[place] -= 1
        if not self._counts[place]:
            self._values = np.delete(self._values, place)
            self._counts = np.delete(self._counts, place)
        self.count -= 1
        self._total -= length
        return self._stacks[length].pop()

    def choose(self, room: int) -> tuple[int, ...]:
        """Return the lengths to put next into `room`, in which one fits at least."""
        usual = round(room * self.count / self._total)
        wanted = min(usual, room // self.shortest)
        if wanted > _SEARCHED:
            return (self._nearest(room / wanted),)
        one = int(self._values[np.searchsorted(self._values, room, side="right") - 1])
        pair = self._best_pair(room)
        return pair if sum(pair) > one else (one,)

    def _nearest(self, wanted: float) -> int:
        place = int(np.searchsorted(self._values, wanted))
        beside = self._values[max(0, place - 1) : place + 1]
        return int(beside[np.abs(beside - wanted).argmin()])

    def _best_pair(self, room: int) -> tuple[int, ...]:
        """Return two lengths that fill `room` best; nothing if no two fit."""
        firsts = self._values[self._values <= room - self.shortest]
        if not len(firsts):
            return ()
        places = np.searchsorted(self._values, room - firsts, side="right") - 1
        sums = firsts + self._values[places]
        sums[(self._values[places] == firsts) & (self._counts[places] < _SEARCHED)] = 0
        best = int(sums.argmax())
        return (int(firsts[best]), int(self._values[places[best]])) if sums[best] else ()
