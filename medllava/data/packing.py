"""An index to batches: bins, the schedule of a whole run, and the tensors of one micro-batch.

Examples are packed into bins of at most `capacity` tokens, bins are shuffled into optimizer steps,
and every rank gets the same number of micro-batches in each step. The whole run is laid out before
it starts, from lengths and a seed alone: it does not depend on worker processes, and any step can
be reached directly. One micro-batch is one row of tokens whose positions restart at every example.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medllava.data.dataset import ExampleIndex
from medllava.data.pixels import PixelReader

IGNORED = -100
"""Label of a position that is not predicted."""
_PACKS_TO_ROUND = 4
"""From this many packs per rank and step on, packs are filled to the limit."""

NUM_REAL = "num_real_tokens"
"""Key of a micro-batch, for the meter only: positions that are tokens of examples."""

Pack = tuple[int, ...]
"""Numbers of the examples that share a bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Every micro-batch of a run: `packs[step][rank][k]` are the bins of one forward pass."""

    packs: tuple[tuple[tuple[tuple[Pack, ...], ...], ...], ...]
    capacity: int
    """Tokens a bin may hold."""
    fill: float
    """Share of the bins' room that is used, over the whole run before `max_steps` cuts it."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return len(self.packs)

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step."""
        return len(self.packs[0][0])

    @property
    def packs_per_step(self) -> int:
        """Bins of a full step over all ranks."""
        return sum(len(micro) for rank in self.packs[0] for micro in rank)

    def of_rank(self, rank: int) -> list[tuple[Pack, ...]]:
        """Return the rank's micro-batches of all steps, in order."""
        return [micro for step in self.packs for micro in step[rank]]

    def examples_of_step(self, step: int) -> list[int]:
        """Return the examples of one step, over all ranks."""
        return [e for rank in self.packs[step] for micro in rank for pack in micro for e in pack]


def fill_bins(
    lengths: NDArray[np.int64], order: Sequence[int] | NDArray[np.int64], *, capacity: int
) -> list[Pack]:
    """Put examples into bins, longest first, each into the fullest bin that still has room.

    Args:
        lengths: tokens of every example of the index.
        order: the examples to pack; it decides among equal lengths.
        capacity: tokens of a bin; no example is longer.

    Returns:
        Bins in the order they were opened.
    """
    by_length = sorted(order, key=lambda example: -lengths[example])
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # room left -> bins that have exactly this much
    rooms = 0  # bit r is set when a bin has room r, so the fullest bin that fits is one shift away
    for example in by_length:
        length = int(lengths[example])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = open_bins[room].pop()
            if not open_bins[room]:
                rooms &= ~(1 << room)
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(int(example))
        room -= length
        open_bins.setdefault(room, []).append(number)
        rooms |= 1 << room
    return [tuple(members) for members in bins]


def build_schedule(  # noqa: PLR0913 - each decides the layout
    lengths: NDArray[np.int64],
    *,
    max_length: int,
    packing: bool,
    global_batch_size: int,
    micro_batch_size: int,
    world_size: int,
    epochs: float,
    seed: int,
    max_steps: int | None = None,
) -> Schedule:
    """Lay out a whole run.

    Args:
        lengths: tokens of every example.
        max_length: tokens of a full bin.
        packing: False gives every example a bin of its own.
        global_batch_size: examples per step over all ranks; with packing on average.
        micro_batch_size: bins per rank and forward pass.
        world_size: ranks.
        epochs: passes over the data; a fraction takes the first part of a shuffled pass.
        seed: of the order.
        max_steps: stop after this many steps.
    """
    unit = micro_batch_size * world_size
    packs_per_step, capacity = _step_size(
        lengths, max_length=max_length, batch=global_batch_size, unit=unit, packing=packing
    )
    bins: list[Pack] = []
    for epoch, share in _passes(epochs):
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(lengths))[: max(1, round(share * len(lengths)))]
        singles = [(int(example),) for example in order]
        packed = fill_bins(lengths, order, capacity=capacity) if packing else singles
        bins += [packed[i] for i in generator.permutation(len(packed))]
    used = sum(int(lengths[e]) for members in bins for e in members)
    num_steps = math.ceil(len(bins) / packs_per_step)
    if max_steps is not None:
        num_steps = min(num_steps, max_steps)
    steps = []
    for step in range(num_steps):
        members = bins[step * packs_per_step : (step + 1) * packs_per_step]
        steps.append(_deal(members, lengths, packs_per_step, micro_batch_size, world_size))
    return Schedule(packs=tuple(steps), capacity=capacity, fill=used / (len(bins) * capacity))


def _step_size(
    lengths: NDArray[np.int64], *, max_length: int, batch: int, unit: int, packing: bool
) -> tuple[int, int]:
    """Return bins per step (a multiple of `unit`) and tokens per bin.

    Where a step has few bins, they are made smaller rather than let the batch drift from its size.
    """
    if not packing:
        return max(1, round(batch / unit)) * unit, max_length
    tokens = batch * float(lengths.mean())
    units = tokens / max_length / unit
    if units >= _PACKS_TO_ROUND:
        return round(units) * unit, max_length
    packs = max(1, math.ceil(units)) * unit
    return packs, min(max_length, max(int(lengths.max()), math.ceil(tokens / packs)))


