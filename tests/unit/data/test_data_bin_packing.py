"""Bins: everything once, nothing too full, and nearly as few as the bound allows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllava.data.bin_packing import fewest_bins, fill_bins


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_every_example_is_in_one_bin_that_holds_it(sizes: list[int], capacity: int) -> None:
    lengths = np.array(sizes)
    bins = fill_bins(lengths, range(len(sizes)), capacity=capacity)
    assert sorted(e for members in bins for e in members) == list(range(len(sizes)))
    assert max(sum(sizes[e] for e in members) for members in bins) <= capacity
    assert len(bins) >= fewest_bins(lengths, capacity=capacity)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 20), min_size=1, max_size=7))
def test_the_bound_is_one(sizes: list[int]) -> None:
    def best(left: list[int], rooms: list[int]) -> int:
        if not left:
            return len(rooms)
        first, rest = left[0], left[1:]
        options = [len(sizes)]
        for i, room in enumerate(rooms):
            if room >= first:
                options.append(best(rest, [*rooms[:i], room - first, *rooms[i + 1 :]]))
        options.append(best(rest, [*rooms, 20 - first]))
        return min(options)

    assert fewest_bins(np.array(sizes), capacity=20) <= best(sizes, [])


def captions(count: int, median: float, spread: float) -> np.ndarray:
    """Lengths of one 576-token image with text of a long-tailed length."""
    random = np.random.default_rng(1)
    text = np.exp(random.normal(math.log(median), spread, count)).astype(int)
    return text.clip(24, 2048 - 576) + 576


@pytest.mark.parametrize(
    ("median", "spread", "capacity", "at_least"),
    [
        (95, 0.7, 2048, 0.975),  # LLaVA-Med's captions; 98.5 % over 20,000 of them
        (95, 0.7, 8192, 0.985),
        (290, 0.5, 8192, 0.985),  # its conversations
    ],
)
def test_captions_and_conversations_leave_little_room(
    median: float, spread: float, capacity: int, at_least: float
) -> None:
    lengths = captions(4000, median, spread)
    bins = fill_bins(lengths, range(len(lengths)), capacity=capacity)
    assert lengths.sum() / (len(bins) * capacity) >= at_least


def test_conversations_in_short_bins_come_near_to_what_is_possible() -> None:
    # Two of 900 tokens leave a hole of 248, which no third example of 600 can fill.
    lengths = captions(4000, 290, 0.5)
    bins = fill_bins(lengths, range(len(lengths)), capacity=2048)
    assert len(bins) <= 1.03 * fewest_bins(lengths, capacity=2048)


def test_the_order_decides_among_equals_and_nothing_else_does() -> None:
    lengths = np.array([5, 5, 5, 5, 9])
    assert fill_bins(lengths, [0, 1, 2, 3, 4], capacity=10) == fill_bins(
        lengths, [0, 1, 2, 3, 4], capacity=10
    )
    first = fill_bins(lengths, [3, 2, 1, 0, 4], capacity=10)
    assert sorted(map(sorted, first)) == [[0, 1], [2, 3], [4]]
