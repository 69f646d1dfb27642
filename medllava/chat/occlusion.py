"""Where does it look? Parts of the picture are covered, and the answer's probability is read again.

A part whose cover makes the answer much less likely mattered for it. That shows what the answer
depends on in this picture, not why, and not whether the answer is right; a part can also matter
only because covering it makes an unusual picture. Source: Zeiler and Fergus 2014, section 4.2.
"""

from collections.abc import Callable, Iterator, Sequence

from PIL import Image, ImageStat

CAPTION = (
    "Brighter: the answer became less likely when this part was covered. This shows what the "
    "answer depends on in this picture, not why, and not whether it is right."
)
GRID = 7
"""Parts along each side: 49 passes through the model."""
_TINT = (255, 170, 0)
_STRONGEST = 190


def cover_parts(image: Image.Image, *, grid: int = GRID) -> Iterator[Image.Image]:
    """Yield copies of an RGB picture, row by row, each with one part at the picture's mean."""
    mean = tuple(int(value) for value in ImageStat.Stat(image).mean)
    for row in range(grid):
        for column in range(grid):
            copy = image.copy()
            left, right = (image.width * i // grid for i in (column, column + 1))
            top, bottom = (image.height * i // grid for i in (row, row + 1))
            copy.paste(mean, (left, top, right, bottom))
            yield copy


def measure_parts(
    score: Callable[[Image.Image], float], image: Image.Image, *, grid: int = GRID
) -> list[list[float]]:
    """Return how much each part's cover takes from the answer's log probability, in nats.

    Args:
        score: picture to the log probability of the answer that was given.
        image: the RGB picture as it was shown.
        grid: parts along each side.

    Returns:
        `grid` rows of `grid` numbers; 0 where the cover made the answer likelier.
    """
    whole = score(image)
    drops = [round(max(0.0, whole - score(copy)), 6) for copy in cover_parts(image, grid=grid)]
    return [drops[row * grid : (row + 1) * grid] for row in range(grid)]


def draw_overlay(image: Image.Image, parts: Sequence[Sequence[float]]) -> Image.Image:
    """Return the picture with the parts that mattered tinted, the strongest the most."""
    most = max((value for row in parts for value in row), default=0.0) or 1.0
    levels = bytes(int(_STRONGEST * value / most) for row in parts for value in row)
    mask = Image.frombytes("L", (len(parts[0]), len(parts)), levels)
    mask = mask.resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", image.size, _TINT), image, mask)
