"""The one door for pictures: any file people have to RGB pixels, the same for every use.

A path, an http(s) address or bytes enter, a plain RGB `PIL.Image` leaves: upright, opaque, eight
bits, without metadata. The kind is read from the first bytes, never from the name; a folder is a
DICOM series. fetch-pmc, training, teachers, evaluation, chat and pages all come through here, so
they see the same pixels. What cannot be read is an `ImageError` that names the source; contents of
a file are never part of a message.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from medllava.errors import RemoteError
from medllava.images.dicom import is_dicom, read_dicom
from medllava.images.limits import MAX_BYTES, ImageError
from medllava.images.nifti import is_nifti, read_nifti
from medllava.images.raster import is_raster, read_raster
from medllava.images.series import F, Series, find_dicom, find_series
from medllava.images.windowing import Window

_MAX_DOWNLOAD_BYTES = MAX_BYTES // 4
_DOWNLOAD_SECONDS = 30.0
_HEAD_BYTES = 512

_OTHER_MAGIC = {
    b"%PDF": "a PDF; save the page as PNG first",
    b"%!PS": "PostScript; save it as PNG first",
    b"PK\x03\x04": "a ZIP archive (or an office document); unpack it first",
    b"<svg": "an SVG drawing; save it as PNG first",
    b"<!do": "an HTML page; give the address of the picture itself",
    b"<htm": "an HTML page; give the address of the picture itself",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
}


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
            address, so a path that came out of a data file is never fetched. A folder is a DICOM
            series.
        frame: page of a TIFF or GIF, frame of a DICOM, slice of a series or time point of a 4-D
            NIfTI, from 0. Unset: the first, and of a DICOM or a series the middle one.
        plane: `axial`, `coronal` or `sagittal`; NIfTI only.
        slice_index: slice along the plane's normal, from 0 at the foot, back or right;
            NIfTI only. Unset: the middle one.
        window: center and width for files of measured values; unset takes the file's own
            window, else the range of its values. Pictures of eight bits ignore it.
        min_side: the caller needs no more than this many pixels on the shorter side; a larger
            JPEG is then decoded at a half, a quarter or an eighth, which is several times faster.

    Raises:
        ImageError: not there, not an image, damaged, too large, or without that frame.
        RemoteError: the address did not answer with a file.
        SetupError: the file is DICOM or NIfTI and the extra that reads it is not installed.
    """
    name = _describe(source)
    if not isinstance(source, bytes) and Path(source).is_dir():
        series = _only_series(find_dicom(Path(source)), str(source))
        return _read_slice(series, _middle(series, frame, name), window)
    with _open_source(source, name) as handle:
        head = handle.read(_HEAD_BYTES)
        handle.seek(0)
        if not head:
            raise ImageError(
                f"the file is empty: {name}. Check how it was made.", reason="image-damaged"
            )
        if is_dicom(head):
            image = read_dicom(handle, name=name, frame=frame, window=window)
        elif is_nifti(head):
            image = read_nifti(
                handle.read(), name=name, plane=plane, index=slice_index, time=frame, window=window
            )
        else:
            _check_raster(head, name)
            image = read_raster(handle, name, frame=frame, window=window, min_side=min_side)
    return image if image.mode == "RGB" else image.convert("RGB")


def load_series(folder: Path, *, window: Window | None = None) -> list[tuple[int, Image.Image]]:
    """Read the pictures that stand for a folder's DICOM series.

    Args:
        folder: with the files of one series, in it or below.
        window: center and width; unset shows CT through three windows, one a channel.

    Returns:
        Up to `SLICES` evenly spaced slices in order, each with its number from 0: the `frame` for
        which `load_image` gives the same picture.

    Raises:
        ImageError: no series is there, there are several, or a slice cannot be read.
        SetupError: the extra that reads DICOM is not installed.
    """
    series = _only_series(find_dicom(folder), str(folder))
    return [(number, _read_slice(series, number, window)) for number in series.chosen()]


