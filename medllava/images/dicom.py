"""DICOM to RGB pixels, by what the file says about showing them, and nothing else of it.

Only the tags listed here are parsed; name, birth date and every other patient field stay unread, so
they cannot reach a message, a log or a saved file. Rescaling, the file's window, MONOCHROME1,
palettes, colour spaces, padding values and pixel spacing are honoured. Needs the extra `dicom`.
"""

import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from medllava.errors import DataError, MedllavaError, SetupError
from medllava.images.load import MAX_BYTES, check_pixels
from medllava.images.windowing import Window, render_grey, square_pixels

INSTALL = "pip install 'medllava[dicom]'"

_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "BluePaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "Columns",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "GreenPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "HighBit",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelData",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SharedFunctionalGroupsSequence",
    "VOILUTFunction",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
]
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(
    handle: BinaryIO, *, name: str, frame: int | None = None, window: Window | None = None
) -> Image.Image:
    """Read one frame as RGB.

    Args:
        handle: the file, at its start.
        name: of the source, for messages.
        frame: from 0; unset takes the middle one.
        window: centre and width in rescaled units; unset takes the file's first window, else the
            range of the values that are not padding.

    Raises:
        DataError: no picture in it, no such frame, damaged, or too large.
        SetupError: pydicom, or the decoder of this file's compression, is not installed.
    """
    try:
        import pydicom  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError(f"reading DICOM needs an extra: {name}. Run: {INSTALL}") from None
    try:
        _check_deflated(handle, name)
        dataset = pydicom.dcmread(handle, force=True, specific_tags=_TAGS)
        return _render(dataset, name, frame, window)
    except MedllavaError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything from struct to codecs
        # The message of the error may quote the file, so only its kind is told.
        raise DataError(
            f"the DICOM file is damaged or unusual ({type(error).__name__}): {name}."
            " Export it again, or as PNG."
        ) from None


def _check_deflated(handle: BinaryIO, name: str) -> None:
    """Refuse a deflated dataset that would unpack beyond the limit; pydicom has none."""
    head = handle.read(2048)
    handle.seek(0)
    if _DEFLATED.encode() not in head or head[128:132] != b"DICM":
        return
    body = 132 + 12 + int.from_bytes(head[140:144], "little")  # after (0002,0000), a 4-byte UL
    handle.seek(body)
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(handle.read(), MAX_BYTES + 1)
    handle.seek(0)
    if len(unpacked) > MAX_BYTES:
        raise DataError(f"the DICOM file unpacks to more than {MAX_BYTES:,} bytes: {name}.")


def _render(dataset: Any, name: str, frame: int | None, window: Window | None) -> Image.Image:  # noqa: ANN401 - pydicom is untyped
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(
            f"the DICOM file holds no picture (a report, plan, structure or waveform): {name}."
        )
    check_pixels(int(dataset.Columns), int(dataset.Rows), name)
    count = int(dataset.get("NumberOfFrames") or 1)
    index = count // 2 if frame is None else frame
    if not 0 <= index < count:
        raise DataError(f"no frame {index}; the file has {count}, counted from 0: {name}.")
    _complete_meta(dataset)
    _require_decoder(dataset, name)
    _lift_frame_values(dataset, index)

    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - an extra

    stored = pixel_array(dataset, index=index)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - an extra

        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        pixels = _eight_bits(apply_color_lut(stored, dataset)[..., :3], bits)
    elif stored.ndim == 3:
        pixels = _eight_bits(stored, int(dataset.BitsStored))
    else:
        pixels = _grey(dataset, stored, window)
        if kind == "MONOCHROME1":  # the smallest value is white
            pixels = 255 - pixels
    spacing = dataset.get("PixelSpacing") or (1.0, 1.0)
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    return square_pixels(image, row=float(spacing[0]), column=float(spacing[1]))


def _complete_meta(dataset: Any) -> None:  # noqa: ANN401
    """Give a file without header the transfer syntax it was evidently read with."""
    import pydicom  # noqa: PLC0415 - an extra
    from pydicom import uid  # noqa: PLC0415 - an extra

    meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        is_implicit, is_little = dataset.original_encoding
        if is_implicit:
            meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        else:
            meta.TransferSyntaxUID = (
                uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
            )
    dataset.file_meta = meta


def _require_decoder(dataset: Any, name: str) -> None:  # noqa: ANN401
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - an extra

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == _DEFLATED:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(
            f"the DICOM file's compression ({syntax.name}) cannot be decoded: {name}. "
            "Export it uncompressed."
        ) from None
    if not decoder.is_available:
        raise SetupError(f"decoding {syntax.name} needs an extra: {name}. Run: {INSTALL}")


def _lift_frame_values(dataset: Any, index: int) -> None:  # noqa: ANN401
    """Copy rescale, window and spacing of an enhanced file's frame to where plain files have it."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    own = per_frame[index] if index < len(per_frame) else None
    for groups in (shared[0], own):  # the frame's own values win
        for keyword in _FRAME_GROUPS:
            for item in (groups.get(keyword) or [])[:1] if groups is not None else []:
                dataset.update(item)


def _grey(
    dataset: Any,  # noqa: ANN401
    stored: npt.NDArray[Any],
    window: Window | None,
) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi  # noqa: PLC0415 - an extra

    values = apply_modality_lut(stored, dataset)
    if window is None and "WindowCenter" in dataset and "WindowWidth" in dataset:
        window = _file_window(dataset)
        if str(dataset.get("VOILUTFunction", "")) == "SIGMOID":
            curve = 1 / (1 + np.exp(-4 * (values - window[0]) / window[1]))
            return render_grey(curve, window=(0.5, 1.0))
    elif window is None and dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0].LUTDescriptor
        top = float(2 ** int(table[2]) - 1)
        return render_grey(apply_voi(values, dataset), window=(top / 2, top))
    return render_grey(values, window=window, ignore=_padding(dataset, stored))


def _file_window(dataset: Any) -> Window:  # noqa: ANN401
    """Return the first window as the linear ramp of DICOM PS3.3 C.11.2.1.2 (half a unit down)."""
    centre, width = (
        float(value[0] if getattr(value, "__len__", None) else value)
        for value in (dataset.WindowCenter, dataset.WindowWidth)
    )
    if str(dataset.get("VOILUTFunction") or "LINEAR") == "LINEAR" and width > 1:
        return centre - 0.5, width - 1
    return centre, max(width, 1.0)


def _padding(dataset: Any, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:  # noqa: ANN401
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted((int(first), int(last)))
    padding: npt.NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padding


def _eight_bits(pixels: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    if bits > 8:
        pixels = pixels >> (bits - 8)
    return pixels.astype(np.uint8)
