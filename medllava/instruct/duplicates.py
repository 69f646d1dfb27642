"""Find conversations that say almost the same as an earlier one, in memory that stays small.

A conversation becomes the 16 smallest hashes of its four-word sequences. Two texts whose sequences
overlap by eight tenths share most of these; the four smallest lead to the candidates.

Source: bottom-k sketches, Cohen and Kaplan 2007.
"""

from zlib import crc32

from medllava.instruct.filters import fold
from medllava.instruct.parse import Pair

NEAR_DUPLICATE_SIMILARITY = 0.8
"""Estimated Jaccard overlap of word sequences from which on two conversations are the same."""
_WORDS = 4
_SKETCH = 16
_INDEXED = 4


class DuplicateFinder:
    """Remembers sketches of conversations."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_hash: dict[int, list[tuple[int, ...]]] = {}

    def is_duplicate(self, pairs: tuple[Pair, ...]) -> bool:
        """Tell whether an earlier conversation said almost the same; remember this one if not."""
        sketch = _sketch(pairs)
        keys = sketch[:_INDEXED]
        for key in keys:
            for other in self._by_hash.get(key, ()):
                if _similarity(sketch, other) >= NEAR_DUPLICATE_SIMILARITY:
                    return True
        for key in keys:
            self._by_hash.setdefault(key, []).append(sketch)
        return False


def _sketch(pairs: tuple[Pair, ...]) -> tuple[int, ...]:
    words = fold(" ".join(f"{pair.question} {pair.answer}" for pair in pairs)).split()
    spans = range(max(1, len(words) - _WORDS + 1))
    return tuple(sorted({crc32(" ".join(words[i : i + _WORDS]).encode()) for i in spans})[:_SKETCH])


def _similarity(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    smallest = sorted({*one, *other})[: max(len(one), len(other))]
    both = set(one) & set(other)
    return sum(value in both for value in smallest) / len(smallest)
