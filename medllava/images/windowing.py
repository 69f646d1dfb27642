"""Measured values to grey levels: the one place where a window becomes eight bits.

16-bit files, DICOM and NIfTI hold what a device measured, not what a screen shows. `image`,
`dicom` and `nifti` all end here, so training, evaluation and chat see the same picture.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Window = tuple[float, float]
"""Centre and width, in the file's own units (Hounsfield for CT)."""

_PERCENTILES = (0.5, 99.5)


def render_grey(
    values: npt.NDArray[Any],
    *,
    window: Window | None = None,
    ignore: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return grey levels of the same shape, darkest value black.

    Args:
        values: measured values; NaN and infinity come out black.
        window: centre and width; without it the range between the 0.5 and 99.5 percentiles is
            shown, so that a few hot pixels do not darken the rest.
        ignore: True where a value is padding and must not decide the range.
    """
    finite = np.isfinite(values)
    counted = finite if ignore is None else finite & ~ignore
    if window is not None:
        centre, width = window
        low, high = centre - width / 2, centre + width / 2
    elif counted.any():
        low, high = (float(v) for v in np.percentile(values[counted], _PERCENTILES))
        if low == high:  # nearly all one value, such as a mask: show what differs from it
            low, high = float(values[counted].min()), float(values[counted].max())
    else:
        low, high = 0.0, 1.0
    span = high - low if high > low else 1.0
    scaled = np.clip((np.where(finite, values, low).astype(np.float64) - low) / span, 0.0, 1.0)
    grey: npt.NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return grey


def square_pixels(image: Image.Image, *, row: float, column: float) -> Image.Image:
    """Stretch the image so that a step down covers as much as a step right.

    Args:
        image: as stored.
        row: distance between rows; any unit.
        column: distance between columns, in the same unit. Nonsense leaves the image as it is.
    """
    ratio = row / column if row > 0 and column > 0 else 1.0
    if not 0.02 < ratio < 50 or abs(ratio - 1) < 0.01:
        return image
    width, height = image.size
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    return image.resize(size, Image.Resampling.BICUBIC)
