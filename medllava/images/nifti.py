"""One slice of a NIfTI volume to RGB pixels, turned the way radiologists look at it.

The affine decides which stored axis is which, so the same plane looks the same whatever order a
scanner wrote: the patient's right is on the left of axial and coronal slices, the front is on top
of axial and on the left of sagittal ones. Only the slice is read from an uncompressed volume.
Needs the extra `nifti`.
"""

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from medllava.errors import DataError, MedllavaError, SetupError
from medllava.images.load import MAX_BYTES, check_pixels
from medllava.images.windowing import Window, render_grey, square_pixels

INSTALL = "pip install 'medllava[nifti]'"

_NORMAL_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis of the right-anterior-superior frame that a plane's slices are counted along."""


def read_nifti(
    data: bytes,
    *,
    name: str,
    plane: str = "axial",
    index: int | None = None,
    time: int | None = None,
    window: Window | None = None,
) -> Image.Image:
    """Read one slice as RGB.

    Args:
        data: the file, plain or gzipped.
        name: of the source, for messages.
        plane: `axial`, `coronal` or `sagittal`.
        index: from 0 at the right, back or foot; unset takes the middle one.
        time: volume of a 4-D file, from 0; unset takes the first.
        window: centre and width; unset shows the range of the slice's values.

    Raises:
        DataError: not a volume, no such slice, damaged, or too large.
        SetupError: nibabel is not installed.
    """
    if plane not in _NORMAL_AXIS:
        raise DataError(f"no plane {plane!r}; it is axial, coronal or sagittal: {name}.")
    try:
        import nibabel  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError(f"reading NIfTI needs an extra: {name}. Run: {INSTALL}") from None
    data = _unpack(data, name)
    try:
        kind = nibabel.Nifti2Image if data[4:7] == b"n+2" else nibabel.Nifti1Image
        volume = kind.from_stream(io.BytesIO(data))
        return _render(volume, name, plane, index, time, window)
    except MedllavaError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged header raises anything
        raise DataError(
            f"the NIfTI file is damaged or unusual ({type(error).__name__}): {name}."
            " A header without its .img file cannot be read."
        ) from None


def _unpack(data: bytes, name: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        plain = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_BYTES + 1)
    except zlib.error:
        raise DataError(f"the gzip file is damaged: {name}. Get it again.") from None
    if len(plain) > MAX_BYTES:
        raise DataError(f"the file unpacks to more than {MAX_BYTES:,} bytes: {name}.")
    if plain[344:348] != b"n+1\0" and plain[4:7] != b"n+2":
        raise DataError(f"not an image: {name}. A gzip file must hold a NIfTI volume (.nii.gz).")
    return plain


def _render(
    volume: Any,  # noqa: ANN401 - nibabel is untyped
    name: str,
    plane: str,
    index: int | None,
    time: int | None,
    window: Window | None,
) -> Image.Image:
    import nibabel  # noqa: PLC0415 - an extra

    shape = volume.shape
    if len(shape) not in {3, 4} or volume.get_data_dtype().names:
        raise DataError(
            f"a volume of shape {shape} cannot be shown: {name}. Give a 3-D or 4-D one."
        )
    frame = nibabel.orientations.io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    if np.isnan(frame).any():
        raise DataError(f"the volume's orientation is unknown (no usable affine): {name}.")
    normal = int(np.flatnonzero(frame[:, 0] == _NORMAL_AXIS[plane])[0])
    chosen = _position(index, shape[normal], name, f"{plane} slice", middle=True)
    stored = chosen if frame[normal, 1] > 0 else shape[normal] - 1 - chosen
    key: list[int | slice] = [slice(None)] * 3
    key[normal] = stored
    if len(shape) == 4:
        key.append(_position(time, shape[3], name, "frame", middle=False))
    elif time:
        raise DataError(f"no frame {time}; the volume has one: {name}.")
    across, up = (
        int(np.flatnonzero(frame[:, 0] == a)[0]) for a in range(3) if a != _NORMAL_AXIS[plane]
    )
    check_pixels(shape[across], shape[up], name)
    values = np.asanyarray(volume.dataobj[tuple(key)])
    if across > up:  # the axis that comes first in the file is the first of the slice
        values = values.T
    for axis, stored_axis in enumerate((across, up)):
        if frame[stored_axis, 1] < 0:
            values = np.flip(values, axis)
    grey = render_grey(values.T[::-1, ::-1], window=window)
    zooms = volume.header.get_zooms()
    image = Image.fromarray(np.ascontiguousarray(grey)).convert("RGB")
    return square_pixels(image, row=float(zooms[up]), column=float(zooms[across]))


def _position(value: int | None, count: int, name: str, what: str, *, middle: bool) -> int:
    if value is None:
        return count // 2 if middle else 0
    if not 0 <= value < count:
        raise DataError(f"no {what} {value}; there are {count}, counted from 0: {name}.")
    return value
