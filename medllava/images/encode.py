"""Pictures out: made small for a page, written as a clean file, put into a request.

Whatever leaves has the pixels that `load.load_image` shows and none of the file's metadata, so a
server sees what training sees and learns neither place nor name.
"""

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medllava.images.limits import ImageError
from medllava.images.load import load_image
from medllava.images.raster import flatten, is_raster, open_raster
from medllava.images.strip import strip_jpeg, strip_png

_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_ADDRESS_SCHEME = "data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanFile:
    """A picture and the bytes of a file of our own that holds it."""

    pixels: Image.Image
    """Gray or RGB, upright."""
    data: bytes
    extension: str
    """`jpg` or `png`."""
    sha256: str
    """Of `data`."""


def shrink(image: Image.Image, side: int | tuple[int, int]) -> Image.Image:
    """Return a copy no wider and no higher than `side` pixels; smaller pictures keep their size."""
    small = image.copy()
    small.thumbnail((side, side) if isinstance(side, int) else side)
    return small


def encode_image(image: Image.Image, kind: str = "PNG") -> bytes:
    """Return a picture as the bytes of a `PNG` or `JPEG` file without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def image_address(source: Image.Image | Path | str, *, kind: str = "PNG") -> str:
    """Return a picture as the `data:` address that requests and pages carry.

    Args:
        source: a picture; or a file of any kind that `load_image` reads, of which a plain JPEG
            stays one and everything else becomes PNG; or a `data:` address, which is returned as
            it is.
        kind: of a picture that is in memory, `PNG` or `JPEG`.

    Raises:
        ImageError: the file is absent or is no image.
    """
    if isinstance(source, Image.Image):
        return _address(encode_image(source, kind), kind.lower())
    if isinstance(source, str) and source.startswith(_ADDRESS_SCHEME):
        return source
    path = Path(source)
    try:
        with path.open("rb") as handle:
            is_picture = is_raster(handle.read(16))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"cannot read the image ({error}): {path}. Check the path.", reason="image-missing"
        ) from None
    if not is_picture:
        return image_address(load_image(path))
    clean = rewrite_image(path.read_bytes(), name=str(path))
    return _address(clean.data, "jpeg" if clean.extension == "jpg" else "png")


def open_address(source: str) -> Image.Image:
    """Return the RGB picture of a `data:` address or of a path.

    Raises:
        ImageError: it cannot be read.
    """
    if not source.startswith(_ADDRESS_SCHEME):
        return load_image(Path(source))
    try:
        data = base64.b64decode(source.partition(",")[2])
    except ValueError as error:
        raise ImageError(
            f"not a usable image ({error}): {source:.60}.", reason="image-damaged"
        ) from None
    return load_image(data)


def rewrite_image(
    data: bytes, *, name: str, most_pixels: int | None = None, allow_holes: bool = True
) -> CleanFile:
    """Decode a stranger's picture and return a file of it without metadata.

    JPEG and PNG that are gray or RGB already keep their bytes but for the metadata, so that nothing
    is lost twice; all others are encoded anew. Of several pages the first is taken.

    Args:
        data: of a file.
        name: of the source, for messages.
        most_pixels: unset is `limits.MAX_PIXELS`.
        allow_holes: whether a picture of measured values may hold some that are no numbers.

    Raises:
        ImageError: not a raster image, damaged, or too large.
    """
    if not is_raster(data[:16]):
        raise ImageError(
            f"not an image, it begins with {data[:12]!r}: {name}.", reason="not-an-image"
        )
    with open_raster(io.BytesIO(data), name, most_pixels=most_pixels) as opened:
        opened.load()
        if not allow_holes and _has_holes(opened):
            raise ImageError(
                f"the image holds values that are no numbers: {name}.", reason="image-damaged"
            )
        kind = opened.format
        encoded = _strip(opened, data)
        # Decoded to the end, it needs its file no more; a copy took a fifth of a picture's time.
        pixels = opened if encoded else flatten(opened)
    pixels.info = {}
    extension = "jpg" if kind in {"JPEG", "WEBP", "MPO"} else "png"
    if encoded is None:
        encoded = _encode_first(pixels, extension)
    return CleanFile(
        pixels=pixels,
        data=encoded,
        extension=extension,
        sha256=hashlib.sha256(encoded).hexdigest(),
    )


def _strip(opened: Image.Image, data: bytes) -> bytes | None:
    """Return an upright gray or RGB file without its metadata; None for what must be changed."""
    is_upright = opened.getexif().get(_ORIENTATION_TAG, _UPRIGHT) == _UPRIGHT
    is_plain = opened.mode in {"L", "RGB"} and "transparency" not in opened.info
    if not (is_upright and is_plain):
        return None
    if opened.format == "PNG":
        return strip_png(data)
    if opened.format != "JPEG":
        return None
    stripped = strip_jpeg(data)
    if stripped is None:
        # Of an unusual make: written anew with its own tables, so that nothing is lost twice.
        buffer = io.BytesIO()
        opened.save(buffer, "JPEG", quality="keep", comment=b"", exif=b"")
        stripped = buffer.getvalue()
    return stripped


def _encode_first(pixels: Image.Image, extension: str) -> bytes:
    buffer = io.BytesIO()
    if extension == "jpg":
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        # A third faster than the default for 1 % more bytes.
        pixels.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _has_holes(image: Image.Image) -> bool:
    return image.mode == "F" and not bool(np.isfinite(np.asarray(image)).all())


def _address(data: bytes, kind: str) -> str:
    return f"{_ADDRESS_SCHEME}image/{kind};base64,{base64.b64encode(data).decode()}"
