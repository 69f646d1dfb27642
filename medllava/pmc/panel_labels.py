"""How much a piece of ink looks like a letter: compared with letters drawn in Pillow's own font.

That is no reader of text: it says which of a few expected letters a piece looks like most. On a
photograph, where ink does not stand alone, only the corners of panels that are known are searched.
"""

import string
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SIDE = 16
_SIGNS = string.ascii_lowercase + string.digits
_STROKES = (0, 2, 4)
"""Widths by which print is bolder than the font, of a letter 48 pixels high."""
_BRIGHT, _DARK = 190, 70
_REACH = 0.30
"""Share of a panel, from its upper left corner, in which a label stands."""
_MARGIN = 40
"""Pixels outside the panel in which a label stands."""
_SMALLEST, _LARGEST = 8, 80
"""Heights of a letter in pixels."""


def compare_with_letters(
    pieces: Sequence[NDArray[np.uint8]], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Return how much pictures of one piece of ink each look like letters, and like no other sign.

    Args:
        pieces: ink in gray levels, 0 where there is none, cut to its edges.
        labels: letters, whatever their case.

    Returns:
        (pieces, 2, labels), with upper and with lower case: the correlation with the letter, less
        what the likest other letter or digit is above it.
    """
    templates = np.stack([_draw_printed(sign) for sign in _SIGNS])  # (signs, 2, forms, pixels)
    squares = np.stack([_into_square(piece) for piece in pieces])
    likeness = np.einsum("scfp,kp->kcsf", templates, squares).max(axis=-1)
    wanted: NDArray[np.float64] = likeness[:, :, [_SIGNS.index(label.lower()) for label in labels]]
    best = likeness.max(axis=(1, 2))
    distinct: NDArray[np.float64] = 2.0 * wanted - best[:, None, None]
    return distinct


@lru_cache(maxsize=256)
def _draw_printed(label: str) -> NDArray[np.float64]:
    """Return a letter's upper and lower case, in light and in bold print, as (2, forms, pixels)."""
    font = ImageFont.load_default(48)
    drawn = []
    for text in (label.upper(), label.lower()):
        for stroke in _STROKES:
            canvas = Image.new("L", (96, 96))
            ImageDraw.Draw(canvas).text((20, 16), text, font=font, fill=255, stroke_width=stroke)
            drawn.append(_into_square(np.asarray(canvas.crop(canvas.getbbox()))))
    return np.stack(drawn).reshape(2, len(_STROKES), -1)


def _into_square(ink: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a piece in the middle of a square of `_SIDE` pixels, flattened, mean 0, length 1."""
    height, width = ink.shape
    side = max(height, width)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = ink
    small = Image.fromarray(square).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float64).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values)) or 1.0
    unit: NDArray[np.float64] = values / length
    return unit


def score_labels(
    image: Image.Image, boxes: Sequence[tuple[int, int, int, int]], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Return how much the ink in each panel's corner looks like each label.

    Returns:
        (panels, labels) correlations from -1 to 1; 0 where no ink was found.
    """
    gray = image.convert("L")
    templates = np.stack([_draw_letter(label) for label in labels])  # (labels, 2, pixels)
    scores = np.zeros((len(boxes), len(labels)))
    for index, (left, top, right, bottom) in enumerate(boxes):
        corner = (
            max(0, left - _MARGIN),
            max(0, top - _MARGIN),
            left + int(_REACH * (right - left)),
            top + int(_REACH * (bottom - top)),
        )
        pieces = _ink_pieces(np.asarray(gray.crop(corner)))
        if pieces:
            likeness = np.einsum("lcp,kp->klc", templates, np.stack(pieces))
            scores[index] = likeness.max(axis=(0, 2))
    return scores


@lru_cache(maxsize=256)
def _draw_letter(label: str) -> NDArray[np.float64]:
    """Return a letter's upper and lower case as (2, pixels), each with mean 0 and length 1."""
    font = ImageFont.load_default(48)
    drawn = []
    for text in (label.upper(), label.lower()):
        canvas = Image.new("L", (48 * (len(text) + 1), 80))
        ImageDraw.Draw(canvas).text((8, 8), text, font=font, fill=255)
        drawn.append(_normalize(np.asarray(canvas) > 127))
    return np.stack(drawn)


def _normalize(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a piece of ink in a square of `_SIDE` pixels, flattened, mean 0 and length 1."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    ink = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(ink.shape)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink * 255
    small = Image.fromarray(square).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).ravel()
    values -= values.mean()
    return values / (np.linalg.norm(values) or 1.0)


def _ink_pieces(gray: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Return the connected pieces of bright and of dark ink that have a letter's size."""
    pieces = []
    for mask in (gray > _BRIGHT, gray < _DARK):
        for top, left, bottom, right, piece in _connected(mask):
            height, width = bottom - top, right - left
            touches_edge = top == 0 or left == 0 or bottom == mask.shape[0]
            if _SMALLEST <= height <= _LARGEST and width <= 1.4 * height and not touches_edge:
                pieces.append(_normalize(piece))
    return pieces


def _connected(
    mask: NDArray[np.bool_],
) -> list[tuple[int, int, int, int, NDArray[np.bool_]]]:
    """Return each 8-connected piece as (top, left, bottom, right, its own mask)."""
    parent: list[int] = []
    runs: list[tuple[int, int, int]] = []  # row, first column, past the last
    previous: list[int] = []

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.view(np.int8), [0])))).tolist()
        current = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            number = len(runs)
            runs.append((row, start, end))
            parent.append(number)
            for other in previous:
                if runs[other][1] <= end and start <= runs[other][2]:
                    parent[find(other)] = find(number)
            current.append(number)
        previous = current
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(find(number), []).append(run)
    return [_cut_out(group) for group in groups.values() if len(group) >= _SMALLEST]


def _cut_out(
    runs: Sequence[tuple[int, int, int]],
) -> tuple[int, int, int, int, NDArray[np.bool_]]:
    top, bottom = min(r[0] for r in runs), max(r[0] for r in runs) + 1
    left, right = min(r[1] for r in runs), max(r[2] for r in runs)
    piece = np.zeros((bottom - top, right - left), dtype=bool)
    for row, start, end in runs:
        piece[row - top, start - left : end - left] = True
    return top, left, bottom, right, piece