def _passes(epochs: float) -> list[tuple[int, float]]:
    """Return (number, share of the data) of every pass."""
    whole = int(epochs)
    passes = [(number, 1.0) for number in range(whole)]
    return [*passes, (whole, epochs - whole)] if epochs > whole else passes


def _deal(
    members: Sequence[Pack],
    lengths: NDArray[np.int64],
    packs_per_step: int,
    micro_batch_size: int,
    world_size: int,
) -> tuple[tuple[tuple[Pack, ...], ...], ...]:
    """Deal one step's bins to the ranks, to and fro by length, so that all have equal work.

    A last step that is not full gives some micro-batches empty bins, so that ranks stay in step.
    """
    ordered = sorted(members, key=lambda pack: -sum(int(lengths[e]) for e in pack))
    ordered += [()] * (packs_per_step - len(ordered))
    hands: list[list[Pack]] = [[] for _ in range(world_size)]
    for number, pack in enumerate(ordered):
        lap, place = divmod(number, world_size)
        hands[place if lap % 2 == 0 else world_size - 1 - place].append(pack)
    return tuple(
        tuple(tuple(hand[i : i + micro_batch_size]) for i in range(0, len(hand), micro_batch_size))
        for hand in hands
    )


class MicroBatches(Dataset[dict[str, Any]]):
    """The micro-batches of one rank as tensors; item i is the i-th forward pass of the run."""

    def __init__(
        self,
        index: ExampleIndex,
        batches: Sequence[tuple[Pack, ...]],
        pixels: PixelReader,
        *,
        image_token_id: int,
        pad_token_id: int,
        packing: bool,
    ) -> None:
        """Remember what to collate.

        Args:
            index: all examples.
            batches: bins of every forward pass.
            pixels: reads images.
            image_token_id: repeated `index.image_tokens` times for one image.
            pad_token_id: fills rows without packing.
            packing: False pads rows to the longest instead of joining them.
        """
        self._index = index
        self._batches = batches
        self._pixels = pixels
        self._image_token_id = image_token_id
        self._pad_token_id = pad_token_id
        self._packing = packing

    def __len__(self) -> int:
        """Return the number of forward passes."""
        return len(self._batches)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return the tensors of one forward pass.

        Returns:
            input_ids (B, T), where B is 1 with packing; position_ids (B, T), restarting at every
            example; attention_mask (B, T) without packing only; pixel_values (N, 3, H, W);
            logits_to_keep (K,), the positions that predict something; labels and shift_labels
            (B, K), what they predict; and `NUM_REAL`.
        """
        examples = [example for pack in self._batches[item] for example in pack]
        rows = [self._expand(example) for example in examples]
        paths = [path for example in examples for path in self._index.images_of(example)]
        if paths:
            pixel_values = self._pixels.read(paths)
        else:
            # An image that nothing attends to and nothing predicts from: encoder and projector
            # run in every forward pass on every rank, so gradient reduction never waits for one.
            filler = np.full(self._index.image_tokens, self._image_token_id, dtype=np.int64)
            rows.append((filler, np.full_like(filler, IGNORED)))
            pixel_values = self._pixels.blank()
        joined = _join(rows) if self._packing else _pad(rows, self._pad_token_id)
        num_real = sum(int(self._index.lengths[example]) for example in examples)
        return {**joined, "pixel_values": pixel_values, NUM_REAL: num_real}

    def _expand(self, example: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids with images in full, and for each position what it predicts."""
        start, end = self._index.starts[example : example + 2]
        ids = self._index.ids[start:end].astype(np.int64)
        targets = np.full_like(ids, IGNORED)
        predicted = np.flatnonzero(self._index.supervised[start + 1 : end])
        targets[predicted] = ids[predicted + 1]
        repeats = np.where(ids == self._image_token_id, self._index.image_tokens, 1)
        last = repeats.cumsum() - 1
        expanded = np.full(int(repeats.sum()), IGNORED, dtype=np.int64)
        expanded[last] = targets
        return np.repeat(ids, repeats), expanded


def _join(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> dict[str, Tensor]:
    """Concatenate examples into one row with restarting positions."""
    targets = np.concatenate([target for _, target in rows])
    kept = np.flatnonzero(targets != IGNORED)
    labels = torch.from_numpy(targets[kept])[None]
    return {
        "input_ids": torch.from_numpy(np.concatenate([ids for ids, _ in rows]))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(len(ids)) for ids, _ in rows]))[
            None
        ],
        "logits_to_keep": torch.from_numpy(kept),
        "labels": labels,
        "shift_labels": labels,
    }


def _pad(
    rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], pad_token_id: int
) -> dict[str, Tensor]:
    """Pad examples on the right to the longest."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
    targets = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for row, (ids, target) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        targets[row, : len(ids)] = target
    kept = np.flatnonzero((targets != IGNORED).any(axis=0))
    labels = torch.from_numpy(np.ascontiguousarray(targets[:, kept]))
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "logits_to_keep": torch.from_numpy(kept),
        "labels": labels,
        "shift_labels": labels,
    }
