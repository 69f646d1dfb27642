"""Image files to normalized pixels, with a cache of what was decoded and resized.

Paths enter, one float tensor leaves. Decoding and the processor's geometry are the slow part and
give 8-bit pixels; these are kept in one memory-mapped file that all workers and ranks of a machine
share, so that a second pass only normalizes. Training, evaluation and chat prepare pictures here:
a model is asked about the pixels that it learned from.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from medllava.images.geometry import PROBE_SIZES, SquareGeometry, make_noise
from medllava.images.load import load_image
from medllava.layout import IMAGE_PROCESSOR_FILE

_one_at_a_time = threading.Lock()
"""Held while places are given and the file is mapped. Not a reader's own: those are pickled."""


def saved_reader(folder: Path) -> "PixelReader | None":
    """Return a reader for the image processor saved in a folder; None where there is none."""
    if not (folder / IMAGE_PROCESSOR_FILE).is_file():
        return None
    return PixelReader(LlavaImageProcessorPil.from_pretrained(folder))


class PixelReader:
    """Reads images at the geometry of one processor."""

    def __init__(self, image_processor: Any) -> None:  # noqa: ANN401 - any image processor with one square geometry
        """Learn the geometry; nothing is kept until `keep` is called."""
        self._processor = image_processor
        self._geometry = SquareGeometry.of(image_processor)
        probes = [make_noise(size) for size in PROBE_SIZES]
        expected = [self._by_processor(image) for image in probes]
        if self._geometry is not None and not all(
            np.array_equal(self._geometry.apply(image), pixels)
            for image, pixels in zip(probes, expected, strict=True)
        ):
            self._geometry = None
        self._shape: tuple[int, ...] = expected[0].shape
        self._values = _normalized_values(image_processor)
        self._slots: dict[Path, int] = {}
        self._cache_file = Path()
        self._cache: NDArray[np.uint8] | None = None
        self._room = 0

    def keep(self, cache_file: Path, paths: Sequence[Path], *, room: int = 0) -> None:
        """Keep the resized pixels of some images in a file from now on.

        Args:
            cache_file: sparse at first; processes that name the same file share it.
            paths: the images that have a place, the same and in the same order in every process.
            room: more images than these that `admit` may give a place.
        """
        self._cache_file = cache_file
        self._slots = {path: slot for slot, path in enumerate(paths)}
        self._room = max(room, len(paths))

    @property
    def kept(self) -> tuple[Path, ...]:
        """The images that have a place, in the order of their places."""
        return tuple(self._slots)

    def admit(self, path: Path) -> None:
        """Decode an image for the first time, and keep its resized pixels if there is room.

        Several threads may do so at once.

        Raises:
            DataError: it cannot be decoded; names it.
        """
        pixels = self._decode(path)
        slot = self.reserve(path)
        if slot is not None:
            row = self._open_cache()[slot]
            row[:-1] = pixels.reshape(-1)
            row[-1] = 1

    def reserve(self, path: Path) -> int | None:
        """Give an image a place that is filled when it is first read; None without room."""
        with _one_at_a_time:
            if path not in self._slots and len(self._slots) >= self._room:
                return None
            return self._slots.setdefault(path, len(self._slots))

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
        return self._normalize(stacked)

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pixel_values (N, 3, H, W), float32, of RGB images: what `read` gives of files."""
        return self._normalize(np.stack([self._resize(image) for image in images]))

    def show(self, image: Image.Image) -> Image.Image:
        """Return what the encoder is shown of an RGB image, as a picture: square, its own size."""
        return Image.fromarray(self._resize(image).transpose(1, 2, 0))

    def _normalize(self, pixels: NDArray[np.uint8]) -> Tensor:
        values = np.empty(pixels.shape, dtype=np.float32)
        for channel, table in enumerate(self._values):
            np.take(table, pixels[:, channel], out=values[:, channel])
        return torch.from_numpy(values)

    def blank(self, count: int = 1) -> Tensor:
        """Return `count` images (N, 3, H, W) of zeros."""
        return torch.zeros((count, *self._shape))

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
        with _one_at_a_time:
            if self._cache is None:
                shape = (self._room, self.image_bytes + 1)
                with self._cache_file.open("ab") as handle:
                    handle.truncate(shape[0] * shape[1])
                self._cache = np.memmap(self._cache_file, dtype=np.uint8, mode="r+", shape=shape)
            return self._cache

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        return self._resize(load_image(path))

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


def _normalized_values(processor: Any) -> NDArray[np.float32]:  # noqa: ANN401 - any image processor
    """Return what the processor makes of each of the 256 levels, (3, 256), to the last bit."""
    scaled = (np.arange(256) * processor.rescale_factor).astype(np.float32)
    mean, deviation = (
        np.array(numbers, dtype=np.float32)[:, None]
        for numbers in (processor.image_mean, processor.image_std)
    )
    values: NDArray[np.float32] = (scaled - mean) / deviation
    return values