def gather_series(files: Sequence[bytes]) -> Series[bytes]:
    """Put the DICOM files of one series together; others among them, such as DICOMDIR, are left.

    Raises:
        ImageError: no series is among them, there are several, or one file is damaged.
        SetupError: the extra that reads DICOM is not installed.
    """
    return _only_series([file for file in files if is_dicom(file[:1024])], "the files given")


def read_slice(
    series: Series[bytes], number: int | None = None, window: Window | None = None
) -> Image.Image:
    """Read one slice of a series as `load_image` does for a folder; unset: the middle one.

    Raises:
        ImageError: there is no such slice, or it cannot be read.
    """
    return _read_slice(series, _middle(series, number, "the series given"), window)


def read_series(series: Series[Path]) -> list[Image.Image]:
    """Read the pictures that stand for a series, as `load_series` does.

    Raises:
        ImageError: a slice cannot be read.
    """
    return [_read_slice(series, number, None) for number in series.chosen()]


def _only_series(files: Sequence[F], name: str) -> Series[F]:
    found = list(find_series(files))
    series = [one for one in found if isinstance(one, Series)]
    damaged = [file for file in found if not isinstance(file, Series)]
    if damaged:
        which = damaged[0] if isinstance(damaged[0], Path) else f"a file of {name}"
        raise ImageError(f"no DICOM header: {which}.", reason="image-damaged")
    if not series:
        raise ImageError(
            f"this is a folder, not an image: {name}. Name one file in it.", reason="not-an-image"
        )
    if len(series) > 1:
        firsts = [one.slices[0].file for one in series[:2]]
        paths = " and ".join(str(file) for file in firsts if isinstance(file, Path))
        such = f", such as those of {paths}" if paths else ""
        raise ImageError(
            f"{len(series)} DICOM series are in this folder{such}: name a folder with one of them, "
            "or one file.",
            reason="not-an-image",
        )
    return series[0]


def _middle(series: Series[F], number: int | None, name: str) -> int:
    """Return the slice that is asked for, the middle one where none is."""
    count = len(series.slices)
    if number is not None and not 0 <= number < count:
        raise ImageError(f"no slice {number} of {count}: {name}.", reason="no-such-frame")
    return count // 2 if number is None else number


def _read_slice(series: Series[F], number: int, window: Window | None) -> Image.Image:
    one = series.slices[number]
    if window is not None or series.windows is None:
        return load_image(one.file, frame=one.frame, window=window)
    channels = [
        load_image(one.file, frame=one.frame, window=window).convert("L")
        for window in series.windows
    ]
    return Image.merge("RGB", channels)


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
            raise ImageError(
                f"the file has {size:,} bytes, more than {MAX_BYTES:,}: {name}. Scale it down.",
                reason="image-too-large",
            )
        handle = path.open("rb")
    except FileNotFoundError:
        raise ImageError(
            f"no such image: {name}. Check the path.", reason="image-missing"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(
            f"cannot read the image ({error}): {name}.", reason="image-missing"
        ) from None
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
                    raise ImageError(
                        f"the address sends more than {_MAX_DOWNLOAD_BYTES:,} bytes: {address}.",
                        reason="image-too-large",
                    )
                chunks.append(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = type(error).__name__
        raise RemoteError(
            f"cannot fetch the image ({kind}: {error}): {address}. Check the address."
        ) from None
    return b"".join(chunks)


def _check_raster(head: bytes, name: str) -> None:
    if is_raster(head):
        return
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next(
        (text for magic, text in _OTHER_MAGIC.items() if start.startswith(magic.lower())), ""
    )
    raise ImageError(
        f"not an image: {name}. "
        + (
            f"It is {kind}."
            if kind
            else "Give a PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, AVIF, DICOM or NIfTI file."
        ),
        reason="not-an-image",
    )
