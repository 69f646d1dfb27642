"""A processor's square geometry on Pillow images: pad, resize, crop, with its own pixels.

Pillow does it two to three times faster than the processor and without ever holding more than the
square that is kept: of a picture of 1 x 3,000 pixels only the middle is enlarged. Where a processor
has another geometry, or other pixels came out, the processor is asked instead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PROBE_SIZES = ((61, 40), (40, 61), (50, 50))

_EXTREME = 8
"""Times as long as wide: from here on what the crop cuts away is not computed."""
_MAX_PADDED_SIDE = 9_000
"""Its square is just within what is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareGeometry:
    """Pad to a square, resize and crop at the center, each or none, on Pillow images."""

    padding: tuple[int, int, int] | None
    """Color of the bars; None pads nothing."""
    shortest_edge: int | None
    """Side the shorter edge gets; None stretches to the crop's size."""
    height: int
    width: int
    resample: Image.Resampling

    @classmethod
    def of(cls, processor: Any) -> "SquareGeometry | None":  # noqa: ANN401 - any image processor
        """Read the geometry off a processor's settings, or None if it has other ones."""
        size, crop = dict(processor.size), processor.crop_size
        shortest = size.get("shortest_edge")
        if not processor.do_resize or (shortest and not (processor.do_center_crop and crop)):
            return None
        target = dict(crop) if shortest else size
        if not target.get("height") or not target.get("width"):
            return None
        if shortest and shortest < max(target["height"], target["width"]):
            return None  # the crop lays it on black
        pads = getattr(processor, "do_pad", False)
        red, green, blue = (int(mean * 255) for mean in processor.image_mean)
        return cls(
            padding=(red, green, blue) if pads else None,
            shortest_edge=shortest,
            height=target["height"],
            width=target["width"],
            resample=Image.Resampling(int(processor.resample)),
        )

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return (3, height, width) of an RGB image."""
        if self.padding is not None and image.width != image.height:
            image = self._pad(image, self.padding)
        if self.shortest_edge is not None and max(image.size) > _EXTREME * min(image.size):
            return np.asarray(self._resize_middle(image)).transpose(2, 0, 1)
        width, height = self._resized(image)
        resized = image.resize((width, height), resample=self.resample)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        pixels = np.asarray(resized)[top : top + self.height, left : left + self.width]
        return pixels.transpose(2, 0, 1)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        if self.shortest_edge is None:
            return self.width, self.height
        long = int(self.shortest_edge * max(image.size) / min(image.size))
        is_tall = image.width <= image.height
        return (self.shortest_edge, long) if is_tall else (long, self.shortest_edge)

    def _resize_middle(self, image: Image.Image) -> Image.Image:
        """Compute only the square that is kept; the same but for rounding by one level."""
        width, height = self._resized(image)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        across, down = image.width / width, image.height / height
        box = (
            left * across,
            top * down,
            min((left + self.width) * across, image.width),
            min((top + self.height) * down, image.height),
        )
        return image.resize((self.width, self.height), resample=self.resample, box=box)

    def _pad(self, image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
        side = max(image.size)
        if side > _MAX_PADDED_SIDE:  # a thread of pixels: shrunk first, or its square would be huge
            share = _MAX_PADDED_SIDE / side
            size = tuple(max(1, round(length * share)) for length in image.size)
            image = image.resize((size[0], size[1]), resample=self.resample)
            side = max(image.size)
        square = Image.new("RGB", (side, side), color)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


def make_noise(size: tuple[int, int]) -> Image.Image:
    """Make an image on which two geometries that differ give other pixels."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
