"""What a run will do, before anything is loaded: parts, tokens, steps, memory, hours.

A recipe, a stage and counts of the data enter; a `Plan` leaves, which `--dry-run` prints and the
trainer obeys where the recipe leaves sharding open. It needs configurations only, no weights and no
GPU, so a 7B run can be planned on a laptop. Hours rest on an assumed share of a GPU's peak, which
is said beside them; memory is an estimate by cause. `plan_text` turns a plan into rows to read.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from medllava.model.shapes import ModelShape
from medllava.recipe import Precision, Recipe, StageConfig
from medllava.records import Stage
from medllava.train.planning.data_counts import DataStatistics, assumed_data, dropped_text
from medllava.train.planning.flops import GIB, GPUS, Gpu, Learning, Workload, compute_flops
from medllava.train.planning.memory_by_cause import Settings, compute_memory

CPU = "cpu"
ASSUMED_MFU = 0.40
"""Share of a GPU's dense bf16 peak that hours are computed with."""
ASSUMED_FILL = 0.98
"""Share of a pack that is real tokens, where packs have not been made yet."""
_USABLE = 0.92
"""Share of a GPU's memory that may be planned; the rest is fragmentation."""
_SMALL = 0.1
"""Below this share of learning parameters sharding their state saves little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """One part of the model and its role in the stage."""

    name: str
    source: str
    num_parameters: int
    learns: str
    """`no`, `yes`, or the adapter that learns in its place."""
    learning_rate: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """The run on one kind of GPU."""

    gpu: str
    settings: Settings
    memory_bytes: dict[str, int]
    capacity_bytes: int
    fits: bool
    hours: float | None
    """None where no peak is known."""

    @property
    def total_bytes(self) -> int:
        """Estimated bytes per device."""
        return sum(self.memory_bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything `--dry-run` says."""

    recipe: str
    stage: Stage
    parts: tuple[PartPlan, ...]
    data: DataStatistics
    batches: Batches
    flops: float
    """Model FLOPs of the whole run, over all devices."""
    chosen: GpuPlan
    """On the GPU that was asked for; its `settings` are what the trainer uses."""
    alternatives: tuple[GpuPlan, ...]
    """The same run on every GPU we know by name."""
    refusal: str | None = None
    """Why the run must not start, in one sentence; None if it may."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        values["stage"] = self.stage.value
        for plan, own in zip(
            (values["chosen"], *values["alternatives"]),
            (self.chosen, *self.alternatives),
            strict=True,
        ):
            plan["total_bytes"] = own.total_bytes
        return values


def build_plan(  # noqa: PLR0913 - each is a thing a user asks about
    recipe: Recipe,
    stage: Stage,
    shape: ModelShape,
    *,
    data: DataStatistics | None = None,
    world_size: int = 1,
    gpu: Gpu | str = "H100",
    max_steps: int | None = None,
    batches: Batches | None = None,
) -> Plan:
    """Plan a stage.

    Args:
        recipe: resolved, with its overrides.
        stage: which of the three.
        shape: of the model, from `medllava.model.shapes.read_shape(recipe.model)`.
        data: counts of the records; None assumes LLaVA-Med's published data for the stage.
        world_size: devices over all machines.
        gpu: a name in `flops.GPUS`, what `flops.find_gpu` recognised, or `cpu`.
        max_steps: stop after this many steps.
        batches: the trainer's own layout of the run; None estimates it.
    """
    config = recipe.stage[stage]
    learning = Learning.of(stage, config)
    data = data or assumed_data(stage, shape)
    batches = batches or plan_batches(
        recipe, config, data, world_size=world_size, max_steps=max_steps
    )
    share = batches.num_steps / max(batches.steps_per_epoch, 1e-9)
    work = Workload(
        num_tokens=round(data.num_tokens * share),
        num_supervised=round(data.num_supervised * share),
        num_images=round(data.num_images * share),
        sum_squared_lengths=data.sum_squared_lengths * share,
    )
    flops = compute_flops(shape, learning, work)
    fill = data.num_tokens / max(1, batches.num_units * _positions_per_unit(recipe, data))

    def plan_on(device: Gpu | None) -> GpuPlan:
        return _plan_gpu(
            recipe,
            shape,
            learning,
            data,
            batches,
            device,
            world_size=world_size,
            flops=flops,
            fill=fill,
        )

    asked = None if gpu == CPU else (GPUS[gpu] if isinstance(gpu, str) else gpu)
    chosen = plan_on(asked)
    return Plan(
        recipe=recipe.name,
        stage=stage,
        parts=_plan_parts(recipe, config, shape, learning),
        data=data,
        batches=batches,
        flops=flops,
        chosen=chosen,
        alternatives=tuple(plan_on(device) for device in GPUS.values()),
        refusal=_refusal(recipe, data),
        notes=_notes(data, chosen),
    )


def plan_batches(
    recipe: Recipe,
    config: StageConfig,
    data: DataStatistics,
    *,
    world_size: int,
    max_steps: int | None = None,
) -> Batches:
    """Turn the batch size in records into packs per device, accumulation and steps."""
    if recipe.data.packing:
        units = data.num_packs or math.ceil(
            data.num_tokens / (ASSUMED_FILL * recipe.data.max_length)
        )
    else:
        units = data.num_records
    records_per_unit = data.num_records / max(1, units)
    per_pass = config.micro_batch_size * world_size
    accumulation = max(1, round(config.global_batch_size / max(1e-9, records_per_unit * per_pass)))
    units_per_step = accumulation * per_pass
    steps_per_epoch = units / units_per_step
    num_steps = math.ceil(steps_per_epoch * config.epochs)
    return Batches(
        num_units=units,
        records_per_unit=records_per_unit,
        micro_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        units_per_step=units_per_step,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps if max_steps is None else min(num_steps, max_steps),
    )


def _positions_per_unit(recipe: Recipe, data: DataStatistics) -> int:
    """Positions computed per pack, or per record padded to its batch's longest."""
    return recipe.data.max_length if recipe.data.packing else data.longest


