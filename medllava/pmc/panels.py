"""A compound figure becomes its panels: boxes in the picture, in reading order.

Panels are parted by gutters (bands of one color across a region) or by nothing but a straight seam
where two photographs touch. The picture is cut along them again and again, the surest cut first (a
recursive X-Y cut, Nagy and Seth 1984), which gives a tree. How many panels the caption names
decides how deep the tree is read; without that number only cuts between two dense pictures count,
so that a chart is not taken apart at its legend. An inset stays in its panel. Printed letters tell
which of several ways to cut is right (`panel_layouts`, `panel_letters`).

Everything is done on a gray copy of at most `WORK_SIDE` pixels; boxes are in the picture's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medllava.pmc.panel_captions import MAX_PANELS, split_caption
from medllava.pmc.panel_cuts import Cut, Gray, find_cuts, trim
from medllava.pmc.panel_labels import score_labels
from medllava.pmc.panel_layouts import find_layouts
from medllava.pmc.panel_letters import PrintedLetters

WORK_SIDE = 512
"""Longest side of the copy that is searched, in pixels: a gutter of 0.4 % still has two."""
SURE = 0.72
"""Strength from which a cut counts where the caption gives no number."""
_POSSIBLE = 0.12
"""Weakest cut that is taken to reach the caption's number."""
_MIN_SHARE = 0.07
"""A piece narrower than this share of the picture is a label or a title, no panel."""
_WEAK = 0.45
"""Cuts weaker than this may be edges inside a picture."""
_NEAR = 0.025
"""Share of the picture by which an edge may miss a line of a grid."""
_POINTS_TO_GRID = 0.7
_ENOUGH = 0.75
"""Strength of cuts, or score of their letters, from which no other layout is looked for."""
_CONFIRMED = 0.6
"""Score of a layout's letters from which it is believed."""
_PLACES = {
    0: {"left", "middle", "center", "centre", "right"},
    1: {"top", "upper", "middle", "bottom", "lower"},
}
"""Labels that say along which axis panels follow each other."""
_LIES_SO = 0.5
"""Confidence of a layout that nothing but its place confirms."""
_MOST_TRIED = 14
"""Panels up to which other layouts are looked for: the time grows with their square."""
_CLEARLY = 0.03
"""Mean likeness by which letters down the columns must fit better than along the rows."""
_OF_STRENGTH = 0.3
"""What the strength of cuts counts beside what letters say."""
_UNCONFIRMED = 0.45
"""What confidence loses where letters are named and cannot be read."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


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


@dataclass(slots=True)
class _Region:
    """A piece of the working copy and the surest cut through it."""

    box: Box
    strength: float = 0.0
    parts: "tuple[_Region, ...] | None" = None

    def cut_at(self, cut: Cut, axis: int) -> None:
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
    gray = _gray_copy(image)
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

    Labels are given only where as many boxes were found as the caption names panels. Where they are
    letters, those that are printed decide which cuts are right and which panel is whose.
    """
    captions = split_caption(caption)
    labels = list(captions.parts)
    expected = len(labels) if 0 < len(labels) <= MAX_PANELS else None
    found = find_panels(image, expected=expected)
    boxes, confidence = list(found.boxes), found.confidence
    if expected is not None and expected > 1:
        ask = _ask_letters if all(len(label) == 1 for label in labels) else _ask_places
        boxes, confidence = ask(image, found, labels)
    if len(boxes) != len(labels):
        labels = [""] * len(boxes)
    return SplitFigure(
        panels=tuple(
            Panel(box=box, label=label, caption=captions.text(label) if label else caption)
            for box, label in zip(boxes, labels, strict=True)
        ),
        confidence=confidence,
        named=len(captions.parts),
    )


