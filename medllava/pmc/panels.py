"""A compound figure becomes its panels: boxes in the picture, in reading order.

Panels are parted by gutters (bands of one color across a region) or by nothing but a straight seam
where two photographs touch. The picture is cut along them again and again, the surest cut first (a
recursive X-Y cut, Nagy and Seth 1984), which gives a tree. How many panels the caption names
decides how deep the tree is read; without that number only cuts between two dense pictures count,
so that a chart is not taken apart at its legend. An inset stays in its panel.

Everything is done on a gray copy of at most `WORK_SIDE` pixels; boxes are in the picture's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medllava.pmc.panel_captions import MAX_PANELS, split_caption
from medllava.pmc.panel_labels import score_labels

WORK_SIDE = 512
"""Longest side of the copy that is searched, in pixels: a gutter of 0.4 % still has two."""
SURE = 0.72
"""Strength from which a cut counts where the caption gives no number."""
_POSSIBLE = 0.12
"""Weakest cut that is taken to reach the caption's number."""
_FLAT = 16.0
"""Range of a line that counts as one color, in gray levels (JPEG rings about 10)."""
_MIN_SHARE = 0.07
"""A piece narrower than this share of the picture is a label or a title, no panel."""
_SEAM = 0.6
"""Share of a line's stretches on which gray jumps where two photographs touch."""
_STRETCHES = 10
_JUMP = 6.0
"""Least jump of gray that is no noise, averaged over a stretch."""
_ASIDE = 3
"""Lines from a seam at which its two sides are compared."""
_WHITE = 251.0
_WEAK = 0.45
"""Cuts weaker than this may be edges inside a picture."""
_NEAR = 0.025
"""Share of the picture by which an edge may miss a line of a grid."""
_POINTS_TO_GRID = 0.7
_CLEARLY = 0.03
"""Mean likeness by which letters down the columns must fit better than along the rows."""
_WIDE_GUTTER = 0.04
"""A dark band wider than this share is more than a gutter."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""
Gray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelBoxes:
    """What was found in one picture."""

    boxes: tuple[Box, ...]
    """In reading order: rows from above, each from the left. One box where nothing was cut."""
    confidence: float
    """0 to 1: the weakest accepted cut, lowered where the count is not the caption's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel of a figure."""

    box: Box
    label: str
    """As the caption prints it, without brackets; empty where the caption names none."""
    caption: str
    """The caption's lead and the panel's own part; the whole caption without labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFigure:
    """A figure's panels; one, with the whole caption, where nothing could be parted."""

    panels: tuple[Panel, ...]
    confidence: float
    named: int
    """Panels that the caption names."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a region falls into two along one axis."""

    strength: float
    end: int
    """Where the first piece ends, from the region's edge."""
    begin: int
    """Where the second begins."""


@dataclass(slots=True)
class _Region:
    """A piece of the working copy and the surest cut through it."""

    box: Box
    strength: float = 0.0
    parts: "tuple[_Region, ...] | None" = None

    def cut_at(self, cut: _Cut, axis: int) -> None:
        """Fall into two along `axis` (0 = x, 1 = y)."""
        first, second = list(self.box), list(self.box)
        first[axis + 2] = self.box[axis] + cut.end
        second[axis] = self.box[axis] + cut.begin
        self.strength = cut.strength
        self.parts = (_Region(_box(first)), _Region(_box(second)))


def _box(values: Sequence[int]) -> Box:
    left, top, right, bottom = values
    return left, top, right, bottom


def find_panels(image: Image.Image, *, expected: int | None = None) -> PanelBoxes:
    """Return the boxes of a figure's panels.

    Args:
        image: the whole figure, gray or RGB.
        expected: how many panels the caption names; None if it names none.
    """
    small = image.convert("L")
    if max(small.size) > WORK_SIDE:
        small.thumbnail((WORK_SIDE, WORK_SIDE), Image.Resampling.BOX, reducing_gap=None)
    gray = np.asarray(small, dtype=np.float32)
    height, width = gray.shape
    root = _grow(gray, (0, 0, width, height), smallest=(_MIN_SHARE * width, _MIN_SHARE * height))
    leaves, weakest, next_cut = _read(root, expected)
    found = [leaf.box for leaf in leaves]
    confidence = weakest - (0.5 * next_cut if expected is None else 0.0)
    if expected is not None and (len(found) != max(1, expected) or weakest < _WEAK):
        confidence *= 0.5
        found = _complete_grid(root.box, found, expected)
    scale_x, scale_y = image.width / width, image.height / height
    return PanelBoxes(
        boxes=tuple(
            (
                round(left * scale_x),
                round(top * scale_y),
                round(right * scale_x),
                round(bottom * scale_y),
            )
            for left, top, right, bottom in order_boxes(found)
        ),
        confidence=float(np.clip(confidence, 0.0, 1.0)),
    )


