"""Any image people have, to RGB pixels: PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, DICOM, NIfTI.

A path, an http(s) address or bytes enter, a plain RGB `PIL.Image` leaves: upright, opaque, eight
bits, without metadata. The kind is read from the first bytes, never from the name. Training,
evaluation and chat all come through here, so they see the same pixels. What cannot be read is a
`DataError` that names the source; contents of a file are never part of a message.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medllava.errors import DataError, RemoteError
from medllava.images.windowing import Window, render_grey

MAX_PIXELS = 89_478_485
"""More is refused before decoding: a small file can claim a huge picture. Pillow's own limit."""

MAX_BYTES = 512 * 2**20
"""Larger files are refused; an address may send a quarter of it."""

_MAX_DOWNLOAD_BYTES = MAX_BYTES // 4
_DOWNLOAD_SECONDS = 30.0
_HEAD_BYTES = 512

_RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000")
# Pillow would hand EPS to Ghostscript and knows many formats nobody reviews: only these are opened.

_RASTER_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"GIF8",
    b"BM",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_OTHER_MAGIC = {
    b"%PDF": "a PDF; save the page as PNG first",
    b"%!PS": "PostScript; save it as PNG first",
    b"PK\x03\x04": "a ZIP archive (or an office document); unpack it first",
    b"<svg": "an SVG drawing; save it as PNG first",
    b"<!do": "an HTML page; give the address of the picture itself",
    b"<htm": "an HTML page; give the address of the picture itself",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
}
_GREY_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}


def load_image(
    source: str | Path | bytes,
    *,
    frame: int | None = None,
    plane: str = "axial",
    slice_index: int | None = None,
    window: Window | None = None,
    min_side: int | None = None,
) -> Image.Image:
    """Read one image as RGB.

    Args:
        source: a path, the bytes of a file, or an http(s) address. Only a `str` can be an
            address, so a path that came out of a data file is never fetched.
        frame: page of a TIFF or GIF, frame of a DICOM or time point of a 4-D NIfTI, from 0.
            Unset: the first, and of a multi-frame DICOM the middle one.
        plane: `axial`, `coronal` or `sagittal`; NIfTI only.
        slice_index: slice along the plane's normal, from 0 at the foot, back or right;
            NIfTI only. Unset: the middle one.
        window: centre and width for files of measured values; unset takes the file's own
            window, else the range of its values. Pictures of eight bits ignore it.
        min_side: the caller needs no more than this many pixels on the shorter side; a larger
            JPEG is then decoded at a half, a quarter or an eighth, which is several times faster.

    Raises:
        DataError: not there, not an image, damaged, too large, or without that frame.
        RemoteError: the address did not answer with a file.
        SetupError: the file is DICOM or NIfTI and the extra that reads it is not installed.
    """
    name = _describe(source)
    with _open_source(source, name) as handle:
        head = handle.read(_HEAD_BYTES)
        handle.seek(0)
        if not head:
            raise DataError(f"the file is empty: {name}. Check how it was made.")
        if _is_dicom(head):
            from medllava.images.dicom import read_dicom  # noqa: PLC0415 - needs the extra

            image = read_dicom(handle, name=name, frame=frame, window=window)
        elif _is_nifti(head):
            from medllava.images.nifti import read_nifti  # noqa: PLC0415 - needs the extra

            image = read_nifti(
                handle.read(), name=name, plane=plane, index=slice_index, time=frame, window=window
            )
        else:
            _check_raster(head, name)
            image = _read_raster(handle, name, frame=frame, window=window, min_side=min_side)
    image.info = {}
    return image


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse a picture that would not fit in memory, before it is decoded.

    Raises:
        DataError: more than `MAX_PIXELS`, or no pixels at all.
    """
    if width < 1 or height < 1:
        raise DataError(f"the image has no pixels ({width} x {height}): {name}.")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the image has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}: {name}. "
            f"Scale it down, or cut out the region."
        )


def _describe(source: str | Path | bytes) -> str:
    return f"{len(source):,} bytes given" if isinstance(source, bytes) else str(source)


@contextmanager
def _open_source(source: str | Path | bytes, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        yield io.BytesIO(_download(source))
        return
    path = Path(source)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"the file has {size:,} bytes, more than {MAX_BYTES:,}: {name}. Scale it down."
            )
        handle = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"no such image: {name}. Check the path.") from None
    except IsADirectoryError:
        raise DataError(f"this is a folder, not an image: {name}. Name one file in it.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"cannot read the image ({error}): {name}.") from None
    with handle:
        yield handle


def _download(address: str) -> bytes:
    import httpx  # noqa: PLC0415 - training opens files only, and start-up counts

    chunks, size = [], 0
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=5, timeout=_DOWNLOAD_SECONDS) as http,
            http.stream("GET", address) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise RemoteError(
                    f"the address answered {response.status_code}: {address}. "
                    "Open it in a browser, or download the image and give its path."
                )
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > _MAX_DOWNLOAD_BYTES:
                    raise DataError(
                        f"the address sends more than {_MAX_DOWNLOAD_BYTES:,} bytes: {address}."
                    )
                chunks.append(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = type(error).__name__
        raise RemoteError(
            f"cannot fetch the image ({kind}: {error}): {address}. Check the address."
        ) from None
    return b"".join(chunks)


def _is_dicom(head: bytes) -> bool:
    """Also true for DICOM without its preamble, which starts with a tag of group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    group, element = head[:2], head[2:4]
    return group in {b"\x02\0", b"\x08\0"} and element in {b"\0\0", b"\x01\0", b"\x05\0", b"\x08\0"}


