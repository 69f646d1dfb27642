"""What a picture looks like in a few bytes, to find near copies: recompressed or rescaled.

A picture enters, a short hex string leaves; two strings say whether their pictures look nearly the
same. Near means that at most seven of the 256 bits of the difference hash differ (with the hash cut
into eight bands such a pair agrees in one of them at least, so an index finds it) and that the gray
values agree as well: plates of a key share their grid, not their grays.
"""

from itertools import pairwise

from PIL import Image

MAX_DISTANCE = 7
MAX_GREY_DIFFERENCE = 4.0
"""Mean over the 12 x 12 thumbnail, of 255. Recompression moves it by less than one."""
NUM_BANDS = MAX_DISTANCE + 1
_HASH_SIDE, _THUMBNAIL_SIDE = 16, 12
_OVERSAMPLED = 8
_HASH_DIGITS = 64
_BAND_DIGITS = _HASH_DIGITS // NUM_BANDS


def compute_perceptual_hash(pixels: Image.Image) -> str:
    """Return what a picture looks like; empty for nearly blank ones.

    256 bits say which of neighboring cells is brighter, 12 x 12 bytes are its gray values; both as
    hex. Blank pictures all look alike, so only exact copies of them count as duplicates.
    """
    side = _HASH_SIDE
    gray = _halved(pixels if pixels.mode == "L" else pixels.convert("L"))
    cells = gray.resize((side + 1, side), Image.Resampling.BILINEAR).tobytes()
    bits = 0
    for row in range(side):
        for left, right in pairwise(cells[row * (side + 1) : (row + 1) * (side + 1)]):
            bits = bits << 1 | (left > right)
    if bits.bit_count() <= side:
        return ""
    thumbnail = gray.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return f"{bits:064x}{thumbnail.tobytes().hex()}"


def _halved(gray: Image.Image) -> Image.Image:
    """Return a picture averaged down to at least `_OVERSAMPLED` pixels per cell, if it has more.

    The two thumbnails are made of this one: looking at every pixel twice took a third of the time
    that a picture takes.
    """
    factor = min(gray.size) // (_OVERSAMPLED * _HASH_SIDE)
    return gray.reduce(factor) if factor > 1 else gray


def are_alike(look: str, other: str) -> bool:
    """Tell whether two pictures look nearly the same."""
    bits, other_bits = (int(value[:_HASH_DIGITS], 16) for value in (look, other))
    if (bits ^ other_bits).bit_count() > MAX_DISTANCE:
        return False
    grays, other_grays = (bytes.fromhex(value[_HASH_DIGITS:]) for value in (look, other))
    difference = sum(abs(a - b) for a, b in zip(grays, other_grays, strict=True))
    return difference <= MAX_GREY_DIFFERENCE * len(grays)


def hash_bands(look: str) -> list[str]:
    """Return the keys under which an index finds every look that is alike."""
    return [
        f"{band}{look[band * _BAND_DIGITS : (band + 1) * _BAND_DIGITS]}"
        for band in range(NUM_BANDS)
    ]
