"""How well compound figures are taken apart: drawn compounds with exact truth, one table.

    python tests/benchmarks/pmc_panels.py IMAGES --figures 5000 --seed 0

IMAGES is a folder of single pictures (the quickstart leaves one: runs/quickstart/figures/images).
Each compound takes up to 12 of them in one of the layouts that journals print, labels inside or
outside, with a caption whose phrases name the panels. F1 counts a panel as found at IoU 0.7; a part
of the caption is right when the panel at its place carries its own phrase and no other panel's.
`--show FOLDER` writes the drawings that went wrong, with the boxes that were found.
"""

import argparse
import random
import string
import time
from collections import Counter, defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from medllava.pmc.panels import Box, SplitFigure, split_figure

LAYOUTS = ("grid", "unequal", "collage", "touching", "inset", "columns", "single")
MATCH = 0.7
GRIDS = ((1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (1, 4), (3, 4))
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif.ttf", "LiberationSans-Bold.ttf")
SUBJECTS = ("axial CT", "coronal T2 image", "H&E stain", "chest radiograph", "sagittal view",
            "follow-up scan", "gross specimen", "ultrasound image", "angiogram", "PET slice",
            "contrast study", "detail of the lesion")  # fmt: skip
STYLES = {
    "(A)": lambda letter: f"({letter})",
    "(a)": lambda letter: f"({letter.lower()})",
    "A)": lambda letter: f"{letter})",
    "a": lambda letter: letter.lower(),
    "A": lambda letter: letter,
}


class Compound:
    """One drawing with its truth."""

    def __init__(self, rng: random.Random, files: list[Path]) -> None:
        """Draw a layout, its labels and its caption."""
        self.rng, self.files = rng, files
        self.layout = rng.choice(LAYOUTS)
        self.background = "white" if rng.random() < 0.8 else "black"
        self.gutter = 0 if self.layout == "touching" else rng.choice((2, 4, 6, 10, 16, 24))
        self.cells = self._cells()
        # Rows are read first, but for figures that are lettered down their columns.
        if self.layout == "columns":
            self.cells.sort(key=lambda cell: (cell[0], cell[1]))
        self.style = rng.choice(list(STYLES))
        self.outside = (
            self.gutter >= 6 and rng.random() < 0.4 and self.layout in {"grid", "columns"}
        )
        self.phrases = rng.sample(SUBJECTS, len(self.cells))
        self.image, self.boxes = self._draw()
        self.caption = self._caption()

    def _cells(self) -> list[Box]:
        rng, gutter = self.rng, self.gutter
        width, height = rng.randint(600, 1600), rng.randint(500, 1400)
        rows, columns = rng.choice(
            ((1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (1, 4), (3, 4))
        )
        if self.layout == "single":
            return [(0, 0, width, height)]
        if self.layout in {"grid", "inset", "columns", "touching"}:
            if self.layout == "columns":
                rows, columns = rng.choice(((2, 2), (2, 3), (3, 2)))
            return [
                (c * width // columns, r * height // rows,
                 (c + 1) * width // columns - gutter, (r + 1) * height // rows - gutter)
                for r in range(rows) for c in range(columns)
            ]  # fmt: skip
        if self.layout == "unequal":
            cells, top = [], 0
            for _ in range(rng.randint(2, 3)):
                bottom, left = top + rng.randint(200, 500), 0
                count = rng.randint(1, 3)
                cuts = sorted(rng.uniform(0.25, 0.75) for _ in range(count - 1))
                if count == 3 and cuts[1] - cuts[0] < 0.2:
                    cuts = [0.33, 0.66]
                for share in [*cuts, 1.0]:
                    right = round(share * width)
                    cells.append((left, top, right - gutter, bottom - gutter))
                    left = right
                top = bottom
            return cells
        half, third = width // 2, height // 2  # collage: one tall panel beside a stack
        stack = rng.randint(2, 3)
        return [(0, 0, half - gutter, 2 * third - gutter)] + [
            (half, i * 2 * third // stack, width, (i + 1) * 2 * third // stack - gutter)
            for i in range(stack)
        ]

    def _draw(self) -> tuple[Image.Image, list[Box]]:
        rng = self.rng
        label_height = 34 if self.outside else 0
        margin = rng.choice((0, 0, 8, 20))
        tops = sorted({cell[1] for cell in self.cells})
        shift = {top: (index + 1) * label_height for index, top in enumerate(tops)}
        boxes = [
            (c[0] + margin, c[1] + margin + shift[c[1]], c[2] + margin, c[3] + margin + shift[c[1]])
            for c in self.cells
        ]
        size = (max(b[2] for b in boxes) + margin, max(b[3] for b in boxes) + margin)
        canvas = Image.new("RGB", size, self.background)
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.truetype(rng.choice(FONTS), rng.randint(20, 30))
        for index, box in enumerate(boxes):
            picture = Image.open(rng.choice(self.files)).convert("RGB")
            canvas.paste(picture.resize((box[2] - box[0], box[3] - box[1])), box[:2])
            if self.layout == "inset" and index == 0:
                w, h = (box[2] - box[0]) // 3, (box[3] - box[1]) // 3
                detail = Image.open(rng.choice(self.files)).convert("RGB").resize((w, h))
                canvas.paste(detail, (box[2] - w - 4, box[3] - h - 4))
                draw.rectangle(
                    (box[2] - w - 5, box[3] - h - 5, box[2] - 4, box[3] - 4),
                    outline="white",
                    width=2,
                )
            if len(boxes) > 1:
                mark = STYLES[self.style](string.ascii_uppercase[index])
                at = (box[0] + 6, box[1] - 32) if self.outside else (box[0] + 6, box[1] + 4)
                dark = self.background == "black" if self.outside else rng.random() < 0.7
                draw.text(at, mark, font=font, fill="white" if dark else "black")
        return canvas, boxes

    def _caption(self) -> str:
        rng = self.rng
        if len(self.cells) == 1:
            return f"A 54-year-old patient. {self.phrases[0].capitalize()} at admission."
        letters = string.ascii_uppercase[: len(self.cells)]
        if rng.random() < 0.2:
            letters = letters.lower()
        lead = "Imaging of a 54-year-old patient."
        form = rng.choice(("before", "before", "before", "after", "bare"))
        if form == "before":
            return f"{lead} " + " ".join(
                f"({letter}) {phrase.capitalize()}."
                for letter, phrase in zip(letters, self.phrases, strict=True)
            )
        if form == "bare":
            return f"{lead} " + " ".join(
                f"{letter}, {phrase}." for letter, phrase in zip(letters, self.phrases, strict=True)
            )
        return (
            f"{lead} "
            + ", ".join(
                f"{phrase} ({letter})" for letter, phrase in zip(letters, self.phrases, strict=True)
            )
            + "."
        )


def main() -> None:
    """Draw, split, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--figures", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    files = sorted(p for p in options.images.rglob("*") if p.suffix in {".png", ".jpg"})
    rng = random.Random(options.seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds = 0.0
    for number in range(options.figures):
        compound = Compound(rng, files)
        started = time.process_time()
        found = split_figure(compound.image, compound.caption)
        seconds += time.process_time() - started
        result = compare(compound, found)
        counts[compound.layout] += result
        if options.show and result["parts"] < result["wanted"]:
            options.show.mkdir(parents=True, exist_ok=True)
            draw_boxes(compound.image, found).save(
                options.show / f"{number:05}-{compound.layout}.jpg"
            )
    print("layout      figures  precision  recall     F1  caption parts  whole figures")
    for name, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        precision, recall = row["matched"] / row["found"], row["matched"] / row["wanted"]
        f1 = 2 * precision * recall / (precision + recall)
        print(
            f"{name:<10} {row['figures']:>8} {precision:>10.3f} {recall:>7.3f} {f1:>6.3f}"
            f" {row['parts'] / row['wanted']:>14.3f} {row['whole'] / row['figures']:>14.3f}"
        )
    print(f"{options.figures / seconds:.1f} figures/s of one core (splitting only)")


def compare(compound: Compound, found: SplitFigure) -> Counter[str]:
    """Count boxes that match and parts of the caption that are at their place."""
    matched, parts = set(), 0
    for truth, phrase in zip(compound.boxes, compound.phrases, strict=True):
        panel = max(found.panels, key=lambda panel: overlap(panel.box, truth))
        if overlap(panel.box, truth) < MATCH:
            continue
        matched.add(panel.box)
        text = panel.caption.lower()
        others = (p.lower() for p in compound.phrases if p != phrase)
        parts += phrase.lower() in text and not any(other in text for other in others)
    wanted = len(compound.boxes)
    return Counter(
        figures=1,
        matched=len(matched),
        found=len(found.panels),
        wanted=wanted,
        parts=parts,
        whole=int(parts == wanted == len(found.panels)),
    )


def draw_boxes(image: Image.Image, found: SplitFigure) -> Image.Image:
    """Draw what was found onto the compound."""
    draw = ImageDraw.Draw(image)
    for panel in found.panels:
        draw.rectangle(panel.box, outline="red", width=5)
        at = (panel.box[0] + 60, panel.box[1] + 40)
        draw.text(at, panel.label or "-", fill="red", font_size=40)
    return image


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


if __name__ == "__main__":
    main()
