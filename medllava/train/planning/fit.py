"""The first way of running that fits a device, fastest first: sharding, checkpointing, packs.

The trainer and the plan call the same `fit_settings`; needs no torch.
"""

import math
from dataclasses import dataclass, replace

from medllava.model.shapes import ModelShape
from medllava.recipe import Optimizer, Recipe, StageConfig
from medllava.records import Stage
from medllava.train.planning.costs import GIB, Gpu, PassCounts, compute_memory
from medllava.train.planning.data_counts import DataStatistics
from medllava.train.settings import LONGEST_PACK, Settings
from medllava.train.stages import Learning

ASSUMED_FILL = 0.98
"""Share of a pack that is real tokens, where packs have not been made yet."""
_USABLE = 0.92
"""Share of a GPU's memory that may be planned; the rest is fragmentation."""
_CUDA_BYTES = 3 * GIB // 2
"""What CUDA keeps for itself."""
_SMALL = 0.1
"""Below this share of learning parameters sharding their state saves little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How records become optimizer steps; the trainer uses the same numbers."""

    num_units: int
    """Packs per epoch; records without packing."""
    records_per_unit: float
    micro_batch_size: int
    gradient_accumulation_steps: int
    units_per_step: int
    """Over all ranks."""
    steps_per_epoch: float
    num_steps: int


def fit_settings(
    recipe: Recipe,
    stage: Stage,
    base: Settings,
    shape: ModelShape,
    *,
    data: DataStatistics,
    device: Gpu | None,
) -> Settings:
    """Fill in what the recipe leaves open: the first way that fits the device, fastest first.

    Args:
        recipe: whose choices are kept.
        stage: of the run.
        base: from `settings.machine_settings`.
        shape: of the model.
        data: counts of the records.
        device: the GPU, or None for a CPU, which is taken to have the memory.

    Returns:
        The settings; the most frugal ones where none fits.
    """
    config = recipe.stage[stage]
    learning = Learning.of(stage, config)
    for settings in _candidates(recipe, shape, learning, base, data, device):
        batches = plan_batches(recipe, config, settings, data)
        passes = count_pass(recipe, settings, data, batches.gradient_accumulation_steps)
        if fits(compute_memory(shape, learning, settings, passes), device):
            break
    return settings


def fits(memory: dict[str, int], device: Gpu | None) -> bool:
    """Tell whether a peak fits a device; a CPU is taken to have the memory."""
    return device is None or sum(memory.values()) <= _USABLE * device.memory_bytes - _CUDA_BYTES


def plan_batches(
    recipe: Recipe,
    config: StageConfig,
    settings: Settings,
    data: DataStatistics,
    *,
    max_steps: int | None = None,
) -> Batches:
    """Turn the batch size in records into packs per device, accumulation and steps."""
    if recipe.data.packing:
        units = data.num_packs or math.ceil(data.num_tokens / (ASSUMED_FILL * settings.pack_length))
    else:
        units = data.num_records
    records_per_unit = data.num_records / max(1, units)
    per_pass = settings.micro_batch_size * settings.world_size
    accumulation = max(1, round(config.global_batch_size / max(1e-9, records_per_unit * per_pass)))
    units_per_step = accumulation * per_pass
    steps_per_epoch = units / units_per_step
    num_steps = math.ceil(steps_per_epoch * config.epochs)
    return Batches(
        num_units=units,
        records_per_unit=records_per_unit,
        micro_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        units_per_step=units_per_step,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps if max_steps is None else min(num_steps, max_steps),
    )


def count_pass(
    recipe: Recipe,
    settings: Settings,
    data: DataStatistics,
    accumulation: int,
    *,
    fullest: int | None = None,
) -> PassCounts:
    """Return what goes through in one forward pass, as full as packs are at most.

    Args:
        recipe: of the run.
        settings: length and number of packs.
        data: counts of the records.
        accumulation: passes per step.
        fullest: tokens of the fullest pack, where the run was laid out; few records a step do not
            fill one.
    """
    length = min(settings.pack_length, fullest or settings.pack_length)
    positions = settings.micro_batch_size * length
    per_token = positions / max(1, data.num_tokens)
    supervised = math.ceil(data.num_supervised * per_token) if recipe.data.packing else positions
    return PassCounts(
        tokens=positions,
        supervised=supervised,
        images=math.ceil(data.num_images * per_token),
        passes_per_step=accumulation,
    )


def _candidates(
    recipe: Recipe,
    shape: ModelShape,
    learning: Learning,
    base: Settings,
    data: DataStatistics,
    device: Gpu | None,
) -> list[Settings]:
    """List the ways to spread a run that the recipe allows, the fastest first."""
    train = recipe.train
    is_small = learning.num_trainable(shape) < _SMALL * shape.num_parameters
    first = 0 if base.world_size == 1 or (is_small and device is not None) else 2
    ways = [(first, False, False)]
    if device is not None and base.optimizer is not Optimizer.FP32_MASTERS:
        ways += [(first, True, False)]  # not sharded
    elif device is not None:
        ways += [
            (first, True, False),
            (2, False, False),
            (2, True, False),
            (3, True, False),
            (3, True, True),
        ]
    chosen = []
    for zero, checkpointing, offload in ways:
        for length in _pack_lengths(recipe, base, data, device):
            way = replace(
                base,
                pack_length=length,
                zero_stage=zero if train.zero_stage is None else train.zero_stage,
                gradient_checkpointing=checkpointing
                if train.gradient_checkpointing is None
                else train.gradient_checkpointing,
                offload=offload if train.offload is None else train.offload,
            )
            if way not in chosen:
                chosen.append(way)
    return chosen


def _pack_lengths(
    recipe: Recipe, base: Settings, data: DataStatistics, device: Gpu | None
) -> list[int]:
    """List the lengths of packs to try, the longest first: long rows before many passes."""
    if not recipe.data.packing:
        return [min(base.pack_length, data.longest or base.pack_length)]
    if recipe.data.pack_length or device is None:
        return [base.pack_length]
    lengths = [LONGEST_PACK]
    while lengths[-1] // 2 > base.pack_length:
        lengths.append(lengths[-1] // 2)
    return [length for length in lengths if length > base.pack_length] + [base.pack_length]
