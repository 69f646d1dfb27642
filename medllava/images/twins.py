"""Is one picture another one again: recompressed, cropped a little, brighter, mirrored, framed?

A picture enters, a `Signature` leaves; `TwinIndex` holds those of one collection and finds which of
them a picture repeats. `perceptual_hash` is for plain copies among millions of figures; this looks
closer, for the few thousand images of a test. Candidates agree in most bits of a difference hash,
in one of eight orientations, border trimmed; then the finer structure of both is laid on top of
each other under every small crop. Two chest X-rays agree in the coarse and differ in the fine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_SIDE = 256
"""A JPEG that is decoded to fewer pixels does not look like its lossless copy."""
MAX_BITS = 88
"""Of 256 that may differ in a candidate; unrelated pictures differ in about 128."""
MIN_AGREEMENT = 0.86
"""Correlation of the fine structure, laid on top of each other in the best way."""
_PLAIN_BITS = 14
"""Differing bits of a copy that was merely recompressed or rescaled; its grays are the same too."""
_PLAIN_GRAY = 4
_CANDIDATES = 8
"""Looked at closely, at most, for every picture that is asked about."""
_SIDE, _HASH = 96, 16
_BORDER_TOLERANCE = 14
"""Gray levels by which a border may vary, as JPEG makes it."""
_FRAMES = 3
"""Borders around one another that are trimmed: a white frame around a black one."""
_BLANK_DEVIATION = 3.0
_BLUR = 3.0
_CROPS = (0, 1, 2, 3, 5)
"""Pixels of 96 that may be missing at each side: up to five percent."""
_FLAT = 1e-6
_HOPELESS = 0.3
"""Agreement after a first round that no second round makes good."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signature:
    """What is compared of a picture."""

    gray: Floats
    """(96, 96) gray values without the border."""


def compute_signature(pixels: Image.Image) -> Signature | None:
    """Return the signature of a picture; None for a nearly blank one, which every other resembles.

    Args:
        pixels: with a shorter side of at least `MIN_SIDE`, where the file has as many.
    """
    gray = pixels.convert("L")
    box = _content_box(np.asarray(gray))
    small = gray.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=box)
    cells = np.asarray(small, dtype=np.float32)
    if cells.std() <= _BLANK_DEVIATION:
        return None
    return Signature(cells)


def trimmed(pixels: Image.Image) -> Image.Image:
    """Return a picture without its border of one gray."""
    return pixels.crop(_content_box(np.asarray(pixels.convert("L"))))


class TwinIndex:
    """The pictures of one collection, to be asked which of them another picture repeats."""

    def __init__(self, names: Sequence[str], signatures: Sequence[Signature]) -> None:
        """Hold the signatures of named pictures; (N, 8, 256) signs are kept of them."""
        self._names = list(names)
        turned = [_orientations(signature.gray) for signature in signatures]
        self._gray = [np.stack(group) for group in turned]
        self._signs = np.array([_signs(gray) for group in turned for gray in group]).reshape(
            len(turned) * 8, _HASH * _HASH
        )

    def find(self, signature: Signature) -> list[str]:
        """Return the names of the pictures that this one repeats."""
        if not self._names:
            return []
        view = signature.gray
        differing = (_HASH * _HASH - self._signs @ _signs(view)) / 2
        nearest = np.argsort(differing, kind="stable")[:_CANDIDATES]
        found: dict[str, None] = {}
        for place in nearest[differing[nearest] <= MAX_BITS]:
            image, turn = divmod(int(place), 8)
            if self._names[image] in found:
                continue
            known = self._gray[image][turn]
            # Smooth pictures have little fine structure to agree in.
            is_plain = (
                differing[place] <= _PLAIN_BITS and np.abs(known - view).mean() <= _PLAIN_GRAY
            )
            if is_plain or agreement(known, view) >= MIN_AGREEMENT:
                found[self._names[image]] = None
        return list(found)


def agreement(first: Floats, second: Floats) -> float:
    """Return the correlation of the fine structure of two (96, 96) pictures, either one cropped."""
    a, b = _fine(first), _fine(second)
    return max(_best_overlay(a, b), _best_overlay(b, a))


