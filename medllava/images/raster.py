"""PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, AVIF and PGM to upright, opaque, eight-bit pictures.

Pillow decodes. What it leaves to its callers is done here: orientation, palettes, transparency on
white, more than eight bits, TIFFs whose zero is white, colors in CIELAB.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from medllava.images.limits import ImageError, check_pixels, decoding
from medllava.images.windowing import Window, linear_exact, render_gray

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "PPM")
# Pillow would hand EPS to Ghostscript and knows many formats nobody reviews: only these are opened.

_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"GIF8",
    b"BM",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1")
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    KeyError,
)
"""Pillow's decoders raise all of these on damaged files."""

_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_BLOCK_ROWS = 256

for _key, _modes in list(TiffImagePlugin.OPEN_INFO.items()):
    # Pillow opens some deep TIFFs only where zero is black; `flatten` turns the others around.
    _order, _photometric, _format, _fill, _bits, _extra = _key
    if _photometric == 1 and len(_bits) == 1 and _bits[0] >= 16:
        TiffImagePlugin.OPEN_INFO.setdefault(
            (_order, _WHITE_IS_ZERO, _format, _fill, _bits, _extra), _modes
        )


def is_raster(head: bytes) -> bool:
    """Tell by the first bytes whether a file is of a kind this module opens."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _AVIF_BRANDS
    is_netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n"
    return head.startswith(_MAGIC) or (is_netpbm and len(head) > 2)


@contextmanager
def open_raster(
    handle: BinaryIO, name: str, *, frame: int | None = None, most_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open one page for decoding inside the block, where it has its turn among large pictures.

    Args:
        handle: the file, at its start.
        name: of the source, for messages.
        frame: page, from 0; unset is the first.
        most_pixels: of that page; other pages may be larger.

    Raises:
        ImageError: not such a file, damaged, too large, or without that page.
    """
    try:
        with _open(handle) as opened:
            _seek_frame(opened, frame, name)
            check_pixels(*opened.size, name, most=most_pixels)
            with decoding(*opened.size):
                yield opened
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"the image claims too many pixels ({error}): {name}. Scale it down.",
            reason="image-too-large",
        ) from None
    except UnidentifiedImageError:
        raise _not_decoded(name) from None
    except _DAMAGE as error:
        if "unknown pixel mode" in str(error):  # a TIFF of 64-bit or 16-bit floats, for one
            raise _not_decoded(name) from None
        raise ImageError(
            f"the image is damaged ({error}): {name}. Get it again.", reason="image-damaged"
        ) from None


def _not_decoded(name: str) -> ImageError:
    return ImageError(
        f"a kind of image that cannot be decoded: {name}. Save it as PNG.", reason="image-damaged"
    )


def read_raster(
    handle: BinaryIO,
    name: str,
    *,
    frame: int | None = None,
    window: Window | None = None,
    min_side: int | None = None,
) -> Image.Image:
    """Read one page, as RGB or gray ("L").

    Args:
        handle: the file, at its start.
        name: of the source, for messages.
        frame: page, from 0; unset is the first.
        window: center and width for more than eight bits; unset shows the range of the values.
        min_side: a JPEG may come smaller, with no side below this.

    Raises:
        ImageError: see `open_raster`.
    """
    with open_raster(handle, name, frame=frame) as opened:
        if min_side is not None:
            opened.draft(None, (min_side, min_side))  # keeps both sides at or above min_side
        opened.load()
        return flatten(opened, window=window)


def flatten(image: Image.Image, *, window: Window | None = None) -> Image.Image:
    """Return a decoded picture upright, as RGB or gray ("L"), without metadata.

    Args:
        image: as Pillow opened it; turned in place, and closed if it has more than eight bits.
        window: center and width for more than eight bits.
    """
    is_negative, is_unsigned = _has_white_zero(image), _is_unsigned_32(image)
    is_signed = image.mode == "L" and _sample_format(image) == _SIGNED
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        values = _values(image, unsigned=is_unsigned)
        image.close()  # its pixels are in `values` now, and large ones do not fit twice
        gray = render_gray(values, curve=linear_exact(window) if window else None)
        del values
        flat = Image.fromarray(255 - gray if is_negative else gray)
    else:
        flat = _eight_bits(image)
        if is_signed:
            flat = flat.point([(value + 128) % 256 for value in range(256)])
    flat.info = {}
    return flat


def _open(handle: BinaryIO) -> Image.Image:
    head = handle.read(16)
    handle.seek(0)
    if head.startswith(_TIFF_MAGIC):
        # Image.open would refuse the whole file for the size of its first page.
        return TiffImagePlugin.TiffImageFile(handle)
    return Image.open(handle, formats=_FORMATS)


def _seek_frame(image: Image.Image, frame: int | None, name: str) -> None:
    if not frame:
        return
    count = getattr(image, "n_frames", 1)
    if not 0 <= frame < count:
        raise ImageError(
            f"no frame {frame}; the file has {count}, counted from 0: {name}.",
            reason="no-such-frame",
        )
    image.seek(frame)


def _has_white_zero(image: Image.Image) -> bool:
    """Tell whether Pillow left a TIFF's zero white: it turns eight bits and fewer around itself."""
    tags: Any = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _is_unsigned_32(image: Image.Image) -> bool:
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None or image.mode != "I":
        return False
    return tags.get(_BITS, (0,))[0] == 32 and _sample_format(image) == _UNSIGNED


def _sample_format(image: Image.Image) -> int:
    """Return what a TIFF says its samples are; unsigned where it says nothing."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    return int(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])


def _values(image: Image.Image, *, unsigned: bool) -> npt.NDArray[Any]:
    """Copy the pixels out a few rows at a time: Pillow's own export takes them three times."""
    width, height = image.size
    first = np.asarray(image.crop((0, 0, width, 1)))
    values = np.empty((height, width), dtype=first.dtype)
    for top in range(0, height, _BLOCK_ROWS):
        bottom = min(top + _BLOCK_ROWS, height)
        values[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return values.view(np.uint32) if unsigned else values


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return RGB or gray: palettes resolved, transparency on white."""
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGB", layered.size, "white")
        paper.paste(layered, mask=layered.getchannel("A"))
        return paper
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        return image.convert("RGB") if converted is None else converted
    return image.convert("L" if image.mode in {"1", "L"} else "RGB")
