"""A train and test split of one's own in which no image is in both.

VQA-RAD is split by question, so that a model has seen every test image in training. All questions
enter; those of the wanted side leave, a fifth of the images for testing.
"""

import hashlib
import math
from collections.abc import Sequence

from medllava.data.benchmarks.rows import Parsed
from medllava.errors import DataError

DISJOINT_TRAIN = "disjoint-train"
DISJOINT_TEST = "disjoint-test"
DISJOINT_SPLITS = (DISJOINT_TRAIN, DISJOINT_TEST)
_TEST_SHARE = 0.2


def disjoint_part(parsed: Sequence[Parsed], split: str) -> list[Parsed]:
    """Return the questions of one side; a question goes where its image goes.

    One that shows images of both sides goes nowhere. Images are ordered by the SHA-256 of their
    name and the first fifth is for testing, so the division depends on nothing but the names.

    Raises:
        DataError: there are fewer than two images.
    """
    images = {image for item in parsed for image in item.question.images}
    if len(images) < 2:
        raise DataError("an image-disjoint split needs at least two images. Check the data.")
    ordered = sorted(images, key=lambda image: hashlib.sha256(image.encode()).digest())
    held_out = set(ordered[: max(1, math.floor(_TEST_SHARE * len(ordered)))])
    is_test = split == DISJOINT_TEST
    if is_test:
        return [i for i in parsed if i.question.images and held_out.issuperset(i.question.images)]
    return [item for item in parsed if held_out.isdisjoint(item.question.images)]