def _best_overlay(whole: Floats, part: Floats) -> float:
    """Return the best correlation of `part` with a crop of `whole`."""
    target = part - part.mean()
    norm = float(np.sqrt((target**2).sum()))
    if norm < _FLAT:
        return 0.0
    croppers = _croppers()
    row = column = croppers[0]
    best = _correlation(whole, target, norm)
    for _ in range(2):  # rows and columns in turn; a second round corrects the first
        for axis in (0, 1):
            strips: Floats = np.asarray(whole @ column.T if axis == 0 else row @ whole)
            for cropper in croppers:
                laid: Floats = np.asarray(cropper @ strips if axis == 0 else strips @ cropper.T)
                found = _correlation(laid, target, norm)
                if found > best:
                    best = found
                    row, column = (cropper, column) if axis == 0 else (row, cropper)
        if best < _HOPELESS:
            break
    return best


def _correlation(laid: Floats, target: Floats, norm: float) -> float:
    centered = laid - laid.mean()
    size = float(np.sqrt((centered**2).sum()))
    return float((centered * target).sum()) / (size * norm) if size > _FLAT else 0.0


def _fine(gray: Floats) -> Floats:
    """Return what is left of a picture without its coarse light and dark, of even contrast."""
    blur = _blurrer()
    fine = gray - blur @ gray @ blur.T
    # Where a window was changed, contrast differs from place to place.
    local = np.sqrt(np.maximum(blur @ fine**2 @ blur.T, 0)) + 2.0
    return np.asarray(fine / local, dtype=np.float32)


@lru_cache(maxsize=1)
def _blurrer() -> Floats:
    places = np.arange(_SIDE)
    weights = np.exp(-((places[:, None] - places[None]) ** 2) / (2 * _BLUR**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=1)
def _croppers() -> list[Floats]:
    """Return matrices that stretch a part of the lines to all of them, for every small crop."""
    matrices = []
    for first in _CROPS:
        for last in _CROPS:
            places = np.linspace(first, _SIDE - 1 - last, _SIDE)
            low = np.minimum(places.astype(int), _SIDE - 2)
            share = places - low
            matrix = np.zeros((_SIDE, _SIDE), dtype=np.float32)
            matrix[np.arange(_SIDE), low] = 1 - share
            matrix[np.arange(_SIDE), low + 1] += share
            matrices.append(matrix)
    return matrices


def _orientations(gray: Floats) -> list[Floats]:
    turned = [np.rot90(gray, quarter) for quarter in range(4)]
    return [np.ascontiguousarray(g) for t in turned for g in (t, t[:, ::-1])]


def _signs(gray: Floats) -> Floats:
    """Return 256 times plus or minus one: which of two neighboring cells is brighter."""
    step = _SIDE // _HASH
    cells = gray.reshape(_HASH, step, _HASH, step).mean(axis=(1, 3))
    # Differences of a wrapped copy: the last column is compared with the first.
    return np.where(cells > np.roll(cells, -1, axis=1), 1.0, -1.0).astype(np.float32).ravel()


def _content_box(values: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom inside all borders: a frame may lie around another."""
    left, top, right, bottom = 0, 0, values.shape[1], values.shape[0]
    for _ in range(_FRAMES):
        up, down, west, east = _content(values[top:bottom, left:right])
        if (up, down, west, east) == (0, bottom - top, 0, right - left):
            break
        top, bottom, left, right = top + up, top + down, left + west, left + east
    return left, top, right, bottom


def _content(values: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of what lies inside a border of one gray."""
    height, width = values.shape
    border = int(np.median(np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])))
    differs = np.abs(values.astype(np.int16) - border) > _BORDER_TOLERANCE
    rows = np.flatnonzero(differs.mean(axis=1) > 0.005)
    columns = np.flatnonzero(differs.mean(axis=0) > 0.005)
    if len(rows) < height // 4 or len(columns) < width // 4:
        return 0, height, 0, width
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
