"""What a file offers to look at: frames, slices, a window. For viewers; no pixels are read."""

import io
from dataclasses import dataclass, field

from medllava.images.dicom import is_dicom
from medllava.images.nifti import is_nifti
from medllava.images.raster import is_raster
from medllava.images.series import Series
from medllava.images.windowing import Window
from medllava.records import Record

_SHOWING = (
    "NumberOfFrames", "WindowCenter", "WindowWidth", "Modality", "SamplesPerPixel",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts(Record):
    """What can be chosen about one file's picture; see `medllava.images.load.load_image`."""

    kind: str
    """`dicom`, `nifti` or `raster`."""
    num_frames: int = 1
    planes: dict[str, int] = field(default_factory=dict)
    """Of a volume: plane to number of slices."""
    is_measured: bool = False
    """Whether a window of measured values can be chosen."""
    window: Window | None = None
    """The file's own: center and width."""
    is_ct: bool = False
    """Values are Hounsfield units, so that the usual windows of CT fit."""


def describe_image(data: bytes | Series[bytes]) -> ImageFacts:
    """Return what a file or a series offers; `load_image` reads it, so nothing is checked again."""
    if isinstance(data, Series):
        is_ct = data.modality == "CT"
        return ImageFacts(kind="dicom", num_frames=len(data.slices), is_measured=True, is_ct=is_ct)
    if is_dicom(data[:512]):
        return _describe_dicom(data)
    if is_nifti(data[:512]):
        return _describe_nifti(data)
    return _describe_raster(data) if is_raster(data[:512]) else ImageFacts(kind="raster")


def _describe_dicom(data: bytes) -> ImageFacts:
    import pydicom  # noqa: PLC0415 - an extra

    tags = pydicom.dcmread(
        io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(_SHOWING)
    )
    centers, widths = (_numbers(tags.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return ImageFacts(
        kind="dicom",
        num_frames=max(1, int(tags.get("NumberOfFrames") or 1)),
        is_measured=int(tags.get("SamplesPerPixel") or 1) == 1,
        window=(centers[0], widths[0]) if centers and widths else None,
        is_ct=str(tags.get("Modality") or "") == "CT",
    )


def _describe_nifti(data: bytes) -> ImageFacts:
    import gzip  # noqa: PLC0415 - volumes only

    import nibabel  # noqa: PLC0415 - an extra
    import numpy as np  # noqa: PLC0415

    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    kind = nibabel.Nifti2Image if plain[4:7] == b"n+2" else nibabel.Nifti1Image
    volume = kind.from_stream(io.BytesIO(plain))
    toward = nibabel.orientations.io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    sizes = {int(axis): int(volume.shape[i]) for i, axis in enumerate(np.nan_to_num(toward[:, 0]))}
    names = {"axial": 2, "coronal": 1, "sagittal": 0}
    return ImageFacts(
        kind="nifti",
        num_frames=int(volume.shape[3]) if len(volume.shape) > 3 else 1,
        planes={name: sizes.get(axis, 1) for name, axis in names.items()},
        is_measured=volume.get_data_dtype().names is None,  # type: ignore[no-untyped-call]
    )


def _describe_raster(data: bytes) -> ImageFacts:
    from PIL import Image  # noqa: PLC0415 - quick to skip for volumes

    with Image.open(io.BytesIO(data)) as image:
        return ImageFacts(
            kind="raster",
            num_frames=int(getattr(image, "n_frames", 1)),
            is_measured=image.mode.startswith(("I", "F")),
        )


def _numbers(value: object) -> list[float]:
    values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    try:
        return [float(number) for number in values if number not in (None, "")]  # type: ignore[attr-defined, arg-type]
    except (TypeError, ValueError):
        return []
