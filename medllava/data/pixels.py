"""Image files to normalised pixels, with a cache of what was decoded and resized.

Paths enter, one float tensor leaves. Decoding and the processor's geometry are the slow part and
give 8-bit pixels; these are kept in one memory-mapped file that all workers and ranks of a machine
share, so that a second pass only normalises. Pillow does the geometry itself where that gives the
bits the processor gives, two to three times faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medllava.images.load import load_image

_DRAFT_MARGIN = 2
"""A large JPEG is decoded at no less than this many times the encoder's side."""


class PixelReader:
    """Reads images at the geometry of one processor."""

    def __init__(self, image_processor: Any) -> None:  # noqa: ANN401 - any image processor with one square geometry
        """Learn the geometry; nothing is kept until `keep` is called."""
        self._processor = image_processor
        self._geometry = _SquareGeometry.of(image_processor)
        probes = [_noise(size) for size in _PROBE_SIZES]
        expected = [self._by_processor(image) for image in probes]
        if self._geometry is not None and not all(
            np.array_equal(self._geometry.apply(image), pixels)
            for image, pixels in zip(probes, expected, strict=True)
        ):
            self._geometry = None
        self._shape: tuple[int, ...] = expected[0].shape
        self._scale = torch.tensor(image_processor.rescale_factor, dtype=torch.float32)
        self._mean = torch.tensor(image_processor.image_mean)[:, None, None]
        self._deviation = torch.tensor(image_processor.image_std)[:, None, None]
        self._slots: dict[Path, int] = {}
        self._cache_file = Path()
        self._cache: NDArray[np.uint8] | None = None

    def keep(self, cache_file: Path, paths: Sequence[Path]) -> None:
        """Keep the resized pixels of some images in a file from now on.

        Args:
            cache_file: sparse at first; processes that name the same file share it.
            paths: the images that have a place, the same and in the same order in every process.
        """
        self._cache_file = cache_file
        self._slots = {path: slot for slot, path in enumerate(paths)}

    @property
    def image_bytes(self) -> int:
        """Size of one cached image."""
        return int(np.prod(self._shape))

    def read(self, paths: Sequence[Path]) -> Tensor:
        """Return pixel_values (N, 3, H, W), float32, in the order of `paths`.

        Raises:
            DataError: a file cannot be decoded; names it.
        """
        stacked = np.empty((len(paths), *self._shape), dtype=np.uint8)
        for number, path in enumerate(paths):
            stacked[number] = self._pixels(path)
        return (torch.from_numpy(stacked).float() * self._scale - self._mean) / self._deviation

    def blank(self) -> Tensor:
        """Return one image (1, 3, H, W) of zeros."""
        return torch.zeros((1, *self._shape))

    def _pixels(self, path: Path) -> NDArray[np.uint8]:
        slot = self._slots.get(path)
        if slot is None:
            return self._decode(path)
        cache = self._open_cache()
        row = cache[slot]
        if row[-1]:  # the last byte says that the others are there
            pixels: NDArray[np.uint8] = row[:-1].reshape(self._shape)
            return pixels
        pixels = self._decode(path)
        row[:-1] = pixels.reshape(-1)
        row[-1] = 1
        return pixels

    def _open_cache(self) -> NDArray[np.uint8]:
        """Map the file; every process does so for itself, after it was forked."""
        if self._cache is None:
            shape = (len(self._slots), self.image_bytes + 1)
            with self._cache_file.open("ab") as handle:
                handle.truncate(shape[0] * shape[1])
            self._cache = np.memmap(self._cache_file, dtype=np.uint8, mode="r+", shape=shape)
        return self._cache

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        return self._resize(load_image(path, min_side=_DRAFT_MARGIN * max(self._shape[1:])))

    def _resize(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return (3, H, W), 8 bits."""
        if self._geometry is not None:
            return self._geometry.apply(image)
        return self._by_processor(image)

    def _by_processor(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the processor's own pixels, (3, H, W), 8 bits."""
        values = self._processor(
            images=image, do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        return np.asarray(values["pixel_values"][0]).round().astype(np.uint8)


_PROBE_SIZES = ((61, 40), (40, 61), (50, 50))


@dataclass(frozen=True, slots=True, kw_only=True)
class _SquareGeometry:
    """Pad to a square, resize and crop at the centre, each or none, on Pillow images."""

    padding: tuple[int, int, int] | None
    """Colour of the bars; None pads nothing."""
    shortest_edge: int | None
    """Side the shorter edge gets; None stretches to the crop's size."""
    height: int
    width: int
    resample: Image.Resampling

    @classmethod
    def of(cls, processor: Any) -> "_SquareGeometry | None":  # noqa: ANN401 - any image processor
        """Read the geometry off a processor's settings, or None if it has other ones."""
        size, crop = dict(processor.size), processor.crop_size
        shortest = size.get("shortest_edge")
        if not processor.do_resize or (shortest and not (processor.do_center_crop and crop)):
            return None
        target = dict(crop) if shortest else size
        if not target.get("height") or not target.get("width"):
            return None
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
            side = max(image.size)
            square = Image.new("RGB", (side, side), self.padding)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        width, height = self.width, self.height
        if self.shortest_edge is not None:
            long = int(self.shortest_edge * max(image.size) / min(image.size))
            is_tall = image.width <= image.height
            width, height = (self.shortest_edge, long) if is_tall else (long, self.shortest_edge)
        resized = image.resize((width, height), resample=self.resample)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        pixels = np.asarray(resized)[top : top + self.height, left : left + self.width]
        return pixels.transpose(2, 0, 1)


def _noise(size: tuple[int, int]) -> Image.Image:
    """Make an image on which two geometries that differ give other pixels."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