def split_figure(image: Image.Image, caption: str) -> SplitFigure:
    """Return a figure's panels, each with its part of the caption.

    Labels are given only where as many boxes were found as the caption names panels.
    """
    captions = split_caption(caption)
    labels = list(captions.parts)
    expected = len(labels) if 0 < len(labels) <= MAX_PANELS else None
    found = find_panels(image, expected=expected)
    if len(found.boxes) != len(labels):
        labels = [""] * len(found.boxes)
    boxes = _order_by_labels(image, found.boxes, labels)
    return SplitFigure(
        panels=tuple(
            Panel(box=box, label=label, caption=captions.text(label) if label else caption)
            for box, label in zip(boxes, labels, strict=True)
        ),
        confidence=found.confidence,
        named=len(captions.parts),
    )


def _order_by_labels(
    image: Image.Image, boxes: Sequence[Box], labels: Sequence[str]
) -> Sequence[Box]:
    """Return boxes by rows, or by columns where the printed letters say so."""
    by_columns = order_boxes(boxes, columns_first=True)
    if by_columns == list(boxes) or not all(len(label) == 1 for label in labels):
        return boxes
    scores = score_labels(image, boxes, labels)
    rows = float(np.trace(scores))
    columns = float(sum(scores[boxes.index(box), i] for i, box in enumerate(by_columns)))
    # Figures are lettered by rows unless it can be read that this one is not.
    return by_columns if columns - rows > _CLEARLY * len(boxes) else boxes


def order_boxes(boxes: Sequence[Box], *, columns_first: bool = False) -> list[Box]:
    """Return boxes in reading order: rows from above, or columns from the left.

    The set is parted by a line that no box crosses, along the wanted axis if there is one, and
    each part is ordered in the same way.
    """
    if len(boxes) < 2:
        return list(boxes)
    axes = (0, 1) if columns_first else (1, 0)
    for axis in axes:
        groups = _part(boxes, axis)
        if len(groups) > 1:
            return [
                box for group in groups for box in order_boxes(group, columns_first=columns_first)
            ]
    return sorted(boxes, key=lambda box: (box[1], box[0]))


def _part(boxes: Sequence[Box], axis: int) -> list[list[Box]]:
    """Group boxes whose extents along `axis` (0 = x, 1 = y) overlap by more than a sliver."""
    groups: list[list[Box]] = []
    reach = -1.0
    for box in sorted(boxes, key=lambda box: box[axis]):
        sliver = 0.15 * (box[axis + 2] - box[axis])
        if groups and box[axis] < reach - sliver:
            groups[-1].append(box)
            reach = max(reach, box[axis + 2])
        else:
            groups.append([box])
            reach = box[axis + 2]
    return groups


def _read(root: _Region, expected: int | None) -> tuple[list[_Region], float, float]:
    """Return the leaves, the weakest accepted cut, and the strongest that was left."""
    leaves, weakest = [root], 1.0
    while True:
        best = max(leaves, key=_promise)
        enough = expected is not None and len(leaves) >= max(1, expected)
        floor = SURE if expected is None else _POSSIBLE
        if best.parts is None or enough or _promise(best) < floor:
            return leaves, weakest, _promise(best)
        weakest = min(weakest, best.strength)
        leaves.remove(best)
        leaves += best.parts


def _promise(region: _Region) -> float:
    """Return the strongest cut at or below a region: a weak one may lead to strong ones."""
    if region.parts is None:
        return 0.0
    return max(region.strength, *(0.95 * _promise(part) for part in region.parts))


