"""An index to the schedule of a whole run: which examples share a bin, a step, a rank.

Examples are packed into bins of at most `pack_length` tokens, and every rank gets the same number
of micro-batches in each optimizer step. Where a step has many bins they are filled to the limit
over the whole pass and a step's examples are counted on average; where it has few, a step is
exactly `global_batch_size` examples, spread evenly over its bins. The whole run is laid out before
it starts, from lengths and a seed alone: it does not depend on worker processes, and any step can
be reached directly. `packing` makes tensors of it; no torch here.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medllava.data.bin_packing import Pack, fill_bins
from medllava.data.mixture import Mixture
from medllava.data.prefix_sharing import Sharing

_FULL_PACKS = 4
"""From this many full packs per rank and forward pass on, a step is counted in full packs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Every micro-batch of a run: `packs[step][rank][k]` are the bins of one forward pass."""

    packs: tuple[tuple[tuple[tuple[Pack, ...], ...], ...], ...]
    capacity: int
    """Tokens of the fullest bin."""
    fill: float
    """Mean size of the bins over the size of the fullest, before `max_steps` cuts the run."""
    sharing: Sharing
    """What the bins were laid out with."""
    num_bins: int
    """Bins of the whole run, and its steps, before `max_steps` cuts it."""
    num_steps_uncut: int
    num_examples: int
    """Examples of the whole run, repeats counted, before `max_steps` cuts it."""

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


def build_schedule(  # noqa: PLR0913 - each decides the layout
    sharing: Sharing,
    *,
    pack_length: int,
    packing: bool,
    global_batch_size: int,
    micro_batch_size: int,
    world_size: int,
    epochs: float,
    seed: int,
    max_steps: int | None = None,
    mixture: Mixture | None = None,
    laid_out_for: int | None = None,
) -> Schedule:
    """Lay out a whole run.

    Args:
        sharing: tokens of every example, and which begin alike.
        pack_length: tokens of a full bin.
        packing: False gives every example a bin of its own.
        global_batch_size: examples per step over all ranks; with packing on average.
        micro_batch_size: bins per rank and forward pass.
        world_size: ranks.
        epochs: passes over the data; a fraction takes the first part of a shuffled pass.
        seed: of the order.
        max_steps: stop after this many steps.
        mixture: of several sources; None takes every example once a pass.
        laid_out_for: ranks that the run began with, whose examples its steps keep; None means
            `world_size`.
    """
    unit = micro_batch_size * world_size
    first_unit = micro_batch_size * (laid_out_for or world_size)
    passes = _passes(sharing, epochs=epochs, seed=seed, mixture=mixture)
    num_tokens = sum(sharing.size_of(unit) for units in passes for unit in units)
    num_examples = sum(len(unit) for units in passes for unit in units)
    tokens_per_step = global_batch_size * num_tokens / num_examples
    if packing and tokens_per_step >= _FULL_PACKS * first_unit * pack_length:
        packs_per_step = round(tokens_per_step / pack_length / first_unit) * first_unit
        steps = _fill_whole(sharing, passes, pack_length, packs_per_step, seed=seed)
        packs_per_step = math.ceil(packs_per_step / unit) * unit
    else:
        steps = _cut_steps([u for units in passes for u in units], global_batch_size)
        packs_per_step = math.ceil(global_batch_size / unit) * unit
        if packing:
            packs_per_step = _packs_that_fit(sharing, steps, pack_length, unit)
            steps = [_level_bins(sharing, step, packs_per_step) for step in steps]
    sizes = [sharing.size_of(pack) for step in steps for pack in step]
    return Schedule(
        packs=tuple(
            _deal(step, sharing, packs_per_step, micro_batch_size, world_size)
            for step in steps[:max_steps]
        ),
        capacity=max(sizes),
        fill=sum(sizes) / (len(sizes) * max(sizes)),
        sharing=sharing,
        num_bins=len(sizes),
        num_steps_uncut=len(steps),
        num_examples=num_examples,
    )


def _passes(
    sharing: Sharing, *, epochs: float, seed: int, mixture: Mixture | None = None
) -> list[list[Pack]]:
    """Return the shuffled examples of every pass, those of one image drawn together.

    A last pass may be a part of one.
    """
    passes = []
    for epoch in range(math.ceil(epochs)):
        if mixture is None:
            order = np.random.default_rng([seed, epoch]).permutation(len(sharing.lengths))
        else:
            order = mixture.order(seed=seed, epoch=epoch)
        order = order[: max(1, round(min(1.0, epochs - epoch) * len(order)))]
        passes.append(sharing.draw_together(order))
    return passes


def _cut_steps(units: list[Pack], global_batch_size: int) -> list[list[Pack]]:
    """Cut a stream into steps of exactly `global_batch_size` examples, the last one excepted."""
    steps: list[list[Pack]] = []
    room = 0
    for unit in units:
        rest = unit
        while rest:
            if room == 0:
                steps.append([])
                room = global_batch_size
            steps[-1].append(rest[:room])
            room, rest = room - len(rest[:room]), rest[room:]
    return steps


def _fill_whole(
    sharing: Sharing,
    passes: list[list[Pack]],
    pack_length: int,
    packs_per_step: int,
    *,
    seed: int,
) -> list[list[Pack]]:
    """Fill bins over each whole pass, shuffle them, and cut the stream into steps."""
    stream: list[Pack] = []
    for epoch, units in enumerate(passes):
        units = [part for unit in units for part in _parts_that_fit(sharing, unit, pack_length)]
        lengths = np.array([sharing.size_of(unit) for unit in units])
        bins = fill_bins(lengths, range(len(units)), capacity=pack_length)
        shuffled = np.random.default_rng([seed, epoch, 1]).permutation(len(bins))
        stream += [tuple(e for number in bins[i] for e in units[number]) for i in shuffled]
    return [stream[i : i + packs_per_step] for i in range(0, len(stream), packs_per_step)]


def _parts_that_fit(sharing: Sharing, unit: Pack, pack_length: int) -> list[Pack]:
    """Cut examples that are drawn together where they would not fit into one bin."""
    parts = [unit[:1]]
    for example in unit[1:]:
        if sharing.size_of((*parts[-1], example)) <= pack_length:
            parts[-1] = (*parts[-1], example)
        else:
            parts.append((example,))
    return parts


def _packs_that_fit(sharing: Sharing, steps: list[list[Pack]], pack_length: int, unit: int) -> int:
    """Return the fewest bins per step, a multiple of `unit`, that hold every step's examples."""
    packs = unit
    while any(
        sharing.size_of(pack) > pack_length
        for step in steps
        for pack in _level_bins(sharing, step, packs)
    ):
        packs += unit
    return packs