def _is_nifti(head: bytes) -> bool:
    return (
        head[344:348] in {b"n+1\0", b"ni1\0"}
        or head[4:8] in {b"n+2\0", b"ni2\0"}
        or head[:2] == b"\x1f\x8b"
    )


def _check_raster(head: bytes, name: str) -> None:
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if is_webp or head.startswith(_RASTER_MAGIC):
        return
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next(
        (text for magic, text in _OTHER_MAGIC.items() if start.startswith(magic.lower())), ""
    )
    raise DataError(
        f"not an image: {name}. "
        + (
            f"It is {kind}."
            if kind
            else "Give a PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, DICOM or NIfTI file."
        )
    )


def _read_raster(
    handle: BinaryIO, name: str, *, frame: int | None, window: Window | None, min_side: int | None
) -> Image.Image:
    try:
        with Image.open(handle, formats=_RASTER_FORMATS) as opened:
            check_pixels(*opened.size, name)
            _seek_frame(opened, frame, name)
            if min_side is not None:
                opened.draft(None, (min_side, min_side))  # keeps both sides at or above min_side
            opened.load()
            return _flatten(ImageOps.exif_transpose(opened), window)
    except Image.DecompressionBombError:
        raise DataError(
            f"the image claims more than {2 * MAX_PIXELS:,} pixels: {name}. Scale it down."
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"a kind of image that cannot be decoded: {name}. Save it as PNG."
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError) as e:
        # Pillow's decoders raise all of these on damaged files.
        raise DataError(f"the image is damaged ({e}): {name}. Get it again.") from None


def _seek_frame(image: Image.Image, frame: int | None, name: str) -> None:
    if not frame:
        return
    count = getattr(image, "n_frames", 1)
    if not 0 <= frame < count:
        raise DataError(f"no frame {frame}; the file has {count}, counted from 0: {name}.")
    image.seek(frame)
    check_pixels(*image.size, name)


def _flatten(image: Image.Image, window: Window | None) -> Image.Image:
    """Return RGB: more than eight bits windowed, palettes resolved, transparency on white."""
    if image.mode in _GREY_MODES:
        return Image.fromarray(render_grey(np.asarray(image), window=window)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")
