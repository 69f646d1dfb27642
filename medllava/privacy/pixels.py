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
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medllava.errors import DataError, SetupError
from medllava.privacy.findings import Box, Finding, Kind

INSTALL = "pip install 'medllava[ocr]'"

_MIN_LETTERS = 4
"""Shorter texts are sides, scale bars and letters of panels."""
_WORD = re.compile(r"[A-Za-z]{3}")
"""Of a text of three, which counts where the reader is sure of it: what is left of `DOB 1961`."""
_SURE = 0.9
_SCORE = 0.5
_LONGEST_SIDE = 1600
"""Larger pictures are read in tiles, so that small print stays legible."""
_OVERLAP = 200
_SMALL_SCALES, _LARGE_SCALES = (2.0, 1.0, 3.0), (1.0, 0.5)
"""Every picture is looked at in several sizes: what the reader misses in one it finds in another.
Print of ten pixels over the edges of an organ is found at three times the size only."""
_SMALL_SIDE, _TINY_SIDE = 800, 540
"""Longest sides up to which a picture is read larger than it is, and three times as large."""
_READ_SIDE = 736
"""The reader enlarges by itself what is smaller than this on its shorter side."""
_ALIKE = 1.1
"""Sizes that differ by less are one."""
_THRESHOLD, _BOX_THRESHOLD = 0.2, 0.3
"""Of a pixel and of a line to be looked at as text; lower than the reader's own."""
_MARGIN = 3
_NO_TEXT = "The text detection result is empty"
"""What the reader logs for a picture without text."""
_COVERED = 0.5
"""A place of which so much was read in another size is not read again."""
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

        self._read: Any = RapidOCR(
            params={
                "Global.log_level": "warning",
                "Global.text_score": _SCORE,
                "Global.use_cls": False,
                "Det.thresh": _THRESHOLD,
                "Det.box_thresh": _BOX_THRESHOLD,
            }
        )
        self._failures = _Failures()
        logging.getLogger("RapidOCR").addFilter(self._failures)
        self._lock = threading.Lock()

    def find(self, image: Image.Image) -> list[Finding]:
        """Return the places of an RGB picture that bear text.

        Args:
            image: as `load_image` shows it.

        Raises:
            DataError: the reader failed on it.
        """
        return [
            Finding(kind=Kind.TEXT, where=f"{len(text)} characters", box=box)
            for text, box in self._texts(image)
        ]

    def _texts(self, image: Image.Image) -> list[tuple[str, Box]]:
        """Return the texts that may tell something, with their places."""
        found: list[tuple[str, Box]] = []
        for left, top in _tiles(image.size):
            right = min(left + _LONGEST_SIDE, image.width)
            bottom = min(top + _LONGEST_SIDE, image.height)
            part = image.crop((left, top, right, bottom))
            with self._lock:
                read: list[tuple[str, Box]] = []
                for scale in _scales(image.size):
                    read += self._read_at(part, scale, [box for _, box in read])
            found += [
                (text, (box[0] + left, box[1] + top, box[2] + left, box[3] + top))
                for text, box in read
            ]
        return found

    def _read_at(self, part: Image.Image, scale: float, known: list[Box]) -> list[tuple[str, Box]]:
        """Return the texts of a picture in one size, but for places that are known.

        Finding places costs a third of reading them in a picture full of text, so they come first.
        """
        width, height = (max(1, round(side * scale)) for side in part.size)
        pixels = np.ascontiguousarray(np.asarray(part.resize((width, height)))[..., ::-1])
        if known:
            places = _boxes(self._run(pixels, with_words=False), scale, part.size)
            if all(_is_known(place, known) for place in places):
                return []
        read = self._run(pixels, with_words=True)
        boxes = _boxes(read, scale, part.size)
        return [
            (text, box)
            for text, score, box in zip(_list(read.txts), _list(read.scores), boxes, strict=True)
            if _tells_something(text, score) and not _is_known(box, known)
        ]

    def _run(self, pixels: NDArray[np.uint8], *, with_words: bool) -> Any:  # noqa: ANN401 - untyped
        """Run the reader, which logs what goes wrong and then answers as if there were no text."""
        self._failures.told.clear()
        read = self._read(pixels, use_det=True, use_rec=with_words)
        if self._failures.told:
            raise DataError(f"the text reader failed ({self._failures.told[0]}).")
        return read


class _Failures(logging.Filter):
    """Keeps what the reader logs instead of raising; an empty answer must not pass for clean."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a message, and print none."""
        message = record.getMessage()
        if message != _NO_TEXT:
            self.told.append(message)
        return False


def paint_over(image: Image.Image, findings: list[Finding]) -> Image.Image:
    """Return a copy with the places of all findings black."""
    painted = image.copy()
    draw = ImageDraw.Draw(painted)
    for finding in findings:
        if finding.box is not None:
            draw.rectangle(finding.box, fill="black")
    return painted


def _tells_something(text: str, score: float = 0.0) -> bool:
    words = [word for word in re.split(r"\s+", text.strip()) if word]
    left = "".join(word for word in words if not _HARMLESS.fullmatch(word))
    if _HARMLESS.fullmatch(text.strip()):
        return False
    if score >= _SURE and _WORD.fullmatch(left):
        return True
    return sum(character.isalnum() for character in left) >= _MIN_LETTERS


def _scales(size: tuple[int, int]) -> list[float]:
    """Return the sizes in which a picture is read, without those that the reader makes alike."""
    if max(size) > _SMALL_SIDE:
        return list(_LARGE_SCALES)
    scales: list[float] = []
    seen: list[float] = []
    for scale in _SMALL_SCALES if max(size) <= _TINY_SIDE else _SMALL_SCALES[:2]:
        real = max(scale, _READ_SIDE / min(size))
        if not any(real / other < _ALIKE and other / real < _ALIKE for other in seen):
            scales.append(scale)
            seen.append(real)
    return scales


def _tiles(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the upper left corners of tiles that cover a picture and overlap by a line of text."""
    columns, rows = (
        [0]
        if length <= _LONGEST_SIDE
        else [*range(0, length - _LONGEST_SIDE, _LONGEST_SIDE - _OVERLAP), length - _LONGEST_SIDE]
        for length in size
    )
    return [(left, top) for top in rows for left in columns]


def _boxes(read: Any, scale: float, size: tuple[int, int]) -> list[Box]:  # noqa: ANN401 - untyped
    """Return the places that the reader found, with a margin, in pixels of the picture itself."""
    boxes = []
    for corners in _list(read.boxes):
        xs, ys = np.asarray(corners).T / scale
        left, top = max(0, int(xs.min()) - _MARGIN), max(0, int(ys.min()) - _MARGIN)
        right, bottom = int(xs.max()) + _MARGIN, int(ys.max()) + _MARGIN
        boxes.append((left, top, min(size[0], right), min(size[1], bottom)))
    return boxes


def _is_known(box: Box, known: list[Box]) -> bool:
    """Tell whether one of the known places covers most of a box."""
    area = max(1, (box[2] - box[0]) * (box[3] - box[1]))
    for other in known:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if max(0, width) * max(0, height) >= _COVERED * area:
            return True
    return False


def _list(values: Any) -> list[Any]:  # noqa: ANN401 - the reader gives arrays, tuples or None
    return [] if values is None else list(values)
