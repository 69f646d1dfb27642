"""Pairs of replies as token ids, laid out in steps, and padded batches of them for TRL.

Both replies of a pair are tokenized as the conversations they are, by the same index as every other
stage; the pair is what the two share and where they part. Pixels are read when a batch is made.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medllava.data.dataset import ExampleIndex, build_index, iter_dropped
from medllava.data.dropped import Dropped
from medllava.data.pixels import PixelReader
from medllava.data.preferences import CHOSEN, REJECTED, pair_id, read_preferences, sides
from medllava.errors import DataError
from medllava.model.processor import num_image_tokens
from medllava.progress import Progress
from medllava.records import PreferenceRecord

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One reply behind its prompt, images at their full length."""

    input_ids: Ids
    is_reply: NDArray[np.bool_]
    """True for the reply and its end token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides of a pair and the images they share."""

    record_id: str
    chosen: Side
    rejected: Side
    images: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """All usable pairs of a file."""

    pairs: tuple[Pair, ...]
    fingerprint: str
    dropped: tuple[dict[str, str], ...]
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Pairs by license, modality, teacher, and by how the rejected reply was made."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.pairs)

    @property
    def num_tokens(self) -> int:
        """Tokens of both sides, images counted in full."""
        return sum(len(p.chosen.input_ids) + len(p.rejected.input_ids) for p in self.pairs)

    @property
    def num_shared_tokens(self) -> int:
        """Tokens of prompts, which every pair has twice."""
        return sum(int((~p.chosen.is_reply).cumprod().sum()) for p in self.pairs)


def load_pairs(
    path: Path,
    processor: Any,  # noqa: ANN401 - the model's processor
    *,
    image_root: Path,
    max_length: int,
    max_dropped: float,
    progress: Progress,
) -> PairSet:
    """Read, check and tokenize the pairs of a file; one whose one side cannot be used goes whole.

    Raises:
        DataError: no pair is usable, or more than `max_dropped` of them are not.
    """
    facts: dict[str, Counter[str]] = {}

    def counted() -> Iterator[PreferenceRecord | Dropped]:
        for record in read_preferences(path):
            if isinstance(record, PreferenceRecord):
                for name in ("license", "modality", "teacher", "rejected_by"):
                    value = getattr(record, name) or "unknown"
                    facts.setdefault(name, Counter())[str(value)] += 1
            yield record

    index = build_index(
        sides(counted()),
        processor,
        image_root=image_root,
        image_tokens=num_image_tokens(processor),
        max_length=max_length,
        progress=progress,
    )
    pairs = tuple(_pair_up(index, processor.image_token_id))
    dropped = tuple(iter_dropped(index))
    lost = len({pair_id(line["record_id"]) for line in dropped})
    if not pairs or lost / (lost + len(pairs)) > max_dropped:
        share = lost / (lost + len(pairs))
        raise DataError(
            f"{share:.1%} of the pairs cannot be used (the first is {dropped[0]['record_id']!r}: "
            f"{dropped[0]['reason']}): {path}. Check --image-dir, or allow it with --set "
            f"data.max_dropped={share + 0.005:.2f}."
        )
    if lost:
        progress.note(f"not used: {lost:,} of {lost + len(pairs):,} pairs")
    return PairSet(
        pairs=pairs,
        fingerprint=index.fingerprint(),
        dropped=dropped,
        facts={name: dict(counts) for name, counts in facts.items()},
    )


def _pair_up(index: ExampleIndex, image_token_id: int) -> Iterator[Pair]:
    places = {name: place for place, name in enumerate(index.record_ids)}
    for name, place in places.items():
        record_id = name.removesuffix(CHOSEN)
        other = places.get(record_id + REJECTED)
        if record_id == name or other is None:
            continue
        yield Pair(
            record_id=record_id,
            chosen=_side(index, place, image_token_id),
            rejected=_side(index, other, image_token_id),
            images=index.images_of(place),
        )


def _side(index: ExampleIndex, place: int, image_token_id: int) -> Side:
    ids = index.ids[index.starts[place] : index.starts[place + 1]].astype(np.int64)
    supervised = index.supervised[index.starts[place] : index.starts[place + 1]]
    last = int(np.flatnonzero(supervised)[-1])
    before = np.flatnonzero(~supervised[: last + 1])
    is_reply = np.zeros(len(ids), dtype=np.bool_)
    is_reply[int(before[-1]) + 1 if len(before) else 0 : last + 1] = True
    counts = np.where(ids == image_token_id, index.image_tokens, 1)
    return Side(input_ids=ids.repeat(counts), is_reply=is_reply.repeat(counts))


def lay_out_pairs(
    count: int, *, per_step: int, epochs: float, max_steps: int | None, seed: int
) -> list[int]:
    """Return which pair comes when, over all steps: every pass in an order of its own.

    Args:
        count: pairs.
        per_step: of one step.
        epochs: passes; the last step is cut where they end within it.
        max_steps: fewer or more steps than the passes make; None takes the passes.
        seed: of the orders.
    """
    random = np.random.default_rng(seed)
    needed = (max_steps or max(1, int(count * epochs) // per_step)) * per_step
    order: list[int] = []
    while len(order) < needed:
        order += random.permutation(count).tolist()
    return order[:needed]


class PairBatches(Dataset[dict[str, Tensor]]):
    """Padded micro-batches of pairs, the chosen sides before the rejected ones."""

    def __init__(
        self,
        pairs: PairSet,
        order: Sequence[int],
        processor: Any,  # noqa: ANN401 - the model's processor
        *,
        size: int,
    ) -> None:
        """Fix the order; `size` pairs make a micro-batch."""
        self.pairs = pairs
        self._order = order
        self._size = size
        self._pixels = PixelReader(processor.image_processor)
        self._pad = int(processor.tokenizer.pad_token_id)

    def __len__(self) -> int:
        """Return how many micro-batches there are."""
        return -(-len(self._order) // self._size)

    def numbers(self, batch: int) -> list[int]:
        """Return which pairs a micro-batch holds."""
        return list(self._order[batch * self._size : (batch + 1) * self._size])

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        """Return what TRL's DPO takes, and `pair`, the pairs' numbers.

        `input_ids`, `attention_mask` and `completion_mask` are (2 B, T), `pixel_values` is
        (2 N, 3, H, W).

        Raises:
            DataError: an image can no longer be read.
        """
        numbers = self.numbers(batch)
        pairs = [self.pairs.pairs[number] for number in numbers]
        both = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        width = max(len(side.input_ids) for side in both)
        shape = (len(both), width)
        ids = torch.full(shape, self._pad)
        attended = torch.zeros(shape, dtype=torch.long)
        replies = torch.zeros(shape, dtype=torch.long)
        for row, side in enumerate(both):
            length = len(side.input_ids)
            ids[row, :length] = torch.from_numpy(side.input_ids)
            attended[row, :length] = 1
            replies[row, :length] = torch.from_numpy(side.is_reply)
        found = {
            "input_ids": ids,
            "attention_mask": attended,
            "completion_mask": replies,
            "pair": torch.tensor(numbers),
        }
        images = [path for pair in pairs for path in pair.images]
        if images:
            pixels = self._pixels.read(images)
            found["pixel_values"] = torch.cat([pixels, pixels])
        return found
