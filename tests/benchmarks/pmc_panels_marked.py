"""Panels of published figures, against boxes marked by hand.

    python tests/benchmarks/pmc_panels_marked.py PACKAGES

PACKAGES holds article packages (a folder per PMCID with XML and pictures); the boxes, with sources
and licenses, are in tests/fixtures/panels/marked.json, the pictures are not. Two countings, because
a plate of unlettered photographs is one panel to its caption and many pictures to the eye. Boxes
match at IoU 0.7; a figure of one panel counts as a box of the whole figure.
"""

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

from PIL import Image
from pmc_panels import MATCH, overlap

from medllava.pmc.figures import SURE_ENOUGH
from medllava.pmc.jats import read_article
from medllava.pmc.panels import SplitFigure, split_figure
from medllava.pmc.xml import parse_article

MARKED = Path(__file__).parents[1] / "fixtures" / "panels" / "marked.json"


def load_captions(packages: Path) -> dict[str, str]:
    """Captions by `PMCID/file stem`."""
    return {
        f"{path.parent.name}/{Path(name).stem}": figure.caption
        for path in sorted(packages.glob("*/*.nxml"))
        for figure in read_article(parse_article(path.read_bytes())).figures
        for names in figure.graphics
        for name in [f"{names[0]}.jpg"]
    }


def believed(found: SplitFigure, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
    """Boxes and captions as the step takes them: a split that is not sure leaves the whole."""
    if len(found.panels) > 1 and found.confidence >= SURE_ENOUGH:
        return [(panel.box, panel.label) for panel in found.panels]
    return [((0, 0, *size), "")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("packages", type=Path)
    options = parser.parse_args()
    captions = load_captions(options.packages)
    counts: dict[str, Counter[str]] = {"panels": Counter(), "photographs": Counter()}
    for marked in json.loads(MARKED.read_text())["figures"]:
        path = options.packages / marked["file"]
        data = path.read_bytes()
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != marked["md5"]:
            raise SystemExit(f"not the picture that was marked: {path}")
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        found = believed(split_figure(image, captions[marked["file"][:-4]]), image.size)
        whole = {"": [0, 0, *image.size]}
        named = marked.get("panels", whole)
        every = {str(n): box for n, box in enumerate(marked.get("photographs", ()))} or named
        for name, truth in (("panels", named), ("photographs", every)):
            hits = {
                label: best
                for label, box in truth.items()
                for best in [max(found, key=lambda one: overlap(one[0], box))]
                if overlap(best[0], box) >= MATCH
            }
            counts[name] += Counter(
                figures=1,
                wanted=len(truth),
                found=len(found),
                matched=len({box for box, _ in hits.values()}),
                labels=sum(best[1] == label for label, best in hits.items()),
                right=len(hits) == len(truth) == len(found),
            )
        print(f"{marked['file']:42} marked {len(named)} ({len(every)}), found {len(found)}")
    print("\ncounted as   figures  right  boxes  precision  recall     F1  own words")
    for name, row in counts.items():
        precision, recall = row["matched"] / row["found"], row["matched"] / row["wanted"]
        f1 = 2 * precision * recall / (precision + recall)
        print(
            f"{name:<12} {row['figures']:>7} {row['right']:>6} {row['wanted']:>6}"
            f" {precision:>10.3f} {recall:>7.3f} {f1:>6.3f} {row['labels'] / row['wanted']:>10.3f}"
        )


if __name__ == "__main__":
    main()
