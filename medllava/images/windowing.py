"""Measured values to gray levels: the one place where a window becomes eight bits.

16-bit files, DICOM and NIfTI hold what a device measured, not what a screen shows. All of them end
here, so every door shows the same picture. Whole numbers are looked up in a table with one entry
per value, so a picture of 89 million pixels costs its own size and not eight copies of it in
floating point; other numbers are computed a few rows at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
Gray = npt.NDArray[np.uint8]
Curve = Callable[[Floats], Floats]
"""Values in the file's units to brightness from 0 to 1, of the same shape."""

Window = tuple[float, float]
"""Center and width, in the file's own units (Hounsfield for CT)."""

_PERCENTILES = (0.5, 99.5)
_TABLE_ENTRIES = 2**17
"""A wider range of whole numbers is computed like measured ones."""
_BLOCK_VALUES = 2**20


def linear(window: Window) -> Curve:
    """Return the ramp of DICOM's LINEAR: half a unit down and a unit narrower, a step at width 1.

    Source: DICOM PS3.3 C.11.2.1.2.1.
    """
    center, width = window
    if width < 1:  # not allowed, but files in small units have it and mean the plain ramp
        return linear_exact(window)
    if width == 1:
        return lambda values: (values > center - 0.5).astype(np.float64)
    return _ramp(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def linear_exact(window: Window) -> Curve:
    """Return the ramp from half a width below the center to half a width above it.

    Source: DICOM PS3.3 C.11.2.1.3.2.
    """
    center, width = window
    return _ramp(center - width / 2, center + width / 2)


def sigmoid(window: Window) -> Curve:
    """Return the S-shaped curve. Source: DICOM PS3.3 C.11.2.1.3.1."""
    center, width = window

    def curve(values: Floats) -> Floats:
        # Beyond 60 the curve is flat in eight bits, and exp would overflow.
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -60, 60)))

    return curve


def lookup(table: npt.NDArray[Any], *, first: int, top: float) -> Curve:
    """Return a table's values over `top`; values before and after it take its ends.

    Args:
        table: one entry per whole value.
        first: value that the first entry stands for.
        top: entry that is white.

    Source: DICOM PS3.3 C.11.2.1.1.
    """
    entries = np.asarray(table, dtype=np.float64) / top

    def curve(values: Floats) -> Floats:
        places = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
        return np.asarray(entries[places])

    return curve


def render_gray(
    values: npt.NDArray[Any],
    *,
    curve: Curve | None = None,
    units: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    padding: tuple[float, float] | None = None,
) -> Gray:
    """Return gray levels of the same shape, darkest value black.

    Args:
        values: as stored, (H, W); NaN and infinity come out black.
        curve: of units to brightness; without it the range between the 0.5 and 99.5 percentiles is
            shown, so that a few hot pixels do not darken the rest.
        units: turns stored values into units, entry by entry; unset: they are the same.
        padding: first and last stored value that is no measurement and must not decide the range.
    """
    convert = units or (lambda stored: stored)
    table = _Domain.of(values)
    if table is not None:
        known = convert(table.values).astype(np.float64)
        shown = curve or _auto_ramp(known, table.counts(values, padding))
        return table.look_up(values, _to_gray(known, shown))
    if curve is None:
        counted = (
            values if padding is None else values[(values < padding[0]) | (values > padding[1])]
        )
        counted = convert(counted[np.isfinite(counted)])
        curve = _auto_ramp_of(counted)
    gray: Gray = np.empty(values.shape, dtype=np.uint8)
    for rows in _blocks(values):
        gray[rows] = _to_gray(convert(values[rows]).astype(np.float64), curve)
    return gray


@dataclass(frozen=True, slots=True)
class _Domain:
    """Every whole value between the smallest and the largest one of a picture."""

    low: int
    values: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> "_Domain | None":
        if values.dtype.kind not in "iub" or not values.size:
            return None
        low, high = int(values.min()), int(values.max())
        if high - low >= _TABLE_ENTRIES:
            return None
        return cls(low, np.arange(low, high + 1, dtype=np.int64))

    def counts(
        self, values: npt.NDArray[Any], padding: tuple[float, float] | None
    ) -> npt.NDArray[np.int64]:
        """Return how often each value is there, padding not at all."""
        found = np.zeros(len(self.values), dtype=np.int64)
        for rows in _blocks(values):
            places = values[rows].astype(np.int64).ravel() - self.low
            found += np.bincount(places, minlength=len(found))
        if padding is not None:
            found[(self.values >= padding[0]) & (self.values <= padding[1])] = 0
        return found

    def look_up(self, values: npt.NDArray[Any], table: Gray) -> Gray:
        gray: Gray = np.empty(values.shape, dtype=np.uint8)
        for rows in _blocks(values):
            np.take(table, values[rows].astype(np.int64) - self.low, out=gray[rows])
        return gray


def _blocks(values: npt.NDArray[Any]) -> list[slice]:
    step = max(1, _BLOCK_VALUES // max(1, values[:1].size))
    return [slice(start, start + step) for start in range(0, len(values), step)]


def _ramp(low: float, high: float) -> Curve:
    span = high - low if high > low else 1.0
    return lambda values: (values - low) / span


def _to_gray(values: Floats, curve: Curve) -> Gray:
    finite = np.isfinite(values)
    bright = np.clip(curve(np.where(finite, values, 0.0)), 0.0, 1.0)
    gray: Gray = np.rint(np.where(finite, bright, 0.0) * 255).astype(np.uint8)
    return gray


def _auto_ramp(values: Floats, counts: npt.NDArray[np.int64]) -> Curve:
    """Return the ramp between two percentiles of values that are there `counts` times."""
    present = (counts > 0) & np.isfinite(values)
    order = np.argsort(values[present], kind="stable")
    known, upto = values[present][order], np.cumsum(counts[present][order])
    if not known.size:
        return _ramp(0.0, 1.0)
    bounds = []
    for percentile in _PERCENTILES:
        rank = percentile / 100 * (upto[-1] - 1)
        below, above = (
            known[np.searchsorted(upto, place, side="right")]
            for place in (np.floor(rank), np.ceil(rank))
        )
        bounds.append(float(below + (above - below) * (rank - np.floor(rank))))
    return _ramp_or_all(bounds[0], bounds[1], float(known[0]), float(known[-1]))


def _auto_ramp_of(values: npt.NDArray[Any]) -> Curve:
    if not values.size:
        return _ramp(0.0, 1.0)
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    return _ramp_or_all(low, high, float(values.min()), float(values.max()))


def _ramp_or_all(low: float, high: float, least: float, most: float) -> Curve:
    # Nearly all one value, such as a mask: show what differs from it.
    return _ramp(least, most) if low == high else _ramp(low, high)


def square_pixels(image: Image.Image, *, row: float, column: float, most: int) -> Image.Image:
    """Stretch the image so that a step down covers as much as a step right.

    Args:
        image: as stored.
        row: distance between rows; any unit.
        column: distance between columns, in the same unit. Nonsense leaves the image as it is.
        most: pixels; where the stretched picture would have more, the longer way is shrunk instead.
    """
    ratio = row / column if row > 0 and column > 0 else 1.0
    if not 0.02 < ratio < 50 or abs(ratio - 1) < 0.01:
        return image
    width, height = image.size
    grown = ratio if ratio > 1 else 1 / ratio
    if width * height * grown <= most:
        size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    else:
        size = (round(width / ratio), height) if ratio > 1 else (width, round(height * ratio))
    return image.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BICUBIC)