def _ask_letters(
    image: Image.Image, found: PanelBoxes, labels: Sequence[str]
) -> tuple[list[Box], float]:
    """Return the layout that the printed letters confirm, in their order, and how surely.

    Without letters that can be read the surest cuts are left, which are often wrong in charts: they
    lose confidence.
    """
    letters = PrintedLetters(image, labels)
    best, best_boxes = -1.0, list(found.boxes)
    if len(found.boxes) == len(labels):
        best, best_boxes = _match(letters, found.boxes)
        if best >= _CONFIRMED and max(best, found.confidence) >= _ENOUGH:
            return best_boxes, max(found.confidence, best)
        if found.confidence >= SURE:
            boxes = _order_by_labels(image, found.boxes, labels)
            return list(boxes), found.confidence - _UNCONFIRMED
    if len(labels) > _MOST_TRIED:
        return list(found.boxes), max(0.0, found.confidence - _UNCONFIRMED)
    gray = _gray_copy(image)
    scale = image.width / gray.shape[1]

    def hint(box: Box) -> float:
        return letters.hint(_scaled(box, scale))

    layouts = find_layouts(
        gray,
        len(labels),
        min_share=_MIN_SHARE,
        hint=hint,
        letters=[_scaled(place, 1 / scale) for place in letters.likeliest()],
    )
    best_rank = best + _OF_STRENGTH * found.confidence
    for layout, strength in layouts:
        score, boxes = _match(letters, [_scaled(box, scale) for box in layout])
        if score + _OF_STRENGTH * strength > best_rank:
            best, best_boxes, best_rank = score, boxes, score + _OF_STRENGTH * strength
    if best >= _CONFIRMED:
        return best_boxes, best
    return list(found.boxes), max(0.0, found.confidence - _UNCONFIRMED)


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


def _match(letters: PrintedLetters, boxes: Sequence[Box]) -> tuple[float, list[Box]]:
    """Return how well boxes fit the letters, by rows or by columns, and the boxes in that order."""
    return letters.match(order_boxes(boxes), order_boxes(boxes, columns_first=True))


def _ask_places(
    image: Image.Image, found: PanelBoxes, labels: Sequence[str]
) -> tuple[list[Box], float]:
    """Return the layout that lies as the caption says: left beside right, upper above lower."""
    axis = next((axis for axis, names in _PLACES.items() if set(labels) <= names), None)
    if axis is None or _are_in_line(found.boxes, axis):
        return list(found.boxes), found.confidence
    gray = _gray_copy(image)
    scale = image.width / gray.shape[1]
    for layout, _ in find_layouts(gray, len(labels), min_share=_MIN_SHARE, hint=lambda _: 0.0):
        boxes = sorted((_scaled(box, scale) for box in layout), key=lambda box: box[axis])
        if _are_in_line(boxes, axis):
            return boxes, _LIES_SO
    return list(found.boxes), 0.0


def _are_in_line(boxes: Sequence[Box], axis: int) -> bool:
    """Tell whether boxes follow each other along `axis` (0 = x, 1 = y) and share the other."""
    return len(_part(boxes, axis)) == len(boxes) and len(_part(boxes, 1 - axis)) == 1


def _scaled(box: Box, scale: float) -> Box:
    return _box([round(value * scale) for value in box])


def _gray_copy(image: Image.Image) -> Gray:
    """Return the gray copy that is searched, no larger than `WORK_SIDE`."""
    small = image.convert("L")
    if max(small.size) > WORK_SIDE:
        small.thumbnail((WORK_SIDE, WORK_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(small, dtype=np.float32)


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
    region = _Region(trim(gray, box))
    left, top, right, bottom = region.box
    view = gray[top:bottom, left:right]
    across, down = find_cuts(view, smallest[1])[:1], find_cuts(view.T, smallest[0])[:1]
    cut = max([*across, *down], key=lambda cut: cut.strength, default=None)
    if cut is not None and cut.strength > 0:
        region.cut_at(cut, axis=1 if across and cut is across[0] else 0)
        assert region.parts is not None  # noqa: S101 - for the type checker: `cut_at` set it
        region.parts = tuple(_grow(gray, part.box, smallest=smallest) for part in region.parts)
    return region
