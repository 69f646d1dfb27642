"""Pictures made a little worse, the same way every time.

A picture and the name of a corruption enter, a picture of the same size leaves. Each is strong
enough to see and weak enough that a reader would still give the same answer.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from medllava.images.load import load_image
from medllava.store import atomic_path, sha256_of

_NOISE_DEVIATION = 20.0
"""Of 255, per channel."""
_BLUR_SHARE = 0.006
"""Radius as a share of the shorter side: 2 pixels at 336."""
_CONTRAST = 0.45
_JPEG_QUALITY = 8


def corrupt_image(picture: Image.Image, corruption: str) -> Image.Image:
    """Return the RGB picture with `noise`, `blur`, less `contrast`, or coarse `jpeg`."""
    return _CORRUPTIONS[corruption](picture)


def write_corrupted(image: Path, corruption: str, folder: Path) -> Path:
    """Write a corrupted copy into `folder`, unless it is there, and return its path.

    Raises:
        DataError: the image cannot be read.
    """
    # By content: a picture that was replaced must not leave its old copy behind.
    name = hashlib.sha256(f"{sha256_of(image)}\n{corruption}".encode()).hexdigest()[:24]
    path = folder / corruption / f"{name}.png"
    if not path.exists():
        with atomic_path(path) as temporary:
            corrupt_image(load_image(image), corruption).save(temporary, format="PNG")
    return path


def _add_noise(picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8])
    noise = np.random.default_rng(seed).normal(0, _NOISE_DEVIATION, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _blur(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(max(1.0, _BLUR_SHARE * min(picture.size))))


def _fade(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(_CONTRAST)


def _compress(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return load_image(buffer.getvalue())


_CORRUPTIONS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "noise": _add_noise,
    "blur": _blur,
    "contrast": _fade,
    "jpeg": _compress,
}
