"""DICOM to RGB pixels, by what the file says about showing them, and nothing else of it.

Only the tags listed here are parsed; name, birth date and every other patient field stay unread, so
they cannot reach a message, a log or a saved file. Rescaling, windows and their functions, lookup
tables, MONOCHROME1, palettes, color spaces, padding values and pixel spacing are honored. Needs the
extra `dicom`.
"""

import math
import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from medllava.errors import MedllavaError, SetupError
from medllava.images.limits import MAX_BYTES, MAX_PIXELS, ImageError, check_pixels, decoding
from medllava.images.windowing import (
    Curve,
    Gray,
    Window,
    linear,
    linear_exact,
    lookup,
    render_gray,
    sigmoid,
    square_pixels,
)

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
    "ImagerPixelSpacing",
    "ModalityLUTSequence",
    "NominalScannedPixelSpacing",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelAspectRatio",
    "PixelData",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    "PresentationLUTShape",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SegmentedBluePaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "VOILUTFunction",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
]
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_SPACINGS = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
)
"""Each is (down, right). Measured distances win over a bare ratio, as PS3.3 C.7.6.3.1.7 has it."""
_DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(head: bytes) -> bool:
    """Tell by the first bytes; also DICOM without its preamble: a tag of group 2 or 8 begins it."""
    if head[128:132] == b"DICM":
        return True
    group, element = head[:2], head[2:4]
    return group in {b"\x02\0", b"\x08\0"} and element in {b"\0\0", b"\x01\0", b"\x05\0", b"\x08\0"}


