"""A second look for twins, by the model's own vision encoder: what is the same picture to it?

Test pictures enter; for a training picture that the first look (`images.twins`) did not find, the
test pictures it repeats leave. A picture is the mean feature of each of 4 x 4 parts of it, compared
by cosine with what all test pictures have in common taken off. How near is near is calibrated on
the test pictures themselves: no two different ones may pass, and copies planted of some of them say
how many the look finds. Mirrored and turned copies are the business of the first look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medllava.images.copies import COPIES
from medllava.images.twins import Signature, TwinIndex, agreement, compute_signature, trimmed

Features = NDArray[np.float32]
Encode = Callable[[Sequence[Image.Image]], Features]
"""RGB pictures to features (N, 16 * E)."""

SMALL_SIDE = 256
"""Of the square picture that is encoded and kept until then."""
MIN_AGREEMENT = 0.5
"""Of the fine structure, beside near features: pictures of one kind have features that are near."""
_MARGIN = 0.02
"""Cosine by which a twin must be nearer than any two different test pictures are."""
_CANDIDATES = 3
_PLANTED = 32
_UPRIGHT = tuple(name for name in COPIES if name not in ("exact", "mirrored", "rotated 90"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is kept of one picture."""

    signature: Signature
    small: Image.Image
    """Square, without its border."""


def look_at(picture: Image.Image) -> Seen | None:
    """Return what is compared of a picture; None for a nearly blank one."""
    signature = compute_signature(picture)
    if signature is None:
        return None
    small = trimmed(picture).convert("RGB").resize((SMALL_SIDE, SMALL_SIDE))
    return Seen(signature=signature, small=small)


class EncoderTwins:
    """The pictures of a test, to be asked which of them another picture repeats."""

    def __init__(self, names: Sequence[str], seen: Sequence[Seen], encode: Encode) -> None:
        """Encode the test pictures and calibrate.

        Args:
            names: of the pictures.
            seen: of each.
            encode: the model's vision encoder.
        """
        self._names, self._encode = list(names), encode
        self._gray = [one.signature.gray for one in seen]
        raw = encode([one.small for one in seen])
        self._common = raw.mean(axis=0, keepdims=True)
        self._features = self._centered(raw)
        first = TwinIndex(names, [one.signature for one in seen])
        self.threshold = self._calibrate(seen, first)
        self.planted, self.found = self._plant(seen)

    def find(self, seen: Sequence[Seen]) -> list[list[str]]:
        """Return for each picture the names of the test pictures that it repeats."""
        if not self._names or not seen:
            return [[] for _ in seen]
        cosines = self._centered(self._encode([one.small for one in seen])) @ self._features.T
        found = []
        for one, row in zip(seen, cosines, strict=True):
            nearest = np.argsort(-row, kind="stable")[:_CANDIDATES]
            found.append(
                [
                    self._names[place]
                    for place in nearest
                    if row[place] >= self.threshold
                    and agreement(self._gray[place], one.signature.gray) >= MIN_AGREEMENT
                ]
            )
        return found

    def facts(self) -> dict[str, Any]:
        """Return how near is near, and how many planted copies that finds."""
        return {
            "threshold": round(float(self.threshold), 4),
            "planted": self.planted,
            "found": self.found,
        }

    def _centered(self, raw: Features) -> Features:
        centered = raw - self._common
        norms = np.linalg.norm(centered, axis=1, keepdims=True)
        return np.asarray(centered / np.maximum(norms, 1e-6), dtype=np.float32)

    def _calibrate(self, seen: Sequence[Seen], first: TwinIndex) -> float:
        """Return the least cosine that no two different test pictures reach, with a margin."""
        cosines = self._features @ self._features.T
        nearest = 0.0
        for row, one in enumerate(seen):
            twins = set(first.find(one.signature))  # the test may hold a picture twice
            for place in np.argsort(-cosines[row], kind="stable")[: _CANDIDATES + len(twins)]:
                is_other = place != row and self._names[place] not in twins
                if not is_other or cosines[row, place] <= nearest:
                    continue
                if agreement(self._gray[place], one.signature.gray) >= MIN_AGREEMENT:
                    nearest = float(cosines[row, place])
        return nearest + _MARGIN

    def _plant(self, seen: Sequence[Seen]) -> tuple[int, int]:
        """Return how many copies were planted of some test pictures, and how many are found."""
        step = max(1, len(seen) // _PLANTED)
        chosen = list(range(0, len(seen), step))[:_PLANTED]
        copies = [
            (row, look_at(COPIES[_UPRIGHT[number % len(_UPRIGHT)]](seen[row].small, number)))
            for number, row in enumerate(chosen)
        ]
        kept = [(row, one) for row, one in copies if one is not None]
        found = self.find([one for _, one in kept])
        return len(kept), sum(
            self._names[row] in f for (row, _), f in zip(kept, found, strict=True)
        )
