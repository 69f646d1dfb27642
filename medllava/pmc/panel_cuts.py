"""Where a region of a figure may be cut: along bands of one color, or where photographs touch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FLAT = 16.0
"""Range of a line that counts as one color, in gray levels (JPEG rings about 10)."""
WHITE = 251.0
_SEAM = 0.6
"""Share of a line's stretches on which gray jumps where two photographs touch."""
_STRETCHES = 10
_JUMP = 6.0
"""Least jump of gray that is no noise, averaged over a stretch."""
_ASIDE = 3
"""Lines from a seam at which its two sides are compared."""
_WIDE_GUTTER = 0.04
"""A dark band wider than this share is more than a gutter."""

Gray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a region falls into two along one axis."""

    strength: float
    end: int
    """Where the first piece ends, from the region's edge."""
    begin: int
    """Where the second begins."""


def find_cuts(view: Gray, smallest: float) -> list[Cut]:
    """Return the horizontal cuts through a region, the surest first.

    Args:
        view: (H, W) gray levels, trimmed.
        smallest: lines that a piece must have at least.
    """
    if view.shape[0] < 2 * smallest or min(view.shape) < 2:
        return []
    low, high = view.min(axis=1), view.max(axis=1)
    flat = high - low <= FLAT
    cuts = _seam_cuts(view, smallest)
    for is_color in (low >= WHITE - FLAT, high <= FLAT, (low > FLAT) & (high < WHITE)):
        cuts += _band_cuts(view, flat & is_color, smallest)
    return sorted(cuts, key=lambda cut: -cut.strength)


def _band_cuts(view: Gray, band: NDArray[np.bool_], smallest: float) -> list[Cut]:
    """Return a cut for each gutter: a band of flat lines between two pieces that are no label."""
    height = view.shape[0]
    pieces = _runs(~band)
    solid = [piece for piece in pieces if piece[1] - piece[0] >= 0.5 * smallest]
    cuts = []
    for (start, end), (begin, stop) in pairwise(solid):
        if end < smallest or height - begin < smallest:
            continue
        # What stands between two solid pieces is a label: it goes to the nearer of them.
        between = [piece for piece in pieces if end <= piece[0] and piece[1] <= begin]
        low, high, gap = _widest_gap(end, begin, between)
        background = float(np.median(view[low:high]))
        fill = min(
            _edge_fill(view[start:end][::-1], background), _edge_fill(view[begin:stop], background)
        )
        width = min(1.0, gap / (0.03 * max(view.shape)))
        if background <= FLAT and gap > _WIDE_GUTTER * height:
            # A dark gutter runs into the dark margins of its pictures: each keeps its share.
            middle = (low + high) // 2
            low, high = middle, middle
        cuts.append(Cut(0.6 * fill + 0.3 * width + 0.1 * _balance(low, high, height), low, high))
    return cuts


def _balance(low: int, high: int, height: int) -> float:
    return min(low, height - high) / max(1, low, height - high)


def _widest_gap(end: int, begin: int, between: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Return the widest flat band between two pieces, and how many lines it has."""
    edges = [end, *(edge for piece in between for edge in piece), begin]
    gaps = [(edges[i + 1] - edges[i], edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]
    gap, low, high = max(gaps)
    return low, high, gap


def _edge_fill(piece: Gray, background: float) -> float:
    """Return how much of a piece's first lines is not background: near 1 for a photograph."""
    depth = max(1, min(4, piece.shape[0]))
    return float(np.max(np.mean(np.abs(piece[:depth] - background) > FLAT, axis=1)))


def _seam_cuts(view: Gray, smallest: float) -> list[Cut]:
    """Return a cut for each straight edge right across the region.

    On a seam of two photographs gray jumps more than around it, and does so all along the line; an
    edge inside a photograph does so on a part of the line.
    """
    height, width = view.shape
    if width < _STRETCHES or height < 4 * _ASIDE:
        return []
    jumps = np.abs(np.diff(view, axis=0))
    edges = np.linspace(0, width, _STRETCHES + 1).astype(int)[:-1]
    lengths = np.diff([*edges, width])
    stretches = np.add.reduceat(jumps, edges, axis=1) / lengths  # (H - 1, stretches)
    padded = np.pad(stretches, ((4, 4), (0, 0)), mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 9, axis=0), axis=-1)
    # A thin line, such as a chart's grid, has the same gray on both of its sides.
    apart = np.zeros_like(stretches)
    sides = np.abs(view[2 * _ASIDE + 1 :] - view[: -2 * _ASIDE - 1])
    apart[_ASIDE:-_ASIDE] = np.add.reduceat(sides, edges, axis=1) / lengths
    share = np.mean((stretches > 2.0 * around) & (stretches > _JUMP) & (apart > _JUMP), axis=1)
    cuts = []
    for line in np.flatnonzero(share > _SEAM):
        low = int(line) + 1
        if low >= smallest and height - low >= smallest:
            strength = 0.7 * float(share[line]) + 0.1 * _balance(low, low, height)
            cuts.append(Cut(strength, low, low))
    return cuts


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of True as (first, past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def trim(gray: Gray, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return a region without its white margin; dark margins are kept."""
    left, top, right, bottom = box
    view = gray[top:bottom, left:right]
    rows, columns = _inked_span(view, axis=1), _inked_span(view, axis=0)
    return left + columns[0], top + rows[0], left + columns[1], top + rows[1]


def _inked_span(view: Gray, axis: int) -> tuple[int, int]:
    """Return the first and past-the-last line that is not white."""
    inked = np.flatnonzero(view.min(axis=axis) < WHITE - FLAT)
    return (int(inked[0]), int(inked[-1]) + 1) if inked.size else (0, view.shape[1 - axis])
