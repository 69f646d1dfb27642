"""Text burned into pixels, found by RapidOCR, whose weights come in its wheel.

Everything that reads as words or numbers is found, except what scanners print on every picture and
what tells nothing of a person: sides, views, scales. Needs the extra `ocr`.
"""

import logging
import re
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from medllava.errors import SetupError
from medllava.privacy.findings import Box, Finding, Kind

INSTALL = "pip install 'medllava[ocr]'"

_MIN_LETTERS = 4
"""Shorter texts are sides, scale bars and letters of panels."""
_SCORE = 0.4
_LONGEST_SIDE = 1600
"""Larger pictures are read in tiles, so that small print stays legible."""
_OVERLAP = 200
_SMALL_SIDE = 800
"""Pictures up to this size are read at twice their size: small print is missed otherwise."""
_MARGIN = 3
_HARMLESS = re.compile(
    r"(?:\d+(?:[.,]\d+)? ?(?:[mcuµn]?m|mm/s|cm/s|k?hz|mhz|db|kv|kvp|mas?|ms|s|fps|x|%|hu|t|bpm)"
    r"|left|right|erect|supine|prone|portable|upright|semi-?erect|lateral|frontal|axial|sagittal|"
    r"coronal|anterior|posterior|oblique|zoom|scale|compressed|lossy|lossless|image|series|slice|"
    r"[rl]?(?:mlo|cc|lat|ap|pa)|flair|dwi|stir|t[12]w?i?|contrast)[ .:]*",
    re.IGNORECASE,
)


def has_reader() -> bool:
    """Tell whether the extra `ocr` is installed."""
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


class TextFinder:
    """Looks for text in pictures; one model, usable by several threads in turn."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            SetupError: the extra `ocr` is not installed.
        """
        if not has_reader():
            raise SetupError(
                f"looking for text burned into pixels needs an extra. Run: {INSTALL}, or go on "
                "without with --privacy off."
            )
        from rapidocr import RapidOCR  # noqa: PLC0415 - an extra

        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._read: Any = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": _SCORE,
                "Global.use_cls": False,
            }
        )
        self._lock = threading.Lock()

    def find(self, image: Image.Image) -> list[Finding]:
        """Return the places of an RGB picture that bear text.

        Args:
            image: as `load_image` shows it.
        """
        return [
            Finding(kind=Kind.TEXT, where=f"{len(text)} characters", box=box)
            for text, box in self._texts(image)
            if _tells_something(text)
        ]

    def _texts(self, image: Image.Image) -> list[tuple[str, Box]]:
        found = []
        scale = 2 if max(image.size) <= _SMALL_SIDE else 1
        for left, top in _tiles(image.size):
            right = min(left + _LONGEST_SIDE, image.width)
            bottom = min(top + _LONGEST_SIDE, image.height)
            part = image.crop((left, top, right, bottom))
            if scale > 1:
                part = part.resize((part.width * scale, part.height * scale))
            pixels = np.asarray(part)[..., ::-1]
            with self._lock:
                read = self._read(np.ascontiguousarray(pixels))
            for corners, text in zip(_list(read.boxes), _list(read.txts), strict=True):
                xs, ys = np.asarray(corners).T / scale
                box = (
                    max(0, int(xs.min()) - _MARGIN + left),
                    max(0, int(ys.min()) - _MARGIN + top),
                    min(image.width, int(xs.max()) + _MARGIN + left),
                    min(image.height, int(ys.max()) + _MARGIN + top),
                )
                found.append((str(text), box))
        return found


def paint_over(image: Image.Image, findings: list[Finding]) -> Image.Image:
    """Return a copy with the places of all findings black."""
    painted = image.copy()
    draw = ImageDraw.Draw(painted)
    for finding in findings:
        if finding.box is not None:
            draw.rectangle(finding.box, fill="black")
    return painted


def _tells_something(text: str) -> bool:
    words = [word for word in re.split(r"\s+", text.strip()) if word]
    left = "".join(word for word in words if not _HARMLESS.fullmatch(word))
    if _HARMLESS.fullmatch(text.strip()):
        return False
    return sum(character.isalnum() for character in left) >= _MIN_LETTERS


def _tiles(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the upper left corners of tiles that cover a picture and overlap by a line of text."""
    columns, rows = (
        [0]
        if length <= _LONGEST_SIDE
        else [*range(0, length - _LONGEST_SIDE, _LONGEST_SIDE - _OVERLAP), length - _LONGEST_SIDE]
        for length in size
    )
    return [(left, top) for top in rows for left in columns]


def _list(values: Any) -> list[Any]:  # noqa: ANN401 - the reader gives arrays, tuples or None
    return [] if values is None else list(values)
