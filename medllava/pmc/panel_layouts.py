"""Ways to cut a figure into as many panels as its caption names.

The surest cut is not always the right one: a chart has whiter bands inside than between it and its
neighbor. So several cuts are tried of each region, the most promising layouts are kept on the way
(a beam search), and where letters are printed they tell which one it is.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medllava.pmc.panel_cuts import FLAT, WHITE, Cut, Gray, find_cuts, trim

Box = tuple[int, int, int, int]
_CUTS = 3
"""Tried along each axis of a region."""
_LAYOUTS = 10
"""Kept after each cut."""
_APART = 0.02
"""Share of the figure by which the cuts that are tried lie apart."""
_REACH = 0.12
"""Share of a region by which a panel may begin before its letter."""
_CROSSED = 0.08
"""Share of a line that may run through ink, such as an arrow from one panel to the next."""
_LETTERED = 0.5
"""Strength of an empty cut before a letter."""


def find_layouts(
    gray: Gray,
    count: int,
    *,
    min_share: float,
    hint: Callable[[Box], float],
    letters: Sequence[Box] = (),
) -> list[tuple[tuple[Box, ...], float]]:
    """Return layouts of so many boxes and the mean strength of their cuts, the likeliest first.

    Args:
        gray: (H, W) gray levels of the figure.
        count: panels.
        min_share: least width and height of a panel, as a share of the figure's.
        hint: how surely a box is a panel, from -1 to 1.
        letters: where one may stand; a panel may begin just before it.
    """
    height, width = gray.shape
    smallest = (min_share * width, min_share * height)
    parts_of: dict[Box, list[tuple[float, Box, Box]]] = {}
    hints: dict[Box, float] = {}

    def look(box: Box) -> float:
        if box not in hints:
            hints[box] = hint(box)
        return hints[box]

    def parts(box: Box) -> list[tuple[float, Box, Box]]:
        if box not in parts_of:
            parts_of[box] = _cut(gray, box, smallest, letters)
        return parts_of[box]

    layouts: dict[tuple[Box, ...], float] = {(trim(gray, (0, 0, width, height)),): 0.0}
    for _ in range(count - 1):
        grown: dict[tuple[Box, ...], float] = {}
        for boxes, strength in layouts.items():
            for box in boxes:
                for sure, first, second in parts(box):
                    key = tuple(sorted([*(b for b in boxes if b != box), first, second]))
                    grown[key] = max(grown.get(key, 0.0), strength + sure)
        ranked = sorted(grown, key=lambda boxes: -(sum(map(look, boxes)) + 0.5 * grown[boxes]))
        layouts = {boxes: grown[boxes] for boxes in ranked[:_LAYOUTS]}
    return [(boxes, strength / max(1, count - 1)) for boxes, strength in layouts.items()]


def _cut(
    gray: Gray, box: Box, smallest: tuple[float, float], letters: Sequence[Box]
) -> list[tuple[float, Box, Box]]:
    """Return the surest cuts of a region along both axes, and what it falls into."""
    left, top, right, bottom = box
    view = gray[top:bottom, left:right]
    found: list[tuple[float, Box, Box]] = []
    for axis, lines in ((1, view), (0, view.T)):
        near = _APART * gray.shape[1 - axis]
        taken: list[int] = []
        spots = [
            letter[axis] - box[axis]
            for letter in letters
            if all(box[side] <= letter[side] < box[side + 2] for side in (0, 1))
        ]
        for cut in (*_apart(find_cuts(lines, smallest[axis]), near), *_before(lines, spots)):
            if any(abs(cut.begin - other) < near for other in taken):
                continue
            first, second = list(box), list(box)
            first[axis + 2] = box[axis] + cut.end
            second[axis] = box[axis] + cut.begin
            parts = [trim(gray, (one[0], one[1], one[2], one[3])) for one in (first, second)]
            if all(
                part[2] - part[0] >= smallest[0] and part[3] - part[1] >= smallest[1]
                for part in parts
            ):
                taken.append(cut.begin)
                found.append((cut.strength, parts[0], parts[1]))
    return found


def _apart(cuts: Sequence[Cut], near: float) -> list[Cut]:
    """Return the surest cuts, none beside a surer one."""
    kept: list[Cut] = []
    for cut in cuts:
        if len(kept) < _CUTS and all(abs(cut.begin - other.begin) >= near for other in kept):
            kept.append(cut)
    return kept


def _before(lines: Gray, spots: Sequence[int]) -> Iterator[Cut]:
    """Yield the emptiest cut before each letter: a panel's own drawing may run into the gap.

    Args:
        lines: (H, W) gray levels of a region.
        spots: lines at which letters begin.
    """
    crossed = (lines < WHITE - FLAT).mean(axis=1)
    reach = max(3, round(_REACH * lines.shape[0]))
    for spot in sorted(set(spots)):
        window = crossed[max(1, spot - reach) : spot + 1]
        if window.size and spot < lines.shape[0]:
            least = float(window.min())
            if least <= _CROSSED:
                line = max(1, spot - reach) + int(np.flatnonzero(window <= least)[-1])
                yield Cut(_LETTERED * (1.0 - least / _CROSSED), line, line)
