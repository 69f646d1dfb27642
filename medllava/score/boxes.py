"""A place in an image: the box that a reply states, and how far it covers the right one.

A reply enters, four fractions leave, or None. Boxes are asked for in thousandths of width and
height; fractions between 0 and 1 are read too.
"""

import re
from collections.abc import Sequence

from medllava.score.final_answer import final_answer

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of width and height."""

HIT = 0.5
"""Intersection over union from which a box counts as found."""

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_BOX = re.compile(rf"{_NUMBER}[\s,;)(]+{_NUMBER}[\s,;)(]+{_NUMBER}[\s,;)(]+{_NUMBER}")
_THOUSANDTHS = 1000


def stated_box(reply: str) -> Box | None:
    """Return the last box of a reply; None if there is none, or its corners are in no order."""
    found = _BOX.findall(final_answer(reply)) or _BOX.findall(reply)
    if not found:
        return None
    numbers = [float(n) for n in found[-1]]
    scale = 1 if max(numbers) <= 1 else _THOUSANDTHS
    left, top, right, bottom = (n / scale for n in numbers)
    if left >= right or top >= bottom or max(right, bottom) > 1:
        return None
    return left, top, right, bottom


def intersection_over_union(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the shared area by the area of both together."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return shared / (areas - shared)