def _complete_grid(whole: Box, found: Sequence[Box], expected: int) -> list[Box]:
    """Return the regular grid of `expected` cells that the found edges point to.

    Dark pictures that touch have no edge to see; their neighbors tell where it must be. The grid on
    whose inner lines the largest length of found edges lies is taken if it is most of that length
    and a real share of the grid's own lines; else what was found is returned.
    """
    left, top, right, bottom = whole
    best, best_share = list(found), _POINTS_TO_GRID
    for rows in range(1, expected + 1):
        columns = expected // rows
        if rows * columns != expected:
            continue
        xs = np.linspace(left, right, columns + 1)
        ys = np.linspace(top, bottom, rows + 1)
        inner = explained = 0.0
        for box in found:
            for i, (lines, near) in enumerate(((xs, right - left), (ys, bottom - top)) * 2):
                off = np.abs(box[i] - lines)
                if min(off[0], off[-1]) <= _NEAR * near:
                    continue  # on the picture's own border, which every grid has
                length = box[3 - i % 2] - box[1 - i % 2]
                inner += length
                explained += length * bool(off.min() <= _NEAR * near)
        drawn = 2 * ((columns - 1) * (bottom - top) + (rows - 1) * (right - left))
        share = explained / inner if inner else 0.0
        if share > best_share and explained > 0.4 * drawn:
            best_share = share
            best = [
                _box([round(float(v)) for v in (xs[c], ys[r], xs[c + 1], ys[r + 1])])
                for r in range(rows)
                for c in range(columns)
            ]
    return best


def _grow(gray: Gray, box: Box, *, smallest: tuple[float, float]) -> _Region:
    """Return the tree of cuts below a region, each region trimmed of its white margin."""
    left, top, right, bottom = box
    view = gray[top:bottom, left:right]
    rows, columns = _inked_span(view, axis=1), _inked_span(view, axis=0)
    box = (left + columns[0], top + rows[0], left + columns[1], top + rows[1])
    left, top, right, bottom = box
    view = gray[top:bottom, left:right]
    region = _Region(box)
    across = _find_cut(view, smallest[1])
    down = _find_cut(view.T, smallest[0])
    cut = max(across, down, key=lambda cut: cut.strength)
    if cut.strength > 0:
        region.cut_at(cut, axis=1 if cut is across else 0)
        assert region.parts is not None  # noqa: S101 - for the type checker: `cut_at` set it
        region.parts = tuple(_grow(gray, part.box, smallest=smallest) for part in region.parts)
    return region


def _inked_span(view: Gray, axis: int) -> tuple[int, int]:
    """Return the first and past-the-last line that is not white; dark margins are kept."""
    inked = np.flatnonzero(view.min(axis=axis) < _WHITE - _FLAT)
    return (int(inked[0]), int(inked[-1]) + 1) if inked.size else (0, view.shape[1 - axis])


def _find_cut(view: Gray, smallest: float) -> _Cut:
    """Return the surest horizontal cut; strength 0 where there is none.

    Args:
        view: (H, W) gray levels, trimmed.
        smallest: lines that a piece must have at least.
    """
    if view.shape[0] < 2 * smallest or min(view.shape) < 2:
        return _Cut(0.0, 0, 0)
    low, high = view.min(axis=1), view.max(axis=1)
    flat = high - low <= _FLAT
    cuts = _seam_cuts(view, smallest)
    for is_color in (low >= _WHITE - _FLAT, high <= _FLAT, (low > _FLAT) & (high < _WHITE)):
        cuts += _band_cuts(view, flat & is_color, smallest)
    return max(cuts, key=lambda cut: cut.strength, default=_Cut(0.0, 0, 0))


def _band_cuts(view: Gray, band: NDArray[np.bool_], smallest: float) -> list[_Cut]:
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
        if background <= _FLAT and gap > _WIDE_GUTTER * height:
            # A dark gutter runs into the dark margins of its pictures: each keeps its share.
            middle = (low + high) // 2
            low, high = middle, middle
        cuts.append(_Cut(0.6 * fill + 0.3 * width + 0.1 * _balance(low, high, height), low, high))
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
    return float(np.max(np.mean(np.abs(piece[:depth] - background) > _FLAT, axis=1)))


def _seam_cuts(view: Gray, smallest: float) -> list[_Cut]:
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
            cuts.append(_Cut(strength, low, low))
    return cuts


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of True as (first, past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
