"""`--dry-run`: the plan of a stage on this machine's data, without its weights.

Records are counted with the model's own tokenizer where that is at hand, and estimated from their
characters where it is not; without any data, LLaVA-Med's published counts stand in. What is
printed is what the trainer does: it packs and chooses its settings with the same functions.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from medllava.data.layouts.released import SourceReport, inspect_llava_json
from medllava.data.prefix_sharing import find_sharing
from medllava.data.schedule import Schedule
from medllava.data.sources import is_llava_file
from medllava.errors import SetupError
from medllava.model.shapes import ModelShape, read_shape
from medllava.model.weightless_processor import read_processor
from medllava.progress import Progress
from medllava.recipe import Precision
from medllava.records import Stage
from medllava.train import prepare
from medllava.train.config import StageRunConfig
from medllava.train.hardware import choose_precision, host_memory_bytes, this_gpu
from medllava.train.planning.costs import GPUS, Gpu
from medllava.train.planning.data_counts import (
    DataStatistics,
    count_index,
    describe_mixture,
    estimate_data,
)
from medllava.train.planning.fit import Batches, fit_settings
from medllava.train.planning.plan import Cpu, Plan, build_plan
from medllava.train.planning.trl_plan import plan_trl
from medllava.train.settings import machine_settings, wants_launcher
from medllava.train.stage_data import StageData, find_data
from medllava.train.stages import BY_TRL

_PLANNED_GPU = "H100"
"""Where a machine without a GPU plans for; the plan lists the others beside it."""


def plan_stage(config: StageRunConfig, *, world_size: int, progress: Progress) -> Plan:
    """Plan a stage without loading any weights.

    Args:
        config: what `train` would be asked; its data may be absent.
        world_size: devices over all machines.
        progress: told while records are read.

    Raises:
        DataError: data is named and cannot be read.
        SetupError: a part's configuration is nowhere to be found.
    """
    shape = read_shape(config.recipe.model)
    cpu = None if this_gpu() else _this_cpu(config, shape, world_size=world_size)
    if config.stage in BY_TRL:
        return plan_trl(
            config.recipe,
            config.stage,
            shape,
            data=_count_rows(config, shape, progress),
            gpu=_device(),
            max_steps=config.max_steps,
            cpu=cpu,
        )
    counted = _count(config, shape, world_size=world_size, cpu=cpu, progress=progress)
    return build_plan(
        config.recipe,
        config.stage,
        shape,
        data=counted.data,
        world_size=world_size,
        gpu=_device(),
        max_steps=config.max_steps,
        batches=counted.batches,
        cpu=replace(cpu, fullest=counted.fullest) if cpu else None,
    )


def _this_cpu(config: StageRunConfig, shape: ModelShape, *, world_size: int) -> Cpu:
    """Return what this machine without a GPU offers; it is tried how fast it is at bf16."""
    recipe = config.recipe
    is_sharded = world_size > 1 or wants_launcher(recipe)
    choice = choose_precision(recipe.train.precision, shape, is_sharded=is_sharded)
    return Cpu(
        memory_bytes=host_memory_bytes(),
        is_half=choice.precision is Precision.BF16,
        why=choice.reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """The records in numbers, as far as they are known."""

    data: DataStatistics | None = None
    batches: Batches | None = None
    """On the device that is planned for."""
    fullest: int | None = None
    """Tokens of the fullest pack on this machine's CPU."""


def _device() -> Gpu:
    return this_gpu() or GPUS[_PLANNED_GPU]


def count_batches(config: StageRunConfig, schedule: Schedule) -> Batches:
    """Return the trainer's own layout of the run as the plan wants it."""
    stage = config.recipe.stage[config.stage]
    per_epoch = schedule.num_bins / stage.epochs
    return Batches(
        num_units=round(per_epoch),
        records_per_unit=schedule.num_examples / schedule.num_bins,
        micro_batch_size=stage.micro_batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        units_per_step=schedule.packs_per_step,
        steps_per_epoch=schedule.num_steps_uncut / stage.epochs,
        num_steps=schedule.num_steps,
    )


