"""Image bytes from strangers become clean image files of our own.

`images` decodes and writes them anew; here they are judged: their size and kind for the archive's
reasons, what they look like, and whether bands cross them as between panels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medllava.images.encode import rewrite_image
from medllava.images.limits import ImageError
from medllava.images.perceptual_hash import compute_perceptual_hash

MAX_IMAGE_BYTES = 256 * 1024 * 1024
_GUTTER_SIDE = 96
_WHITE, _BLACK = 245, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanImage:
    """A decoded picture, the file that will hold it, and what is known of it."""

    pixels: Image.Image
    """Gray or RGB, upright."""
    data: bytes
    extension: str
    sha256: str
    perceptual_hash: str
    """See `images.perceptual_hash`."""
    has_gutters: bool
    """White or black bands cross the picture, as between panels."""


def clean_image(
    data: bytes, *, max_pixels: int, name: str = "given bytes", look_for_gutters: bool = True
) -> CleanImage:
    """Decode untrusted bytes and return a file of them without metadata.

    Args:
        data: of a file.
        max_pixels: width times height that it may have.
        name: of the source, for messages.
        look_for_gutters: False where the panels themselves are searched for.

    Raises:
        ImageError: not an image of a known kind, damaged, holding values that are no numbers, or
            larger than `max_pixels`.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"image file of {len(data):,} bytes: {name}.", reason="image-too-large")
    file = rewrite_image(data, name=name, most_pixels=max_pixels, allow_holes=False)
    gray = file.pixels.convert("L")  # once, for all that looks at the picture
    return CleanImage(
        pixels=file.pixels,
        data=file.data,
        extension=file.extension,
        sha256=file.sha256,
        perceptual_hash=compute_perceptual_hash(gray),
        has_gutters=look_for_gutters and find_gutters(gray),
    )


def find_gutters(pixels: Image.Image) -> bool:
    """Tell whether a white or black band crosses the picture between two busy parts."""
    side = _GUTTER_SIDE
    gray = pixels if pixels.mode == "L" else pixels.convert("L")
    small = np.asarray(gray.resize((side, side), Image.Resampling.NEAREST))
    return any(_has_inner_band(small, axis) for axis in (0, 1))


def _has_inner_band(small: npt.NDArray[np.uint8], axis: int) -> bool:
    flat = (small.min(axis) >= _WHITE) | (small.max(axis) <= _BLACK)
    busy = np.flatnonzero(~flat)
    if not busy.size:
        return False
    inner = flat[busy[0] : busy[-1]]
    margin = small.shape[axis] // 5
    # A band near the edge parts a title or an axis from a plot, not two panels.
    return bool((inner[margin:-margin][:-1] & inner[margin:-margin][1:]).any())


def write_image(path: Path, data: bytes) -> None:
    """Put a file in place at once, without a sync: it is checked before it is relied on.

    The temporary name is the same every time, so that the run after a kill leaves none behind; an
    article, and with it each of its images, belongs to one worker.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
