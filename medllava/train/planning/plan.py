"""What a run will do, before anything is loaded: parts, tokens, steps, memory, hours.

A recipe, a stage and counts of the data enter; a `Plan` leaves, which `--dry-run` prints. Its
`Settings` are made by the same `fit_settings` that the trainer calls. It needs configurations only,
no weights and no GPU, so a 7B run can be planned on a laptop. Hours rest on shares of a GPU's peak
that were measured, which is said beside them; memory is an estimate by cause. `plan_text` turns a
plan into rows to read.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from medllava.data.dropped import unusable_share
from medllava.model.shapes import ModelShape
from medllava.recipe import Recipe, StageConfig
from medllava.records import Stage
from medllava.train.planning.costs import (
    GIB,
    GPUS,
    Gpu,
    PassCounts,
    Workload,
    compute_flops,
    compute_memory,
    host_memory,
)
from medllava.train.planning.data_counts import DataStatistics, assumed_data, dropped_text
from medllava.train.planning.fit import (
    ASSUMED_FILL,
    Batches,
    count_pass,
    fit_settings,
    fits,
    plan_batches,
)
from medllava.train.settings import Settings, machine_settings
from medllava.train.stages import Learning, Part, learning_rate_of

CPU = "cpu"
_MFU = {
    # Language model frozen, learning: 7B steps on one H200, bf16, packs of 2,048 and 8,192 tokens
    # (docs/benchmarks.md).
    "eager, short packs": (0.37, 0.30),
    "eager": (0.44, 0.45),
    "liger": (0.55, 0.55),
    "compiled": (0.54, 0.55),
    "float8": (0.71, 0.72),
}
_LONG_PACK = 4096
"""From here on the shares of long packs are taken."""
PROCESS_BYTES = 640 * 2**20
"""What Python, torch and transformers take before there is a model; measured."""
_USABLE_HOST = 0.9
"""Share of a machine's memory that may be planned; the rest is the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """What a machine without a GPU offers."""

    memory_bytes: int
    is_half: bool
    """Whether it is fast at bf16."""
    why: str
    """How that is known."""
    fullest: int | None = None
    """Tokens of the fullest pack of the run as it is laid out here; None without any data."""


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
class GpuPlan:
    """The run on one kind of GPU."""

    gpu: str
    settings: Settings
    memory_bytes: dict[str, int]
    capacity_bytes: int
    fits: bool
    hours: float | None
    """None where no peak is known."""
    mfu: float | None = None
    """Share of the peak that the hours are computed with, as measured on an H200."""
    host_bytes: int = 0
    """Host memory per device that offloading takes."""
    why: str = ""
    """Why it computes in the precision of its settings, where that was not the recipe's choice."""

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
    here: GpuPlan | None = None
    """The same run on this machine's CPU; None where it has a GPU."""
    refusal: str | None = None
    """Why the run must not start, in one sentence; None if it may."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        values["stage"] = self.stage.value
        plans = [(values["chosen"], self.chosen), (values["here"], self.here)]
        plans += zip(values["alternatives"], self.alternatives, strict=True)
        for plan, own in plans:
            if own is not None:
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
    cpu: Cpu | None = None,
) -> Plan:
    """Plan a stage.

    Args:
        recipe: resolved, with its overrides.
        stage: which of the three.
        shape: of the model, from `medllava.model.shapes.read_shape(recipe.model)`.
        data: counts of the records; None assumes LLaVA-Med's published data for the stage.
        world_size: devices over all machines.
        gpu: a name in `costs.GPUS`, what `costs.find_gpu` recognised, or `cpu`.
        max_steps: stop after this many steps.
        batches: the trainer's own layout of the run; None estimates it.
        cpu: this machine, where it has no GPU and would train on its CPU.
    """
    config = recipe.stage[stage]
    learning = Learning.of(stage, config)
    data = data or assumed_data(stage, shape)

    def plan_on(device: Gpu | None, known: Batches | None = None) -> tuple[GpuPlan, Batches, float]:
        base = machine_settings(
            recipe,
            config,
            world_size=world_size,
            has_cuda=device is not None,
            is_half=device is not None or (cpu is not None and cpu.is_half),
        )
        settings = fit_settings(recipe, stage, base, shape, data=data, device=device)
        fitting = known or plan_batches(recipe, config, settings, data, max_steps=max_steps)
        flops = _run_flops(shape, learning, data, fitting)
        fullest = cpu.fullest if cpu is not None and device is None else None
        passes = count_pass(
            recipe, settings, data, fitting.gradient_accumulation_steps, fullest=fullest
        )
        fill = data.num_tokens / max(1, fitting.num_units * settings.pack_length)
        plan = _plan_gpu(shape, learning, settings, device, passes, flops=flops, fill=fill)
        return plan, fitting, flops

    asked = None if gpu == CPU else (GPUS[gpu] if isinstance(gpu, str) else gpu)
    chosen, layout, flops = plan_on(asked, batches)
    return Plan(
        recipe=recipe.name,
        stage=stage,
        parts=_plan_parts(recipe, config, shape, learning),
        data=data,
        batches=layout,
        flops=flops,
        chosen=chosen,
        alternatives=tuple(plan_on(device)[0] for device in GPUS.values()),
        here=_on_cpu(plan_on(None)[0], cpu) if cpu else None,
        refusal=_refusal(recipe, data),
        notes=_notes(data, chosen),
    )


def _run_flops(
    shape: ModelShape, learning: Learning, data: DataStatistics, batches: Batches
) -> float:
    """Count the model FLOPs of the whole run, over all devices."""
    share = batches.num_steps / max(batches.steps_per_epoch, 1e-9)
    work = Workload(
        num_tokens=round(data.num_tokens * share),
        num_supervised=round(data.num_supervised * share),
        num_images=round(data.num_images * share),
        sum_squared_lengths=data.sum_squared_lengths * share,
    )
    return compute_flops(shape, learning, work)


def _plan_gpu(
    shape: ModelShape,
    learning: Learning,
    settings: Settings,
    device: Gpu | None,
    passes: PassCounts,
    *,
    flops: float,
    fill: float,
) -> GpuPlan:
    """Say what the run takes on a device with settings that were fitted to it."""
    memory = compute_memory(shape, learning, settings, passes)
    hours = mfu = None
    if device is not None:
        recomputed = 4 / 3 if settings.gradient_checkpointing else 1.0
        mfu = _measured_mfu(learning, settings) / recomputed
        speed = mfu * min(1.0, max(fill, 0.01) / ASSUMED_FILL)
        hours = flops / (speed * device.peak_flops * settings.world_size) / 3600
    return GpuPlan(
        gpu=device.name if device else CPU,
        settings=settings,
        memory_bytes=memory,
        capacity_bytes=device.memory_bytes if device else 0,
        fits=fits(memory, device),
        hours=hours,
        mfu=mfu,
        host_bytes=host_memory(shape, learning, settings),
    )


def _on_cpu(plan: GpuPlan, cpu: Cpu) -> GpuPlan:
    """Say whether a plan fits this machine's own memory."""
    memory = {**plan.memory_bytes, "process": PROCESS_BYTES}
    return replace(
        plan,
        memory_bytes=memory,
        capacity_bytes=cpu.memory_bytes,
        fits=sum(memory.values()) <= _USABLE_HOST * cpu.memory_bytes,
        why=cpu.why,
    )