def _count_rows(
    config: StageRunConfig, shape: ModelShape, progress: Progress
) -> DataStatistics | None:
    """Count the sides of pairs, or every question as often as it is answered."""
    if not config.data:
        return None
    with tempfile.TemporaryDirectory(prefix="medllava-") as made_up:
        data = find_data(config, made_up=Path(made_up))
        try:
            processor = read_processor(config.recipe.model, init=config.init)
            index = prepare.index_data(config, data, processor, progress=progress)
            counts = count_index(index, source=config.data)
        except SetupError:
            counts = estimate_data(data.records(), shape, source=config.data)
    if config.stage is Stage.PREFER:
        return counts
    times = config.recipe.stage.reinforce.generations
    return replace(
        counts,
        num_records=counts.num_records * times,
        num_tokens=counts.num_tokens * times,
        num_supervised=counts.num_supervised * times,
        num_images=counts.num_images * times,
        sum_squared_lengths=counts.sum_squared_lengths * times,
    )


def _count(
    config: StageRunConfig,
    shape: ModelShape,
    *,
    world_size: int,
    cpu: Cpu | None,
    progress: Progress,
) -> _Counted:
    """Count the records, with the trainer's own packing where its tokenizer is at hand."""
    if not config.data:
        return _Counted()
    with tempfile.TemporaryDirectory(prefix="medllava-") as made_up:
        data = find_data(config, made_up=Path(made_up))
        for source in data.sources():
            _note_source(source, progress)
        try:
            processor = read_processor(config.recipe.model, init=config.init)
        except SetupError:
            return _Counted(data=estimate_data(data.records(), shape, source=config.data))
        index = prepare.index_data(config, data, processor, progress=progress)
    sharing = find_sharing(
        index,
        image_token_id=processor.image_token_id,
        most=config.recipe.data.records_per_image if config.recipe.data.packing else 1,
    )
    mixture = prepare.mixture_of(config, index)
    counts = count_index(index, source=config.data, mixture=mixture)
    if mixture:
        counts = replace(counts, mixture=describe_mixture(config.mixture, mixture))

    def lay_out(device: Gpu | None, *, is_half: bool) -> Schedule:
        """Lay the run out as the trainer would on a GPU or, without one, on a CPU."""
        base = machine_settings(
            config.recipe,
            config.recipe.stage[config.stage],
            world_size=world_size,
            has_cuda=device is not None,
            is_half=is_half,
        )
        settings = fit_settings(
            config.recipe, config.stage, base, shape, data=counts, device=device
        )
        return prepare.lay_out(config, settings, sharing, mixture)

    return _Counted(
        data=counts,
        batches=count_batches(config, lay_out(_device(), is_half=True)),
        fullest=lay_out(None, is_half=cpu.is_half).capacity if cpu else None,
    )


def _note_source(data: StageData, progress: Progress) -> None:
    """Say how a LLaVA file compares with what is published and which of its images are here."""
    if data.questions is None and data.path.is_file() and is_llava_file(data.path):
        report = inspect_llava_json(data.path, image_root=data.image_root)
        progress.note(_describe(report, data))


def _describe(report: SourceReport, data: StageData) -> str:
    missing = report.missing_images
    text = f"{data.path.name}: {report.num_records:,} records, {report.num_pairs:,} pairs"
    if report.released_as:
        relation = "differs from" if report.differences else "has the digest and counts of"
        text += f"; {relation} the published {report.released_as}"
        text += "".join(f", {difference}" for difference in report.differences)
    present = f"{report.num_images - len(missing):,} of {report.num_images:,} images"
    text += f"; {present} in {data.image_root}"
    return f"{text}, first missing: {missing[0]}" if missing else text
