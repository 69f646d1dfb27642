"""How much of what is planted the privacy gate finds, and how often it cries wolf.

    python tests/benchmarks/privacy_gate.py [--pictures 1000] [--seed 0] [--clean FOLDER]

Text of a patient (names, dates, numbers) is drawn into pictures in ten fonts, ten sizes and ten
contrasts; the pictures that pydicom and pydicom-data bring and in which a person sees no text, and
those of FOLDER, are read as they are; names are planted in the tags of a DICOM file one by one.
Prints one table. *Covered* counts planted texts of which nine tenths would be painted over.
"""

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medllava.errors import MedllavaError
from medllava.images.load import load_image
from medllava.privacy.pixels import TextFinder
from medllava.privacy.tags import _DUMMY_ALLOWED, _REMOVED, find_in_tags

FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/Library/Fonts"), Path("C:/Windows/Fonts"))
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansCondensed.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-Bold.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationMono-Regular.ttf",
    "LiberationSansNarrow-Regular.ttf",
)
SIZES = (10, 11, 12, 14, 16, 18, 20, 24, 28, 32)
"""Pixels of the font."""
CONTRASTS = (255, 220, 190, 160, 140, 120, 100, 80, 64, 48)
"""Levels between the text and the middle of what lies under it."""
WITH_TEXT = frozenset(
    [
        "GDCMJ2K_TextGBR.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "OBXXXX1A.dcm",
        "OBXXXX1A_2frame.dcm",
        "US1_J2KI.dcm",
        "US1_J2KR.dcm",
        "color3d_jpeg_baseline.dcm",
        "examples_palette.dcm",
        "examples_rgb_color.dcm",
        "examples_ybr_color.dcm",
        "gdcm-US-ALOKA-16.dcm",
        "mlut_18.dcm",
        "vlut_04.dcm",
    ]
)
"""The first of each picture in which a person sees words, as they were looked at one by one."""
WORDS = ("Lindqvist^Maren", "OKAFOR, CHIDI", "Tanaka Haruto", "DOB 1961-02-03", "ID: 00412345")


def clean_files() -> list[Path]:
    """Return the DICOM files that pydicom and pydicom-data bring."""
    import pydicom

    roots = [Path(pydicom.__file__).parent / "data" / "test_files"]
    brought = find_spec("data_store")
    if brought is not None and brought.submodule_search_locations:
        roots.append(Path(brought.submodule_search_locations[0]) / "data")
    return sorted(file for root in roots for file in root.rglob("*.dcm"))


def distinct_pictures() -> list[tuple[Path, Image.Image]]:
    """Return the pictures that can be read, one of each content, with the first file of each."""
    seen: dict[bytes, tuple[Path, Image.Image]] = {}
    for path in clean_files():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = load_image(path)
        except MedllavaError:
            continue
        seen.setdefault(image.resize((16, 16)).tobytes(), (path, image))
    return list(seen.values())


def count_alarms(finder: TextFinder, pictures: list[tuple[Path, Image.Image]], what: str) -> None:
    """Print how many pictures without text are flagged, and which."""
    flagged = [path.name for path, image in pictures if finder.find(image)]
    share = len(flagged) / max(1, len(pictures))
    print(f"{what}: {len(flagged)} of {len(pictures)} flagged ({share:.1%}) {flagged}", flush=True)


def plant(image: Image.Image, words: str, *, font: str, size: int, contrast: int, seed: int):
    """Draw words at a random place, lighter or darker than it by `contrast`."""
    chance = random.Random(seed)
    picture = image.resize((512, 512)) if max(image.size) > 512 else image.copy()
    draw = ImageDraw.Draw(picture)
    face = ImageFont.truetype(str(font), size)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=face)
    width, height = right - left, bottom - top
    x = chance.randint(2, max(3, picture.width - width - 4))
    y = chance.randint(2, max(3, picture.height - height - 4))
    under = np.asarray(picture.convert("L").crop((x, y, x + width, y + height)))
    middle = float(np.median(under))
    level = middle + contrast if middle + contrast <= 255 or middle < 128 else middle - contrast
    level = int(min(255, max(0, level)))
    draw.text((x - left, y - top), words, fill=(level, level, level), font=face)
    return picture, (x, y, x + width, y + height)


