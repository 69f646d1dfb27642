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
import numpy.typing as npt
from PIL import Image

from medllava.errors import DataError, MedllavaError, SetupError
from medllava.images.limits import MAX_BYTES, MAX_PIXELS, ImageError, check_pixels, decoding
from medllava.images.windowing import Window, linear_exact, render_gray, square_pixels

INSTALL = "pip install 'medllava[nifti]'"

_COLORS = (None, ("R", "G", "B"), ("R", "G", "B", "A"))
_NORMAL_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis of the right-anterior-superior frame that a plane's slices are counted along."""


def is_nifti(head: bytes) -> bool:
    """Tell by the first bytes; every gzip file is taken for one until it is unpacked."""
    return (
        head[344:348] in {b"n+1\0", b"ni1\0"}
        or head[4:8] in {b"n+2\0", b"ni2\0"}
        or head[:2] == b"\x1f\x8b"
    )


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
        window: center and width; unset shows the range of the slice's values.

    Raises:
        ImageError: not a volume, no such slice, damaged, or too large.
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
        _check_length(volume, data, name)
        return _render(volume, name, plane, index, time, window)
    except MedllavaError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged header raises anything
        raise ImageError(
            f"the NIfTI file is damaged or unusual ({type(error).__name__}): {name}."
            " A header without its .img file cannot be read.",
            reason="image-damaged",
        ) from None


def _unpack(data: bytes, name: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = unpacker.decompress(data, MAX_BYTES + 1)
    except zlib.error:
        raise _damaged("the gzip file is damaged", name) from None
    if len(plain) > MAX_BYTES:
        raise ImageError(
            f"the file unpacks to more than {MAX_BYTES:,} bytes: {name}.", reason="image-too-large"
        )
    if not unpacker.eof:
        raise _damaged("the gzip file is damaged, it ends too early", name)
    if plain[344:348] != b"n+1\0" and plain[4:7] != b"n+2":
        raise ImageError(
            f"not an image: {name}. A gzip file must hold a NIfTI volume (.nii.gz).",
            reason="not-an-image",
        )
    return plain


def _damaged(what: str, name: str) -> ImageError:
    return ImageError(f"{what}: {name}. Get it again.", reason="image-damaged")


def _check_length(volume: Any, data: bytes, name: str) -> None:  # noqa: ANN401 - nibabel is untyped
    """Refuse a file that ends before its last voxel, even if the slice asked for is there."""
    size = int(np.prod([int(n) for n in volume.shape])) * volume.get_data_dtype().itemsize
    if len(data) < volume.dataobj.offset + size:
        raise _damaged("the NIfTI file is damaged, it ends too early", name)


def _render(
    volume: Any,  # noqa: ANN401 - nibabel is untyped
    name: str,
    plane: str,
    index: int | None,
    time: int | None,
    window: Window | None,
) -> Image.Image:
    import nibabel  # noqa: PLC0415 - an extra

    shape = _shape(volume, name)
    frame = nibabel.orientations.io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    if np.isnan(frame).any():
        raise ImageError(
            f"the volume's orientation is unknown (no usable affine): {name}.",
            reason="image-damaged",
        )
    normal = int(np.flatnonzero(frame[:, 0] == _NORMAL_AXIS[plane])[0])
    chosen = _position(index, shape[normal], name, f"{plane} slice", middle=True)
    stored = chosen if frame[normal, 1] > 0 else shape[normal] - 1 - chosen
    key: list[int | slice] = [slice(None)] * 3
    key[normal] = stored
    if len(shape) == 4:
        key.append(_position(time, shape[3], name, "frame", middle=False))
    elif time:
        raise ImageError(f"no frame {time}; the volume has one: {name}.", reason="no-such-frame")
    across, up = (
        int(np.flatnonzero(frame[:, 0] == a)[0]) for a in range(3) if a != _NORMAL_AXIS[plane]
    )
    check_pixels(shape[across], shape[up], name)
    with decoding(shape[across], shape[up]):
        values = np.asanyarray(volume.dataobj[(*key, *[0] * (volume.ndim - len(key)))])
        if across > up:  # the axis that comes first in the file is the first of the slice
            values = values.T
        for axis, stored_axis in enumerate((across, up)):
            if frame[stored_axis, 1] < 0:
                values = np.flip(values, axis)
        image = _to_image(values.T[::-1, ::-1], window)
    zooms = (*volume.header.get_zooms(), 1.0)
    return square_pixels(image, row=float(zooms[up]), column=float(zooms[across]), most=MAX_PIXELS)


def _shape(volume: Any, name: str) -> tuple[int, ...]:  # noqa: ANN401 - nibabel is untyped
    """Return the sizes along x, y, z and, if there are several volumes, time."""
    shape = tuple(int(n) for n in volume.shape)
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in {3, 4} or volume.get_data_dtype().names not in _COLORS:
        raise ImageError(
            f"a volume of shape {shape} cannot be shown: {name}. Give a 3-D or 4-D one.",
            reason="not-an-image",
        )
    return shape


def _to_image(values: npt.NDArray[Any], window: Window | None) -> Image.Image:
    """Return a slice as RGB: colors as they are, transparent ones on white; else windowed."""
    if values.dtype.names is None:
        gray = render_gray(values, curve=linear_exact(window) if window else None)
        return Image.fromarray(np.ascontiguousarray(gray)).convert("RGB")
    channels = [np.ascontiguousarray(values[channel]) for channel in values.dtype.names]
    bands = [Image.fromarray(channel) for channel in channels]
    image = Image.merge("RGB", bands[:3])
    if len(bands) == 4:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), bands[3])
    return image


def _position(value: int | None, count: int, name: str, what: str, *, middle: bool) -> int:
    if value is None:
        return count // 2 if middle else 0
    if not 0 <= value < count:
        raise ImageError(
            f"no {what} {value}; there are {count}, counted from 0: {name}.",
            reason="no-such-frame",
        )
    return value
