"""Find conversations that say almost the same as an earlier one, in bounded time and memory.

A conversation becomes forty minima of hashes of its four-word sequences. Two texts agree in as many
of them, by expectation, as their sequences overlap. Groups of five minima lead to the candidates:
phrases that all conversations share do not, so a million of them stay apart.

Source: MinHash, Broder 1997; banding, Leskovec, Rajaraman and Ullman, chapter 3.
"""

from collections import deque
from zlib import crc32

import numpy as np

from medllava.instruct.filters import fold
from medllava.instruct.parse import Pair

NEAR_DUPLICATE_SIMILARITY = 0.8
"""Estimated Jaccard overlap of word sequences from which on two conversations are the same."""
_WORDS = 4
_MINIMA, _GROUP = 40, 5
_MOST_CANDIDATES = 32
"""Of one group, the newest; bounds the time for texts that are all alike in part."""

_draws = np.random.default_rng(0)
# Odd and as wide as the word: a product that does not overflow would keep the order of the hashes.
_FACTORS = _draws.integers(1 << 62, 1 << 63, size=(_MINIMA, 1), dtype=np.uint64) * 2 + 1
_SHIFTS = _draws.integers(0, 1 << 32, size=(_MINIMA, 1), dtype=np.uint64)


class DuplicateFinder:
    """Remembers sketches of conversations."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sketches: dict[tuple[int, bytes], deque[bytes]] = {}

    def is_duplicate(self, pairs: tuple[Pair, ...]) -> bool:
        """Tell whether an earlier conversation said almost the same; remember this one if not."""
        sketch = _sketch(pairs)
        width = 4 * _GROUP
        keys = [(start, sketch[start : start + width]) for start in range(0, len(sketch), width)]
        candidates = {other for key in keys for other in self._sketches.get(key, ())}
        if any(_similarity(sketch, other) >= NEAR_DUPLICATE_SIMILARITY for other in candidates):
            return True
        for key in keys:
            self._sketches.setdefault(key, deque(maxlen=_MOST_CANDIDATES)).append(sketch)
        return False


def _sketch(pairs: tuple[Pair, ...]) -> bytes:
    """Return forty 32-bit minima, as bytes."""
    text = fold(" ".join(f"{pair.question} {pair.answer}" for pair in pairs)).encode()
    spaces = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(" "))
    starts, ends = [0, *(spaces + 1).tolist()], [*spaces[_WORDS - 1 :].tolist(), len(text)]
    # The last words begin no sequence, so there are more starts than ends.
    hashed = [crc32(text[start:end]) for start, end in zip(starts, ends, strict=False)]
    mixed = np.asarray(hashed, dtype=np.uint64) * _FACTORS  # modulo 2**64
    mixed += _SHIFTS
    return bytes((mixed.min(axis=1) >> np.uint64(32)).astype(np.uint32).tobytes())


def _similarity(one: bytes, other: bytes) -> float:
    same = np.frombuffer(one, np.uint32) == np.frombuffer(other, np.uint32)
    return int(np.count_nonzero(same)) / _MINIMA