def read_dicom(
    handle: BinaryIO, *, name: str, frame: int | None = None, window: Window | None = None
) -> Image.Image:
    """Read one frame as RGB.

    Args:
        handle: the file, at its start.
        name: of the source, for messages.
        frame: from 0; unset takes the middle one.
        window: center and width in rescaled units; unset takes the file's first window, else its
            lookup table, else the range of the values that are not padding.

    Raises:
        ImageError: no picture in it, no such frame, damaged, or too large.
        SetupError: pydicom, or the decoder of this file's compression, is not installed.
    """
    try:
        import pydicom  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError(f"reading DICOM needs an extra: {name}. Run: {INSTALL}") from None
    try:
        _check_deflated(handle, name)
        dataset = pydicom.dcmread(handle, force=True, specific_tags=_TAGS)
        return render_dataset(dataset, name=name, frame=frame, window=window)
    except MedllavaError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything from struct to codecs
        # The message of the error may quote the file, so only its kind is told.
        raise ImageError(
            f"the DICOM file is damaged or unusual ({type(error).__name__}): {name}."
            " Export it again, or as PNG.",
            reason="image-damaged",
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
        raise ImageError(
            f"the DICOM file unpacks to more than {MAX_BYTES:,} bytes: {name}.",
            reason="image-too-large",
        )


def render_dataset(
    dataset: Any,  # noqa: ANN401 - pydicom is untyped
    *,
    name: str,
    frame: int | None = None,
    window: Window | None = None,
) -> Image.Image:
    """Show one frame of a dataset that was read, whole or with the tags above: both look alike.

    Args:
        dataset: a `pydicom.Dataset`; an enhanced file's values of this frame are copied to its top.
        name: of the source, for messages.
        frame: see `read_dicom`.
        window: see `read_dicom`.

    Raises:
        ImageError: no picture in it, no such frame, or too large.
        SetupError: the decoder of this file's compression is not installed.
    """
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError(
            f"the DICOM file holds no picture (a report, plan, structure or waveform): {name}.",
            reason="not-an-image",
        )
    columns, rows = int(dataset.Columns), int(dataset.Rows)
    check_pixels(columns, rows, name)
    count = int(dataset.get("NumberOfFrames") or 1)
    index = count // 2 if frame is None else frame
    if not 0 <= index < count:
        raise ImageError(
            f"no frame {index}; the file has {count}, counted from 0: {name}.",
            reason="no-such-frame",
        )
    _complete_meta(dataset)
    _require_decoder(dataset, name)
    _lift_frame_values(dataset, index)
    with decoding(columns, rows):
        image = Image.fromarray(np.ascontiguousarray(_pixels(dataset, index, window)))
        image = image if image.mode == "RGB" else image.convert("RGB")
    down, right = _spacing(dataset)
    return square_pixels(image, row=down, column=right, most=MAX_PIXELS)


def _pixels(dataset: Any, index: int, window: Window | None) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - an extra

    stored = pixel_array(dataset, index=index)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - an extra

        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        colors = apply_color_lut(stored, dataset)[..., :3]
        # Some writers state 16 bits for entries of eight.
        return _eight_bits(colors, 8 if colors.max(initial=0) < 256 else bits)
    if stored.ndim == 3:
        return _eight_bits(stored, int(dataset.BitsStored))
    gray = _gray(dataset, _without_overlay_bits(dataset, stored), window)
    shape = str(dataset.get("PresentationLUTShape") or "")
    # MONOCHROME1: the smallest value is white. DX files say the same twice, so once turns both.
    return 255 - gray if kind == "MONOCHROME1" or shape == "INVERSE" else gray


def _spacing(dataset: Any) -> tuple[float, float]:  # noqa: ANN401
    """Return the distance between rows and between columns, in any one unit."""
    for keyword in _SPACINGS:
        numbers = _numbers(dataset.get(keyword))
        if len(numbers) == 2 and min(numbers) > 0:
            return numbers[0], numbers[1]
    return 1.0, 1.0


def _numbers(value: Any) -> list[float]:  # noqa: ANN401
    """Return a tag's numbers, none where it is empty or says something else."""
    if value is None or value == "":
        return []
    many = value if getattr(value, "__len__", None) and not isinstance(value, str) else [value]
    try:
        numbers = [float(one) for one in many]
    except (TypeError, ValueError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def _without_overlay_bits(
    dataset: Any,  # noqa: ANN401
    stored: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Clear the bits beyond those of the picture, where old files keep an overlay.

    Source: DICOM PS3.5 section 8.1.1.
    """
    if stored.dtype.kind not in "iu" or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return stored
    used, held = int(dataset.BitsStored), stored.dtype.itemsize * 8
    high = int(dataset.get("HighBit", used - 1))
    if used >= int(dataset.BitsAllocated) or not used - 1 <= high < held:
        return stored
    # Up to drop what is above, down to drop what is below; a signed value keeps its sign.
    return (stored << (held - 1 - high)) >> (held - used)


def _complete_meta(dataset: Any) -> None:  # noqa: ANN401
    """Give a file without header the transfer syntax it was evidently read with."""
    import pydicom  # noqa: PLC0415 - an extra
    from pydicom import uid  # noqa: PLC0415 - an extra

    meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
    if not meta.get("TransferSyntaxUID"):
        is_implicit, is_little = dataset.original_encoding
        plain = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = _compression_of(dataset.get("PixelData")) or (
            uid.ImplicitVRLittleEndian if is_implicit else plain
        )
    dataset.file_meta = meta


def _compression_of(data: bytes | None) -> str | None:
    """Return the transfer syntax that compressed pixels begin like; None for plain ones."""
    from pydicom import uid  # noqa: PLC0415 - an extra

    if not data or data[:4] != b"\xfe\xff\x00\xe0":
        return None
    first = 16 + int.from_bytes(data[4:8], "little")  # after the offset table and an item's header
    code = data[first : first + 4096]
    if code.startswith(b"\xff\x4f\xff\x51") or code[4:8] == b"jP  ":
        return str(uid.JPEG2000)
    if not code.startswith(b"\xff\xd8"):
        return str(uid.RLELossless)
    for marker, syntax in (
        (b"\xff\xf7", uid.JPEGLSLossless),
        (b"\xff\xc3", uid.JPEGLosslessSV1),
        (b"\xff\xc1", uid.JPEGExtended12Bit),
    ):
        if marker in code:
            return str(syntax)
    return str(uid.JPEGBaseline8Bit)


def _require_decoder(dataset: Any, name: str) -> None:  # noqa: ANN401
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - an extra

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == _DEFLATED:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"the DICOM file's compression ({syntax.name}) cannot be decoded: {name}. "
            "Export it uncompressed.",
            reason="image-damaged",
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


def _gray(dataset: Any, stored: npt.NDArray[Any], window: Window | None) -> Gray:  # noqa: ANN401
    return render_gray(
        stored,
        curve=linear_exact(window) if window is not None else _file_curve(dataset),
        units=lambda values: _units(dataset, values),
        padding=_padding(dataset),
    )


def _units(dataset: Any, values: npt.NDArray[Any]) -> npt.NDArray[Any]:  # noqa: ANN401
    """Return stored values in the file's units, such as Hounsfield."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 - an extra

        return np.asarray(apply_modality_lut(values, dataset))
    slope, intercept = (_numbers(dataset.get(f"Rescale{name}")) for name in ("Slope", "Intercept"))
    if not slope and not intercept:
        return values
    return values.astype(np.float64) * (slope or [1.0])[0] + (intercept or [0.0])[0]


def _file_curve(dataset: Any) -> Curve | None:  # noqa: ANN401
    """Return what the file says about showing its values: the first window, else a table."""
    centers, widths = _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth"))
    if centers and widths and widths[0] > 0:
        window = centers[0], widths[0]
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        return {"SIGMOID": sigmoid, "LINEAR_EXACT": linear_exact}.get(function, linear)(window)
    tables = dataset.get("VOILUTSequence") or []
    if not tables or not tables[0].get("LUTData"):
        return None
    entries = np.atleast_1d(np.asarray(_table_entries(tables[0]), dtype=np.int64))
    _, first, bits = (int(number) for number in tables[0].LUTDescriptor)
    if first > 0x7FFF and int(dataset.get("PixelRepresentation") or 0) == 1:
        first -= 0x10000  # stated as unsigned by files whose values are signed
    return lookup(entries, first=first, top=float(2**bits - 1))


def _table_entries(item: Any) -> Any:  # noqa: ANN401
    """Return the numbers of a lookup table, which may come as bytes (OW)."""
    data = item.LUTData
    if not isinstance(data, bytes):
        return data
    count = int(item.LUTDescriptor[0]) or 65536
    return np.frombuffer(data, dtype=np.uint8 if len(data) in {count, count + 1} else "<u2")


def _padding(dataset: Any) -> tuple[float, float] | None:  # noqa: ANN401
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted((int(first), int(last)))
    return low, high


def _eight_bits(pixels: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    if bits > 8:
        pixels = pixels >> (bits - 8)
    return pixels.astype(np.uint8)
