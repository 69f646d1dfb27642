"""SLAKE's boxes as questions: `detection.json` beside each image names what is where in pixels.

A file enters, rows with a `box` in fractions leave, one for each thing that occurs once in the
image; of two lungs of one name no single box would be right.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.row_answers import Row
from medllava.errors import DataError
from medllava.images.load import load_image
from medllava.store import read_json

SLAKE_DETECTION = "slake-detection"
_IMAGE = "source.jpg"
_QUESTIONS = "test.json"
_BOX_SIZE = 4


def iter_box_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of the boxes of one image.

    Raises:
        DataError: the file has another form, or its image cannot be read.
    """
    folder = file.parent
    if not _is_asked(folder):
        return
    found: Any = read_json(file)
    if not _is_boxes(found):
        raise DataError(f"not a list of boxes by name: {file}. Take SLAKE's own folder.")
    boxes = [pair for one in found for pair in one.items()]
    width, height = load_image(folder / _IMAGE).size
    times = Counter(name for name, _ in boxes)
    for number, (name, (left, top, wide, high)) in enumerate(boxes, start=1):
        if times[name] == 1:
            right, bottom = min(1.0, (left + wide) / width), min(1.0, (top + high) / height)
            yield (
                number,
                {
                    "id": f"{folder.name}-{name}",
                    "image": f"{folder.name}/{_IMAGE}",
                    "question": f"Where is the {name.lower()}?",
                    "answer": name,
                    "category": name,
                    "box": [max(0.0, left / width), max(0.0, top / height), right, bottom],
                },
            )


def _is_asked(folder: Path) -> bool:
    """Tell whether an image is of the test split; all are where no split is given."""
    for questions in (folder.parent / _QUESTIONS, folder.parent.parent / _QUESTIONS):
        if questions.is_file():
            return folder.name in _images_of(questions, questions.stat().st_mtime_ns)
    return True


@lru_cache(maxsize=2)
def _images_of(questions: Path, changed: int) -> frozenset[str]:  # noqa: ARG001 - part of the key
    """Return the folders of the images that a file of questions names; it is asked per image."""
    rows = read_json(questions)
    return frozenset(Path(str(row.get("img_name"))).parent.name for row in rows)


def _is_boxes(found: Any) -> bool:  # noqa: ANN401 - JSON is any
    return isinstance(found, list) and all(
        isinstance(one, dict)
        and all(isinstance(box, list) and len(box) == _BOX_SIZE for box in one.values())
        for one in found
    )