def _measured_mfu(learning: Learning, settings: Settings) -> float:
    """Return the share of bf16's peak that a step like this one was measured to reach."""
    if settings.float8:
        kind = "float8"
    elif settings.pack_length * settings.micro_batch_size < _LONG_PACK:
        kind = "eager, short packs"
    elif settings.liger or settings.compile:
        kind = "liger" if settings.liger else "compiled"
    else:
        kind = "eager"
    return _MFU[kind][learning.language_model]


def _plan_parts(
    recipe: Recipe, config: StageConfig, shape: ModelShape, learning: Learning
) -> tuple[PartPlan, ...]:
    model = recipe.model
    adapted = learning.adapter.value if learning.adapter_rank else "no"

    def part(which: Part, name: str, source: str, count: int, otherwise: str = "no") -> PartPlan:
        learns = "yes" if which in learning.parts else otherwise
        rate = 0.0 if learns == "no" else learning_rate_of(which, config)
        return PartPlan(
            name=name, source=source, num_parameters=count, learns=learns, learning_rate=rate
        )

    vision, text = model.vision_encoder.source, model.language_model.source
    return (
        part(Part.VISION_ENCODER, "vision encoder", vision, shape.encoder_parameters),
        part(Part.PROJECTOR, "projector", "new, or from --init", shape.projector_parameters),
        part(Part.LANGUAGE_MODEL, "language model", text, shape.language_parameters, adapted),
    )


def _refusal(recipe: Recipe, data: DataStatistics) -> str | None:
    share = unusable_share(data.num_dropped, used=data.num_records)
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
        notes.append(
            f"Hours assume {chosen.mfu:.0%} of the GPU's dense bf16 peak, which a bare step of 7B "
            "reached on an H200."
        )
    if not chosen.fits:
        notes.append(
            f"About {chosen.total_bytes / GIB:.0f} GiB are needed per {chosen.gpu}: "
            "more GPUs, a shorter data.max_length, an adapter or train.optimizer=eight_bit "
            "would help."
        )
    return tuple(notes)