def _plan_gpu(  # noqa: PLR0913 - one value per quantity that was computed above
    recipe: Recipe,
    shape: ModelShape,
    learning: Learning,
    data: DataStatistics,
    batches: Batches,
    device: Gpu | None,
    *,
    world_size: int,
    flops: float,
    fill: float,
) -> GpuPlan:
    """Take the first way of spreading the run that fits the device, else the most frugal one."""
    positions = batches.micro_batch_size * _positions_per_unit(recipe, data)
    supervised = data.num_supervised / max(1, data.num_tokens) * positions
    images = data.num_images / max(1, data.num_tokens) * positions
    capacity = device.memory_bytes if device else 0
    for settings in _candidates(recipe, shape, learning, device, world_size):
        memory = compute_memory(
            shape,
            learning,
            settings,
            tokens_per_pass=positions,
            supervised_per_pass=math.ceil(supervised) if recipe.data.packing else positions,
            images_per_pass=math.ceil(images),
        )
        fits = device is None or sum(memory.values()) <= _USABLE * capacity
        if fits:
            break
    hours = None
    if device is not None:
        recomputed = 4 / 3 if settings.gradient_checkpointing else 1.0
        speed = ASSUMED_MFU * min(1.0, max(fill, 0.01) / ASSUMED_FILL) / recomputed
        hours = flops / (speed * device.peak_flops * world_size) / 3600
    return GpuPlan(
        gpu=device.name if device else CPU,
        settings=settings,
        memory_bytes=memory,
        capacity_bytes=capacity,
        fits=fits,
        hours=hours,
    )


def _candidates(
    recipe: Recipe, shape: ModelShape, learning: Learning, device: Gpu | None, world_size: int
) -> list[Settings]:
    """List the ways to spread a run that the recipe allows, the fastest first."""
    train = recipe.train
    is_half = train.precision is Precision.BF16 or (
        train.precision is Precision.AUTO and device is not None
    )
    is_small = learning.num_trainable(shape) < _SMALL * shape.num_parameters
    first = 0 if world_size == 1 or (is_small and device is not None) else 2
    if device is None:
        ways = [(first, False, False)]
    else:
        ways = [
            (first, False, False),
            (first, True, False),
            (2, False, False),
            (2, True, False),
            (3, True, False),
            (3, True, True),
        ]
    chosen = []
    for zero, checkpointing, offload in ways:
        way = Settings(
            zero_stage=zero if train.zero_stage is None else train.zero_stage,
            gradient_checkpointing=checkpointing
            if train.gradient_checkpointing is None
            else train.gradient_checkpointing,
            offload=offload if train.offload is None else train.offload,
            world_size=world_size,
            bytes_per_weight=2 if is_half else 4,
        )
        if way not in chosen:
            chosen.append(way)
    return chosen


def _plan_parts(
    recipe: Recipe, config: StageConfig, shape: ModelShape, learning: Learning
) -> tuple[PartPlan, ...]:
    rate = config.learning_rate
    text = "yes" if learning.language_model else learning.adapter.value
    text = "no" if text == "none" else text
    model = recipe.model
    return (
        PartPlan(
            name="vision encoder",
            source=model.vision_encoder.source,
            num_parameters=shape.encoder_parameters,
            learns="yes" if learning.vision_encoder else "no",
            learning_rate=rate if learning.vision_encoder else 0.0,
        ),
        PartPlan(
            name="projector",
            source="new, or from --init",
            num_parameters=shape.projector_parameters,
            learns="yes",
            learning_rate=config.projector_learning_rate or rate,
        ),
        PartPlan(
            name="language model",
            source=model.language_model.source,
            num_parameters=shape.language_parameters,
            learns=text,
            learning_rate=rate if text != "no" else 0.0,
        ),
    )


def _refusal(recipe: Recipe, data: DataStatistics) -> str | None:
    dropped = sum(data.num_dropped.values())
    share = dropped / max(1, dropped + data.num_records)
    if data.num_records == 0:
        return f"no record is left to train on: {data.source}. {dropped_text(data)}."
    if share > recipe.data.max_dropped:
        return (
            f"{share:.1%} of the records are dropped, {recipe.data.max_dropped:.1%} are allowed "
            f"({dropped_text(data)}): {data.source}. Correct them, or raise data.max_dropped."
        )
    return None


def _notes(data: DataStatistics, chosen: GpuPlan) -> tuple[str, ...]:
    notes = []
    if data.is_assumed:
        notes.append("Tokens are estimated, not counted with the model's tokenizer.")
    if chosen.hours is not None:
        notes.append(f"Hours assume {ASSUMED_MFU:.0%} of the GPU's dense bf16 peak, unmeasured.")
    if not chosen.fits:
        notes.append(
            f"About {chosen.total_bytes / GIB:.0f} GiB are needed per {chosen.gpu}: "
            "more GPUs, a shorter data.max_length or an adapter would help."
        )
    return tuple(notes)
