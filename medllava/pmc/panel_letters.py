"""Letters that are printed beside panels: where they stand says whether a figure was cut aright.

In print a panel's letter stands alone, in a corner or below the middle. Pieces of ink that stand
alone are compared with drawn letters; how well each panel's own letter fits where letters stand in
that figure is the score of a layout.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medllava.pmc.panel_labels import compare_with_letters

Box: TypeAlias = tuple[int, int, int, int]

_SEARCH_SIDE = 900
"""Longest side of the copy that is searched, in pixels: letters of a page still have 10."""
_DARK, _BRIGHT = 110, 200
_SHORTEST, _TALLEST = 0.009, 0.07
"""Heights of a letter as shares of the longest side."""
_MOST_RUNS = 150_000
"""More pieces of lines than any drawing has: a photograph, in which ink is no print."""
_MOST_GLYPHS = 3_000
"""More than the words of a page: noise, each piece of which would be compared with all others."""
_IN_BRACKETS = 0.15
"""What a bracket behind a letter is worth, beside a likeness of 1."""
_OUTSIDE = 0.05
"""Share of the figure by which a letter may stand outside its panel."""
_CLEARLY, _OWN = 0.03, 0.1
"""By how much letters must fit better down the columns, or in no order, than along the rows."""
_TRIED = 3
"""Pieces tried for each letter."""
_FAR = 0.8
"""What a letter loses by its way from the corner or side, as a share of the figure."""
_ZONES = {
    "upper left": ((-1.0, 0.35), (-1.0, 0.3), (0.0, 0.0)),
    "upper right": ((0.65, 2.0), (-1.0, 0.3), (1.0, 0.0)),
    "above": ((0.3, 0.7), (-1.0, 0.15), (0.5, 0.0)),
    "below": ((0.3, 0.7), (0.85, 2.0), (0.5, 1.0)),
    "lower left": ((-1.0, 0.35), (0.7, 2.0), (0.0, 1.0)),
}
"""Where letters stand, the same in all panels: shares of a panel's width, of its height, and where
exactly."""


class PrintedLetters:
    """The pieces of a figure that may be letters of its panels."""

    def __init__(self, image: Image.Image, labels: Sequence[str]) -> None:
        """Search a figure for the letters that its caption names, in their order."""
        self.labels = tuple(labels)
        small = image.convert("L")
        if max(small.size) > _SEARCH_SIDE:
            small.thumbnail((_SEARCH_SIDE, _SEARCH_SIDE), Image.Resampling.BOX, reducing_gap=None)
        self._scale = image.width / small.width
        self._size = image.size
        gray = np.asarray(small)
        places: list[Box] = []
        likeness = [np.zeros((0, 2, len(labels)))]
        for mask, ink in ((gray < _DARK, 255 - gray), (gray > _BRIGHT, gray)):
            pieces, enclosed = _single_pieces(mask)
            if pieces:
                found = compare_with_letters(
                    [ink[top:bottom, left:right] for left, top, right, bottom in pieces], labels
                )
                likeness.append(found + _IN_BRACKETS * np.array(enclosed)[:, None, None])
                places += pieces
        self._places = np.array(places).reshape(-1, 4) * self._scale
        self._centers = (self._places[:, :2] + self._places[:, 2:]) / 2
        self._likeness = np.concatenate(likeness)

    def match(self, *orders: Sequence[Box]) -> tuple[float, list[Box]]:
        """Return how well letters say that these are the panels, and the boxes in their order.

        Args:
            orders: the same boxes, as many as there are labels, in the figure's pixels, in the
                orders in which they may be lettered; the first unless another is clearly better.
        """
        best = -1.0, list(orders[0])
        boxes = list(orders[0])
        known = [[boxes.index(box) for box in order] for order in orders]
        count = range(len(boxes))
        for zone in _ZONES:
            fits = self._fits(boxes, zone)  # (boxes, case, labels)
            for case in range(2):
                own = [int(fits[:, case, label].argmax()) for label in count]
                for order, handicap in (
                    *((o, _CLEARLY * bool(n)) for n, o in enumerate(known)),
                    (own, _OWN),
                ):
                    if len(set(order)) == len(boxes):
                        score = float(np.mean([fits[order[n], case, n] for n in count])) - handicap
                        if score > best[0]:
                            best = score, [boxes[n] for n in order]
        return best

    def likeliest(self) -> list[Box]:
        """Return the pieces that look most like one of the letters, a few for each."""
        best = self._likeness.max(axis=1)  # (pieces, labels)
        numbers = {int(n) for label in best.T for n in np.argsort(-label)[:_TRIED]}
        return [
            (round(left), round(top), round(right), round(bottom))
            for left, top, right, bottom in self._places[sorted(numbers)].tolist()
        ]

    def hint(self, box: Box) -> float:
        """Return how surely any of the letters stands at a box."""
        return max(float(self._fits([box], zone).max(initial=-1.0)) for zone in _ZONES)

    def _fits(self, boxes: Sequence[Box], zone: str) -> NDArray[np.float64]:
        """Return how much each letter is found in a zone of each box, as (boxes, 2, labels).

        A letter inside one panel is not another's; farther from the corner or side it counts less.
        """
        fits = np.full((len(boxes), 2, len(self.labels)), -1.0)
        (first_x, last_x), (first_y, last_y), anchor = _ZONES[zone]
        x, y = self._centers[:, 0], self._centers[:, 1]
        aside_x, aside_y = (_OUTSIDE * side for side in self._size)
        within = np.array(
            [
                (x > left) & (x < right) & (y > top) & (y < bottom)
                for left, top, right, bottom in boxes
            ]
        )
        for n, (left, top, right, bottom) in enumerate(boxes):
            width, height = right - left, bottom - top
            near = within[n] | ~within.any(axis=0)
            near &= (x > max(left - aside_x, left + first_x * width)) & (x < right + aside_x)
            near &= x < left + last_x * width + (aside_x if last_x >= 1 else 0)
            near &= (y > max(top - aside_y, top + first_y * height)) & (y < bottom + aside_y)
            near &= y < top + last_y * height + (aside_y if last_y >= 1 else 0)
            if near.any():
                away = np.abs(x - left - anchor[0] * width) / self._size[0]
                away += np.abs(y - top - anchor[1] * height) / self._size[1]
                likeness = self._likeness - _FAR * away[:, None, None]
                fits[n] = likeness[near].max(axis=0)
        return fits


def _single_pieces(mask: NDArray[np.bool_]) -> tuple[list[Box], list[bool]]:
    """Return the boxes of pieces that may be a letter on its own, and which stand in brackets."""
    side = max(mask.shape)
    shortest, tallest = max(6.0, _SHORTEST * side), _TALLEST * side
    boxes = _connected(mask)
    if not boxes.size:
        return [], []
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    is_glyph = (heights >= 0.4 * shortest) & (heights <= 1.6 * tallest) & (widths <= 1.6 * tallest)
    glyphs = boxes[is_glyph]
    if len(glyphs) > _MOST_GLYPHS:
        return [], []
    widths, heights = glyphs[:, 2] - glyphs[:, 0], glyphs[:, 3] - glyphs[:, 1]
    is_letter = (heights >= shortest) & (heights <= tallest) & (widths <= 1.5 * heights)
    is_bracket = widths <= 0.45 * heights
    found: list[Box] = []
    enclosed: list[bool] = []
    for index in np.flatnonzero(is_letter):
        left, top, right, bottom = glyphs[index]
        height = bottom - top
        beside = (glyphs[:, 1] < bottom) & (glyphs[:, 3] > top) & (heights > 0.5 * height)
        beside &= heights < 2.0 * height
        gap = np.maximum(glyphs[:, 0] - right, left - glyphs[:, 2])
        beside &= gap < 0.45 * height
        beside[index] = False
        if not (beside & ~is_bracket).any():
            found.append((int(left), int(top), int(right), int(bottom)))
            brackets = glyphs[beside & is_bracket]
            enclosed.append(bool((brackets[:, 0] >= right - 1).any()))
    return found, enclosed


def _connected(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (pieces, 4) boxes of the 8-connected pieces, found by runs of whole lines at once."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    if not rows.size or rows.size > _MOST_RUNS:
        return np.zeros((0, 4), dtype=np.int64)
    step = width + 2
    # Of the line above, the runs that end after this one begins and begin before it ends.
    first = np.searchsorted(rows * step + ends, (rows - 1) * step + starts, side="left")
    last = np.searchsorted(rows * step + starts, (rows - 1) * step + ends, side="right")
    counts = np.maximum(0, last - first)
    lower = np.repeat(np.arange(rows.size), counts)
    offsets = np.arange(lower.size) - np.repeat(np.cumsum(counts) - counts, counts)
    upper = first[lower] + offsets
    names = np.arange(rows.size)
    while True:
        least = np.minimum(names[lower], names[upper])
        renamed = names.copy()
        np.minimum.at(renamed, lower, least)
        np.minimum.at(renamed, upper, least)
        np.minimum.at(renamed, names, renamed)
        renamed = renamed[renamed]
        if (renamed == names).all():
            break
        names = renamed
    _, piece = np.unique(names, return_inverse=True)
    boxes = np.empty((int(piece.max()) + 1, 4), dtype=np.int64)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(boxes[:, 0], piece, starts)
    np.minimum.at(boxes[:, 1], piece, rows)
    np.maximum.at(boxes[:, 2], piece, ends)
    np.maximum.at(boxes[:, 3], piece, rows + 1)
    return boxes
