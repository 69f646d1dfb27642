"""How often does the 95 % interval of an accuracy hold the true one?

    python tests/benchmarks/eval_intervals.py

Draws 2,000 evaluations per cell: accuracies from 5 to 99 %, the questions per image of VQA-RAD's
and SLAKE's test splits, 53 images of 4 questions, and 20 images, with answers about one image
correlated by 0, 0.1 and 0.3. Prints the share of intervals, in %, that hold the truth.
"""

import numpy as np

from medllava.eval.score.intervals import share_interval

DRAWS = 2_000
ACCURACIES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)


def spread(num_questions: int, num_images: int) -> np.ndarray:
    """Return questions per image, at least one each, the rest at random."""
    rng = np.random.default_rng(5)
    rest = rng.integers(0, num_images, num_questions - num_images)
    return 1 + np.bincount(rest, minlength=num_images)


DESIGNS = {
    "VQA-RAD, 451 on 203": spread(451, 203),
    "SLAKE, 1,061 on 96": spread(1061, 96),
    "53 x 4": np.full(53, 4),
    "20 x 5": np.full(20, 5),
}


def coverage(counts: np.ndarray, accuracy: float, correlation: float, seed: int) -> float:
    """Return the share of intervals that hold the accuracy."""
    rng = np.random.default_rng(seed)
    shares = np.full((DRAWS, len(counts)), accuracy)
    if correlation:
        strength = 1 / correlation - 1
        shares = rng.beta(accuracy * strength, (1 - accuracy) * strength, shares.shape)
    hits = 0
    for sums in rng.binomial(counts, shares).astype(float):
        low, high = share_interval(sums, counts.astype(float), is_binary=True)
        hits += low <= accuracy <= high
    return hits / DRAWS


def main() -> None:
    """Print the table."""
    print(f"{'design':<22}{'corr.':>6}" + "".join(f"{100 * a:>7.0f}" for a in ACCURACIES))
    outside = 0
    for name, counts in DESIGNS.items():
        for correlation in (0.0, 0.1, 0.3):
            row = [100 * coverage(counts, a, correlation, seed=1) for a in ACCURACIES]
            outside += sum(not 93 <= value <= 97 for value in row)
            print(f"{name:<22}{correlation:>6}" + "".join(f"{value:>7.1f}" for value in row))
    print(f"{outside} of {len(DESIGNS) * 3 * len(ACCURACIES)} cells outside 93 to 97 %")


if __name__ == "__main__":
    main()