def overlaps(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Tell whether two boxes share a pixel."""
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def covered(box: tuple[int, int, int, int], hits: list[tuple[int, int, int, int]]) -> float:
    """Return how much of a planted text lies under the places that were found."""
    mask = np.zeros((box[3] - box[1], box[2] - box[0]), bool)
    for left, top, right, bottom in hits:
        rows = slice(max(0, top - box[1]), max(0, bottom - box[1]))
        mask[rows, max(0, left - box[0]) : max(0, right - box[0])] = True
    return float(mask.mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean", type=Path, default=None)
    parser.add_argument("--most-clean", type=int, default=200)
    options = parser.parse_args()
    fonts = [p for name in FONTS for root in FONT_FOLDERS for p in root.rglob(name)][:10]
    finder = TextFinder()
    clean = [(p, image) for p, image in distinct_pictures() if p.name not in WITH_TEXT]
    count_alarms(finder, clean, "pydicom's pictures without text")
    if options.clean is not None:
        files = sorted(p for p in options.clean.rglob("*") if p.suffix in (".png", ".jpg"))
        chosen = random.Random(options.seed).sample(files, min(len(files), options.most_clean))
        count_alarms(finder, [(p, load_image(p)) for p in chosen], "pictures of the folder")
    canvases = [im for _, im in clean if min(im.size) >= 200 and max(im.size) <= 1200]
    canvases = [image for image in canvases if not finder.find(image)]
    print(f"{len(canvases)} clean pictures to draw on, {len(fonts)} fonts")
    found, whole, asked, missed = 0, 0, 0, Counter()
    by = {"font": Counter(), "size": Counter(), "contrast": Counter()}
    chance = random.Random(options.seed)
    started = time.process_time()
    for number in range(options.pictures):
        font = fonts[number % len(fonts)]
        size = SIZES[number // 10 % 10]
        contrast = CONTRASTS[(number + number // 10 + number // 100) % 10]
        words = chance.choice(WORDS)
        picture, box = plant(
            chance.choice(canvases), words, font=font, size=size, contrast=contrast, seed=number
        )
        asked += 1
        hits = [f.box for f in finder.find(picture) if f.box is not None]
        whole += covered(box, hits) >= 0.9
        if any(overlaps(hit, box) for hit in hits):
            found += 1
        else:
            missed[words] += 1
            print(f"  missed {number}: {font.name} {size} {contrast} {words}", file=sys.stderr)
            by["font"][font.name] += 1
            by["size"][size] += 1
            by["contrast"][contrast] += 1
        if number % 50 == 49:
            print(
                f"  {number + 1}: {found / asked:.1%}, covered {whole / asked:.1%}",
                file=sys.stderr,
                flush=True,
            )
    seconds = (time.process_time() - started) / max(asked, 1)
    print(
        f"planted text found   {found} of {asked} ({found / asked:.1%}), {seconds:.2f} CPU s each"
    )
    print(f"planted text covered {whole} of {asked} ({whole / asked:.1%})")
    for name, counter in by.items():
        print(f"  missed by {name}: {dict(counter)}")
    print_tags()


def print_tags() -> None:
    """Plant a name into every tag in turn and count what is found."""
    import tempfile

    import pydicom
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    source = next(path for path in clean_files() if path.name == "MR_small.dcm")
    total, found, unknown = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for keyword in sorted(_DUMMY_ALLOWED | _REMOVED):
            tag = tag_for_keyword(keyword)
            if tag is None:
                unknown.append(keyword)
                continue
            vr = dictionary_VR(tag)
            if vr == "SQ":
                continue
            dataset = pydicom.dcmread(source)
            value = {"DA": "19610203", "TM": "101112", "DT": "19610203101112"}.get(vr, "Lindqvist")
            setattr(dataset, keyword, value)
            path = Path(folder) / "planted.dcm"
            dataset.save_as(path)
            total += 1
            found += keyword in {finding.where for finding in find_in_tags(path)}
    print(f"planted tags found   {found} of {total}; keywords not in the dictionary: {unknown}")


if __name__ == "__main__":
    main()
