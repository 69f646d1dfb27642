"""Image files to normalised pixels, with a cache of what was decoded and resized.

Paths enter, one float tensor leaves. Decoding and the processor's geometry are the slow part and
give 8-bit pixels; these are kept in one memory-mapped file that all workers and ranks of a machine
share, so that a second pass only normalises.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medllava.errors import DataError


class PixelReader:
    """Reads images at the geometry of one processor."""

    def __init__(self, image_processor: Any) -> None:  # noqa: ANN401 - any image processor with one square geometry
        """Learn the geometry; nothing is kept until `keep` is called."""
        self._processor = image_processor
        probe = self._resize(Image.new("RGB", (8, 8)))
        self._shape: tuple[int, ...] = probe.shape
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
        try:
            with Image.open(path) as image:
                return self._resize(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"image cannot be decoded ({error}): {path}. Repair it or remove its record."
            ) from None

    def _resize(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return (3, H, W), 8 bits."""
        values = self._processor(
            images=image, do_rescale=False, do_normalize=False, return_tensors="np"
        )
        pixels: NDArray[np.uint8] = np.asarray(values["pixel_values"][0], dtype=np.uint8)
        return pixels
