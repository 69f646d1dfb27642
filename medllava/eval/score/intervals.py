"""How sure a mean is: intervals for shares, bootstrap for the rest, a paired test of two systems.

Questions about one image are not independent. Of a share, such as an accuracy, the interval is
Wilson's with the design effect of the images and Student's t: a bootstrap of 20 images, or of 99 %
right answers, covers far less than it says, and of 0 right answers it says [0, 0]. Differences and
numbers that are no shares take the percentile bootstrap over whole images; all columns (metrics,
conditions, groups) share the draws, which makes differences between them paired.

Source: Wilson 1927, score interval; Kish 1965, design effect; coverage is simulated by
`tests/benchmarks/eval_intervals.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medllava.records import Estimate

Values = NDArray[np.float64]
_CELLS = 4_000_000
"""Weights held at once; bounds memory at about 32 MB."""
_TAIL = 0.025
_Z = 1.959963984540054
FEW_IMAGES = 20
"""Below so many images an interval is marked: it hangs on a handful of pictures."""
_PRIOR_CORRELATION, _PRIOR_EVENTS, _STEEPNESS = 0.17, 2.0, 4.0
"""What answers about one image share where right (or wrong) ones are too rare to tell: with one or
two of them nothing is known about it, from four on it is what they say."""
_LEAST_EFFECT = 0.02


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
    sums: Values
    """(clusters, K)"""
    counts: Values
    """(clusters, K) questions that count."""
    is_share: NDArray[np.bool_]
    """(K,) all values lie between 0 and 1."""
    is_binary: NDArray[np.bool_]
    """(K,) all values are 0 or 1."""

    def estimate(self, column: int) -> Estimate:
        """Return the mean of one column with its interval."""
        bootstrapped = _estimate(
            self.means[column],
            self.samples[:, column],
            self.num_questions[column],
            self.num_clusters[column],
        )
        if bootstrapped.low is None or not self.is_share[column]:
            return bootstrapped
        counted = self.counts[:, column] > 0
        low, high = share_interval(
            self.sums[counted, column],
            self.counts[counted, column],
            is_binary=bool(self.is_binary[column]),
        )
        return replace(bootstrapped, low=low, high=high)

    def mean_of_repeats(self, columns: Sequence[int], *, seed: int) -> Estimate:
        """Return the mean of columns that repeat one measurement, such as several permutations.

        Every draw of images also draws from the repeats, as many as there are; what they differ by
        is stretched to the variance of their mean, which so few draws would understate.

        Args:
            columns: at least one; of one alone nothing is known about its choice.
            seed: of the draws of repeats.
        """
        number = len(columns)
        samples = self.samples[:, columns]
        middle = samples.mean(axis=1)
        if number > 1:
            rng = np.random.default_rng(seed)
            drawn = rng.multinomial(number, [1 / number] * number, size=len(samples)) / number
            middle = middle + np.sqrt(number / (number - 1)) * (
                (drawn - 1 / number) * (samples - middle[:, None])
            ).sum(axis=1)
        return _estimate(
            float(self.means[columns].mean()),
            middle,
            int(self.num_questions[columns].min()),
            int(self.num_clusters[columns].min()),
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
    known = np.where(np.isnan(values), 0.0, values)
    return Bootstrap(
        means,
        samples,
        totals.astype(np.int64),
        (counts > 0).sum(axis=0),
        sums,
        counts,
        is_share=np.asarray(((known >= 0) & (known <= 1)).all(axis=0)),
        is_binary=np.asarray(((known == 0) | (known == 1)).all(axis=0)),
    )


def share_interval(sums: Values, counts: Values, *, is_binary: bool) -> tuple[float, float]:
    """Return the 95 % interval of a share whose questions come in images.

    Args:
        sums: (images,) of the values, each between 0 and 1.
        counts: (images,) of the questions, at least 1.
        is_binary: the values are 0 or 1, so that images can only add to their variance.

    Returns:
        Low and high end; never a single point.
    """
    images, total = len(sums), float(counts.sum())
    share = float(sums.sum()) / total
    effect = _design_effect(sums, counts, share, is_binary=is_binary)
    # Student's t pays for not knowing how images differ; where they do not, nothing is to be paid.
    unknown = min(1.0, max(0.0, effect - 1)) if is_binary else 1.0
    t = _Z + (student_t(images - 1) - _Z) * unknown
    size = total / effect
    width = 1 + t * t / size
    center = (share + t * t / (2 * size)) / width
    half = t / width * np.sqrt(share * (1 - share) / size + t * t / (4 * size * size))
    # Rounding must not push the share itself out of its interval.
    return max(0.0, min(share, float(center - half))), min(1.0, max(share, float(center + half)))


def _design_effect(sums: Values, counts: Values, share: float, *, is_binary: bool) -> float:
    """Return how many times the variance exceeds that of independent questions."""
    total, images = float(counts.sum()), len(sums)
    binomial = share * (1 - share)
    squares = (sums - share * counts) ** 2 * images / (images - 1)
    if not is_binary:
        if binomial <= 0:
            return 1.0
        return max(_LEAST_EFFECT, float(squares.sum()) / (binomial * total))
    pairs = float((counts * (counts - 1)).sum())
    correlation = 0.0
    if binomial > 0 and pairs:
        correlation = (float(squares.sum()) - binomial * total) / (binomial * pairs)
    events = min(float(sums.sum()), total - float(sums.sum()))
    weight = 1 / (1 + (_PRIOR_EVENTS / events) ** _STEEPNESS) if events else 0.0
    correlation = weight * correlation + (1 - weight) * _PRIOR_CORRELATION
    mean_size = float((counts**2).sum()) / total
    return 1 + (mean_size - 1) * min(1.0, max(0.0, correlation))


def student_t(degrees: int) -> float:
    """Return the 97.5 % point of Student's t, by Cornish and Fisher's expansion.

    It is 0.2 % off at 3 degrees of freedom and exact to four digits from 6 on; fewer than 3 take
    the known values.
    """
    if degrees < 3:
        return {1: 12.7062, 2: 4.3027}.get(degrees, 12.7062)
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + float(sum(term / degrees**power for power, term in enumerate(terms, start=1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down procedure, in their order."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


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
        return Estimate(value=None, num_images=0)
    low = high = None
    if num_clusters > 1:
        known = samples[~np.isnan(samples)]
        low, high = (float(end) for end in np.quantile(known, [_TAIL, 1 - _TAIL]))
    return Estimate(
        value=float(mean),
        low=low,
        high=high,
        num_questions=int(num_questions),
        num_images=int(num_clusters),
    )
