"""Pictures changed as copies of them are: recompressed, rescaled, cut, brighter, windowed, framed.

A picture enters, a changed one leaves, the same every time. The search for twins is calibrated and
measured on copies that were planted this way.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_BRIGHTER = 1.3
_WINDOW_LOW, _WINDOW_GAIN = 40, 1.6
_FRAME_SHARE = 0.08
_SMALLER = 0.6


def recompressed(picture: Image.Image, quality: int) -> Image.Image:
    """Return what a JPEG of that quality keeps."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, share: float, seed: int) -> Image.Image:
    """Cut a share off each axis, unevenly at its two sides."""
    rng = np.random.default_rng(seed)
    width, height = picture.size
    left, top = rng.uniform(0, share, 2)
    box = (left * width, top * height, width * (1 - share + left), height * (1 - share + top))
    return picture.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))


def windowed(picture: Image.Image) -> Image.Image:
    """Show a narrower range of values, as another window does."""
    table = [min(255, max(0, round((v - _WINDOW_LOW) * _WINDOW_GAIN))) for v in range(256)]
    return picture.point(table * 3)


COPIES: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "exact": lambda picture, _: picture,
    "JPEG 90": lambda picture, _: recompressed(picture, 90),
    "JPEG 50": lambda picture, _: recompressed(picture, 50),
    "resized to 60 %": lambda picture, _: picture.resize(
        (round(_SMALLER * picture.width), round(_SMALLER * picture.height))
    ),
    "cropped 1 %": lambda picture, seed: cropped(picture, 0.01, seed),
    "cropped 3 %": lambda picture, seed: cropped(picture, 0.03, seed),
    "cropped 5 %": lambda picture, seed: cropped(picture, 0.05, seed),
    "brighter": lambda picture, _: ImageEnhance.Brightness(picture).enhance(_BRIGHTER),
    "windowed": lambda picture, _: windowed(picture),
    "mirrored": lambda picture, _: ImageOps.mirror(picture),
    "rotated 90": lambda picture, _: picture.transpose(Image.Transpose.ROTATE_90),
    "bordered": lambda picture, _: ImageOps.expand(
        picture, border=round(_FRAME_SHARE * min(picture.size)), fill="white"
    ),
}
"""Name of a change to the changed RGB picture; the number draws where a crop lies."""
