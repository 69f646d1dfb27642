"""Panels of published figures, against boxes marked by hand.

    python tests/benchmarks/pmc_panels_marked.py FOLDER [FOLDER ...]

The folders hold the pictures, which are found by their content wherever they lie; the boxes, with
captions, sources and licenses, are in tests/fixtures/panels/marked.json. Two countings, because a
plate of unlettered photographs is one panel to its caption and many pictures to the eye. Boxes
match at IoU 0.7; a figure of one panel counts as a box of the whole figure. Methods were made with
the figures marked `tune`; those `held out` say what they are worth.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pmc_panels import MATCH, overlap

from medllava.pmc.figures import SURE_ENOUGH
from medllava.pmc.panels import SplitFigure, split_figure

MARKED = Path(__file__).parents[1] / "fixtures" / "panels" / "marked.json"
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif"}


def find_pictures(folders: Sequence[Path]) -> dict[str, Path]:
    """Pictures below the folders by md5."""
    return {
        hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(): path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }


def believed(found: SplitFigure, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
    """Boxes and labels as the step takes them: unsure or without words of its own, it is whole."""
    if len(found.panels) > 1 and found.confidence >= SURE_ENOUGH and found.panels[0].label:
        return [(panel.box, panel.label) for panel in found.panels]
    return [((0, 0, *size), "")]


def count(marked: dict, image: Image.Image, *, counting: str) -> Counter[str]:
    """What was found of one figure."""
    found = believed(split_figure(image, marked["caption"]), image.size)
    truth = marked.get("panels", {"": [0, 0, *image.size]})
    if counting == "photographs":
        truth = {str(n): box for n, box in enumerate(marked.get("photographs", ()))} or truth
    hits = {
        label: best
        for label, box in truth.items()
        for best in [max(found, key=lambda one: overlap(one[0], box))]
        if overlap(best[0], box) >= MATCH
    }
    return Counter(
        figures=1,
        compound=len(truth) > 1,
        wanted=len(truth),
        found=len(found),
        matched=len({box for box, _ in hits.values()}),
        labels=sum(best[1].lower() == label.lower() for label, best in hits.items()),
        right=len(hits) == len(truth) == len(found),
        right_compound=len(hits) == len(truth) == len(found) > 1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--set", choices=["tune", "held out"], help="these only")
    parser.add_argument("--each", action="store_true", help="a line for each figure")
    options = parser.parse_args()
    pictures = find_pictures(options.folders)
    figures = json.loads(MARKED.read_text())["figures"]
    counts: dict[tuple[str, str], Counter[str]] = {}
    absent = 0
    for marked in figures:
        if options.set not in {None, marked["set"]}:
            continue
        path = pictures.get(marked["md5"])
        if path is None:
            absent += 1
            continue
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for counting in ("panels", "photographs"):
            row = count(marked, image, counting=counting)
            counts[marked["set"], counting] = counts.get((marked["set"], counting), Counter()) + row
            if options.each and counting == "panels":
                print(
                    f"{'ok ' if row['right'] else '   '}{marked['file']:42}"
                    f" marked {row['wanted']}, found {row['found']}, matched {row['matched']}"
                )
    if absent:
        print(f"{absent} of {len(figures)} pictures are not below the folders; left out")
    print(
        "set       counted as   figures  right  compound  right  boxes  precision  recall     F1"
        "  own words"
    )
    for (kind, counting), row in sorted(counts.items()):
        precision, recall = row["matched"] / row["found"], row["matched"] / row["wanted"]
        f1 = 2 * precision * recall / (precision + recall) if row["matched"] else 0.0
        print(
            f"{kind:<9} {counting:<12} {row['figures']:>7} {row['right']:>6} {row['compound']:>9}"
            f" {row['right_compound']:>6} {row['wanted']:>6} {precision:>10.3f} {recall:>7.3f}"
            f" {f1:>6.3f} {row['labels'] / row['wanted']:>10.3f}"
        )


if __name__ == "__main__":
    main()
