"""Several sources in one run: how often each is drawn, and in which order.

A pass over a mixture draws from each source as many records as its weight, its epochs or its own
size asks for. Sources are interleaved evenly, so that any part of a run has the shares that the
whole has; a source is gone through whole, over several passes, before any of it repeats. Everything
follows from sizes and a seed, so that any step of a resumed run draws what it would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Wanted(Protocol):
    """What is asked of a source; see `recipe.DataSource`."""

    @property
    def weight(self) -> float | None:
        """Share of the records drawn, beside the other weights."""

    @property
    def epochs(self) -> float | None:
        """Times the source is gone through in one pass."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Which source every example is from and how many each gives to a pass."""

    origins: NDArray[np.int64]
    """Number of the source of every example."""
    draws: tuple[int, ...]
    """Records that a pass takes from each source."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each source in the records drawn."""
        return tuple(count / sum(self.draws) for count in self.draws)

    def order(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the examples of one pass, in the order in which they are drawn."""
        examples, places = [], []
        for source, count in enumerate(self.draws):
            members = np.flatnonzero(self.origins == source)
            first = epoch * count
            rounds = range(first // len(members), (first + count - 1) // len(members) + 1)
            stream = np.concatenate([_shuffle(members, seed, source, number) for number in rounds])
            skipped = first - rounds.start * len(members)
            examples.append(stream[skipped : skipped + count])
            # One draw in each of `count` equal stretches of the pass.
            jitter = np.random.default_rng([seed, epoch, source, 2]).random(count)
            places.append((np.arange(count) + jitter) / count)
        order: NDArray[np.int64] = np.concatenate(examples)[np.argsort(np.concatenate(places))]
        return order


def mix(origins: NDArray[np.int64], sources: Sequence[Wanted]) -> Mixture:
    """Decide how many records a pass takes from each source.

    With weights a pass ends when the first source is through, so that none repeats within it; else
    each source is gone through `epochs` times, once where nothing is said.
    """
    sizes = np.bincount(origins, minlength=len(sources))
    weights = [source.weight for source in sources]
    if any(weight is not None for weight in weights):
        length = min(size / weight for size, weight in zip(sizes, weights, strict=True) if weight)
        draws = [round(length * (weight or 0.0)) for weight in weights]
    else:
        draws = [
            round(int(size) * (1.0 if source.epochs is None else source.epochs))
            for size, source in zip(sizes, sources, strict=True)
        ]
    return Mixture(origins=origins, draws=tuple(max(1, int(count)) for count in draws))


def _shuffle(members: NDArray[np.int64], seed: int, source: int, number: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, number, source, 1]).permutation(members)
