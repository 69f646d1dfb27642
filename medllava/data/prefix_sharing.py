"""Questions about one image that share its tokens: the image is read once, each question after it.

Records of question-answering data often come in dozens per image and begin alike: system prompt and
image. In a pack, such records stand behind one another, the beginning only once; every later one
is a branch whose positions go on where the beginning ended, and which sees the beginning and
itself (`model.attention`). Each record is answered as if it stood alone; only the repeated work is
gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medllava.data.bin_packing import Pack
from medllava.data.dataset import ExampleIndex


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Which examples begin alike."""

    lengths: NDArray[np.int64]
    """Tokens of every example standing alone."""
    groups: NDArray[np.int64]
    """Equal for examples whose beginnings are equal."""
    prefixes: NDArray[np.int64]
    """Tokens of that beginning, images counted in full."""
    most: int
    """Examples of one image that are drawn together; 1 shares nothing."""

    def branches_off(self, previous: int, example: int) -> bool:
        """Tell whether `example`, standing behind `previous` in a pack, needs no beginning."""
        return self.most > 1 and bool(self.groups[previous] == self.groups[example])

    def size_of(self, pack: Sequence[int]) -> int:
        """Return the tokens of a pack."""
        size = int(self.lengths[list(pack)].sum())
        for previous, example in pairwise(pack):
            if self.branches_off(previous, example):
                size -= int(self.prefixes[example])
        return size

    def draw_together(self, order: Iterable[int]) -> list[Pack]:
        """Gather examples of one image, up to `most`, where the first of them stands in `order`."""
        if self.most <= 1:
            return [(int(example),) for example in order]
        gathered: list[list[int]] = []
        newest: dict[int, list[int]] = {}
        for example in order:
            members = newest.get(int(self.groups[example]))
            if members is None or len(members) == self.most:
                members = []
                newest[int(self.groups[example])] = members
                gathered.append(members)
            members.append(int(example))
        return [tuple(members) for members in gathered]


def share_nothing(lengths: NDArray[np.int64]) -> Sharing:
    """Return the sharing of examples that all stand alone."""
    count = len(lengths)
    return Sharing(lengths=lengths, groups=np.arange(count), prefixes=np.zeros(count, int), most=1)


def find_sharing(index: ExampleIndex, *, image_token_id: int, most: int) -> Sharing:
    """Compare the beginnings of all examples, up to the end of their last image.

    Args:
        index: of all examples.
        image_token_id: stands once for every image in `index.ids`.
        most: examples drawn together.
    """
    if most <= 1:
        return share_nothing(index.lengths)
    groups = np.empty(len(index), dtype=np.int64)
    prefixes = np.zeros(len(index), dtype=np.int64)
    numbers: dict[object, int] = {}
    for example in range(len(index)):
        start, end = index.starts[example : example + 2]
        ids = index.ids[start:end]
        images = np.flatnonzero(ids == image_token_id)
        key: object = example
        # A beginning that is itself supervised must be learned each time it occurs.
        if len(images) and not index.supervised[start : start + images[-1] + 1].any():
            count = int(images[-1]) + 1
            key = (index.images_of(example), ids[:count].tobytes())
            prefixes[example] = count + len(images) * (index.image_tokens - 1)
        groups[example] = numbers.setdefault(key, len(numbers))
    return Sharing(lengths=index.lengths, groups=groups, prefixes=prefixes, most=most)
