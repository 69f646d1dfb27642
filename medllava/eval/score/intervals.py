"""How sure a mean is: percentile bootstrap over images, and a paired test between two systems.

Questions about one image are not independent, so whole images are drawn. All columns (metrics,
conditions, groups) share the draws, which makes differences between them paired.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_CELLS = 4_000_000
"""Weights held at once; bounds memory at about 32 MB."""
_TAIL = 0.025


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float | None
    """None: no question counts."""
    low: float | None
    high: float | None
    """None for both: fewer than two images, so nothing is known about the spread."""
    num_questions: int = 0

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain values."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "num_questions": self.num_questions,
        }


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The means of all columns, as observed and under every draw."""

    means: Values
    """(K,)"""
    samples: Values
    """(draws, K); NaN where a draw holds no question that counts."""
    num_questions: NDArray[np.int64]
    """(K,) questions that count."""
    num_clusters: NDArray[np.int64]
    """(K,) images with a question that counts."""

    def estimate(self, column: int) -> Estimate:
        """Return the mean of one column with its interval."""
        return _estimate(
            self.means[column],
            self.samples[:, column],
            self.num_questions[column],
            self.num_clusters[column],
        )

    def difference(self, column: int, other: int) -> Estimate:
        """Return column minus other, paired by the shared draws."""
        return _estimate(
            self.means[column] - self.means[other],
            self.samples[:, column] - self.samples[:, other],
            min(self.num_questions[column], self.num_questions[other]),
            min(self.num_clusters[column], self.num_clusters[other]),
        )


def bootstrap(values: Values, clusters: NDArray[np.int64], *, draws: int, seed: int) -> Bootstrap:
    """Draw clusters with replacement and average every column over the questions drawn.

    Args:
        values: (questions, K); NaN does not count.
        clusters: (questions,) number of each question's image, from 0 without gaps.
        draws: more give smoother ends; 10,000 settle the first decimal of a percentage.
        seed: of the draws.
    """
    sums, counts = cluster_sums(values, clusters)
    totals = counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = sums.sum(axis=0) / totals
    num_clusters = len(sums)
    unique_counts, which = np.unique(counts, axis=1, return_inverse=True)
    table = np.concatenate([sums, unique_counts], axis=1).astype(np.float32)
    samples = np.empty((draws, values.shape[1]))
    width = values.shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(num_clusters, 1))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = _draw_weights(rng, num_clusters, size) @ table
        with np.errstate(invalid="ignore"):
            samples[start : start + size] = drawn[:, :width] / drawn[:, width:][:, which.ravel()]
    return Bootstrap(means, samples, totals.astype(np.int64), (counts > 0).sum(axis=0))


def cluster_sums(values: Values, clusters: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return (clusters, K) sums and counts of the values that are not NaN."""
    size = int(clusters.max()) + 1 if len(clusters) else 0
    counted = ~np.isnan(values)
    sums = np.zeros((size, values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, clusters, np.where(counted, values, 0.0))
    np.add.at(counts, clusters, counted.astype(np.float64))
    return sums, counts


def paired_p_values(
    differences: Values, clusters: NDArray[np.int64], *, draws: int, seed: int
) -> Values:
    """Return the two-sided p of "no difference", flipping the sign of whole images at random.

    Args:
        differences: (questions, K) score of one system minus the other's; NaN does not count.
        clusters: (questions,) number of each question's image.
        draws: sign patterns; the smallest possible p is 1 / (draws + 1).
        seed: of the patterns, which all columns share.

    Returns:
        (K,)
    """
    sums = cluster_sums(differences, clusters)[0]
    observed = np.abs(sums.sum(axis=0))
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(len(sums), 1))
    hits = np.zeros(sums.shape[1], dtype=np.int64)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        signs = rng.integers(0, 2, size=(size, len(sums)), dtype=np.int8) * 2 - 1
        flipped = np.abs(signs.astype(np.float64) @ sums)
        # Rounding must not hide patterns that are equal to the observed one.
        hits += (flipped >= observed - 1e-9).sum(axis=0)
    return (hits + 1) / (draws + 1)


def _draw_weights(rng: np.random.Generator, num_clusters: int, size: int) -> NDArray[np.float32]:
    """Return (size, clusters): how often each cluster is in each draw."""
    picks = rng.integers(0, num_clusters, size=(size, num_clusters), dtype=np.int64)
    picks += np.arange(size)[:, None] * num_clusters
    counts = np.bincount(picks.ravel(), minlength=size * num_clusters)
    return counts.reshape(size, num_clusters).astype(np.float32)


def _estimate(mean: float, samples: Values, num_questions: int, num_clusters: int) -> Estimate:
    if num_questions == 0:
        return Estimate(value=None, low=None, high=None)
    low = high = None
    if num_clusters > 1:
        known = samples[~np.isnan(samples)]
        low, high = (float(end) for end in np.quantile(known, [_TAIL, 1 - _TAIL]))
    return Estimate(value=float(mean), low=low, high=high, num_questions=int(num_questions))
