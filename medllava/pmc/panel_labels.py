"""How much a piece of ink looks like a letter: compared with letters drawn in Pillow's own font.

That is no reader of text: it says which of a few expected letters a piece looks like most.
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