def _level_bins(sharing: Sharing, step: list[Pack], count: int) -> list[Pack]:
    """Spread examples over `count` bins, longest first, each into the emptiest bin."""
    heap: list[tuple[int, int, Pack]] = [(0, number, ()) for number in range(count)]
    for size, unit in sorted(((sharing.size_of(u), u) for u in step), key=lambda pair: -pair[0]):
        filled, number, members = heapq.heappop(heap)
        heapq.heappush(heap, (filled + size, number, members + unit))
    return [members for _, _, members in heap if members]


def _deal(
    members: Sequence[Pack],
    sharing: Sharing,
    packs_per_step: int,
    micro_batch_size: int,
    world_size: int,
) -> tuple[tuple[tuple[Pack, ...], ...], ...]:
    """Deal one step's bins to the ranks, to and fro by length, so that all have equal work.

    A last step that is not full gives some micro-batches empty bins, so that ranks stay in step.
    """
    ordered = sorted(members, key=lambda pack: -sharing.size_of(pack))
    ordered += [()] * (packs_per_step - len(ordered))
    hands: list[list[Pack]] = [[] for _ in range(world_size)]
    for number, pack in enumerate(ordered):
        lap, place = divmod(number, world_size)
        hands[place if lap % 2 == 0 else world_size - 1 - place].append(pack)
    return tuple(
        tuple(tuple(hand[i : i + micro_batch_size]) for i in range(0, len(hand), micro_batch_size))
        for hand in hands
    )
