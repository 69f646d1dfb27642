"""Image bytes from strangers become clean image files of our own.

The kind is sniffed from the bytes, never from the name; the whole picture is decoded under a pixel
cap, turned upright, brought to grey or RGB on white, and written anew without metadata. JPEG keeps
its own quantisation tables, so that nothing is lost twice.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from medllava.errors import DataError
from medllava.images.perceptual_hash import compute_look

MAX_IMAGE_BYTES = 256 * 1024 * 1024
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"RIFF", "WEBP"),
)
_UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_GUTTER_SIDE = 96
_WHITE, _BLACK = 245, 10


class ImageError(DataError):
    """An image cannot be used; `reason` is the word it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason apart from the sentence."""
        super().__init__(f"{detail}. The image is skipped.")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanImage:
    """A decoded picture and the file that will hold it."""

    pixels: Image.Image
    """Grey or RGB, upright."""
    data: bytes
    extension: str
    sha256: str
    look: str
    """See `images.perceptual_hash`."""
    has_gutters: bool
    """White or black bands cross the picture, as between panels."""


def clean_image(data: bytes, *, max_pixels: int) -> CleanImage:
    """Decode untrusted bytes and encode them anew.

    Raises:
        ImageError: not an image of a known kind, damaged, or larger than `max_pixels`.
    """
    kind = sniff_image(data)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as opened:
            if opened.width * opened.height > max_pixels:
                raise ImageError(
                    "image-too-large", f"image of {opened.width} x {opened.height} pixels"
                )
            opened.load()
            pixels, encoded, extension = _encode(opened)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image-too-large", str(error)) from None
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
    ) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise ImageError("image-damaged", f"{kind} that does not decode ({error})") from None
    return CleanImage(
        pixels=pixels,
        data=encoded,
        extension=extension,
        sha256=hashlib.sha256(encoded).hexdigest(),
        look=compute_look(pixels),
        has_gutters=find_gutters(pixels),
    )


def sniff_image(data: bytes) -> str:
    """Return Pillow's name for the kind of image the bytes begin like.

    Raises:
        ImageError: none of JPEG, PNG, GIF, TIFF, WebP, or beyond the size cap.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError("image-too-large", f"image file of {len(data):,} bytes")
    for magic, kind in _MAGIC:
        if data.startswith(magic) and (kind != "WEBP" or data[8:12] == b"WEBP"):
            return kind
    raise ImageError("not-an-image", f"file that begins with {data[:12]!r}")


def _encode(opened: Image.Image) -> tuple[Image.Image, bytes, str]:
    """Return pixels, file bytes and extension; JPEG in, JPEG out, everything else losslessly."""
    buffer = io.BytesIO()
    is_upright = opened.getexif().get(_ORIENTATION_TAG, _UPRIGHT) == _UPRIGHT
    if opened.format == "JPEG" and opened.mode in {"L", "RGB"} and is_upright:
        opened.save(buffer, "JPEG", quality="keep", comment=b"", exif=b"")
        return opened.copy(), buffer.getvalue(), "jpg"
    pixels = _normalize_mode(ImageOps.exif_transpose(opened))
    pixels.info.clear()
    if opened.format in {"JPEG", "WEBP"}:
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
        return pixels, buffer.getvalue(), "jpg"
    pixels.save(buffer, "PNG")
    return pixels, buffer.getvalue(), "png"


def _normalize_mode(image: Image.Image) -> Image.Image:
    """Return the picture as grey or RGB; transparency falls on white, 16 bits are rescaled."""
    if image.mode in {"L", "RGB"}:
        return image if "transparency" not in image.info else _on_white(image.convert("RGBA"))
    if image.mode.startswith(("I", "F")):
        low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
        scale = 255.0 / ((high - low) or 1.0)
        scaled = image.convert("F").point(lambda value: value * scale - low * scale)
        return scaled.convert("L")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def find_gutters(pixels: Image.Image) -> bool:
    """Tell whether a white or black band crosses the picture between two busy parts."""
    side = _GUTTER_SIDE
    small = pixels.convert("L").resize((side, side), Image.Resampling.NEAREST)
    rows = small.tobytes()
    columns = small.transpose(Image.Transpose.TRANSPOSE).tobytes()
    return any(
        _has_inner_band([lines[i * side : (i + 1) * side] for i in range(side)])
        for lines in (rows, columns)
    )


def _has_inner_band(lines: Sequence[bytes]) -> bool:
    flat = [min(line) >= _WHITE or max(line) <= _BLACK for line in lines]
    busy = [index for index, is_flat in enumerate(flat) if not is_flat]
    if not busy:
        return False
    inner = flat[busy[0] : busy[-1]]
    margin = len(lines) // 5
    # A band near the edge parts a title or an axis from a plot, not two panels.
    return any(inner[i] and inner[i + 1] for i in range(margin, len(inner) - margin - 1))


def write_image(path: Path, data: bytes) -> None:
    """Put a file in place at once, without a sync: it is checked before it is relied on.

    The temporary name is the same every time, so that the run after a kill leaves none behind; an
    article, and with it each of its images, belongs to one worker.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
