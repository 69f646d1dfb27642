"""One stage from recipe to checkpoint: the step function behind `medllava train`.

Records and a model enter; a folder leaves that transformers, `eval` and `chat` load as it lies:

    OUT/
      config.json model.safetensors tokenizer.json chat_template.jinja ...   model and processor
      recipe.json      the resolved recipe
      metrics.jsonl    one record per step
      report.html      the same as curves
      dropped.jsonl    records that were not used, with the reason
      run.json         what was done: parts, data, numbers, machine; written last
      checkpoints/step-N/   while running only
"""

import os
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medllava.data.dataset import ExampleIndex, iter_dropped
from medllava.data.schedule import Schedule
from medllava.layout import (
    METRICS_FILE,
    PAGE_FILE,
    RECIPE_FILE,
    RUN_FILE,
)
from medllava.model.kernels import apply_float8, apply_liger, compile_layers
from medllava.model.loaded import LoadedModel
from medllava.model.shapes import ModelShape
from medllava.progress import Progress, SilentProgress
from medllava.provenance import trace_sources
from medllava.recipe import Precision
from medllava.records import MixtureRecord, PackingRecord, RunRecord, Stage, StepSummary
from medllava.store import exclusive, read_record
from medllava.train import prepare
from medllava.train.arguments import training_arguments
from medllava.train.checkpoint import (
    PACK_KEY,
    PRECISION_KEY,
    RANKS_KEY,
    check_run_key,
    clear_partial,
    clear_run,
    is_disk_full,
    list_checkpoints,
    noted,
)
from medllava.train.config import StageRunConfig
from medllava.train.freezing import checkpoint_activations
from medllava.train.hardware import this_gpu
from medllava.train.monitor import (
    MetricsFile,
)
from medllava.train.planning.data_counts import count_index
from medllava.train.planning.fit import fit_settings
from medllava.train.precision import precision_of_run
from medllava.train.ranks import Ranks
from medllava.train.recorded import StageRun
from medllava.train.resharding import has_other_layout
from medllava.train.run_folder import (
    arithmetic_of,
    describe_run,
    export_run,
    find_shape,
    write_inputs,
)
from medllava.train.run_record import (
    describe_data,
    describe_init,
)
from medllava.train.settings import Settings, machine_settings
from medllava.train.sharding import whole_weights
from medllava.train.stages import BY_TRL
from medllava.train.stop import StopRequest
from medllava.train.trainer import StageTrainer
from medllava.train.trl_run import train_by_trl

_SILENT = SilentProgress()
_ALONE = Ranks()


def train_stage(
    config: StageRunConfig, *, ranks: Ranks = _ALONE, progress: Progress = _SILENT
) -> StepSummary:
    """Train one stage, or go on where an earlier run of the same stage was ended.

    Args:
        config: recipe, stage, data and folder.
        ranks: which process of how many this is; all of them call this with the same `config`.
        progress: told of the phases and of every step.

    Returns:
        Counts and artifacts; incomplete when the machine asked the run to stop.

    Raises:
        DataError: the data is missing, too much of it cannot be used, or the folder holds another
            run.
        SetupError: weights, a device or a package is missing.
        RecipeError: the recipe cannot be used, or the loss is not finite.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed warns on stdout
    try:
        return _train_exclusively(config, ranks, progress)
    except Exception as error:
        if not is_disk_full(error, config.output_dir):
            raise
        reason = f"no space left on the disk of {config.output_dir} ({error}). Make room."
        progress.note(reason)
        if ranks.is_main:
            clear_partial(config.output_dir)
        return _stopped(config, reason)


def _train_exclusively(config: StageRunConfig, ranks: Ranks, progress: Progress) -> StepSummary:
    """Hold the folder, join the other ranks, and train what is not finished yet."""
    with ExitStack() as stack:
        if ranks.is_main:
            stack.enter_context(exclusive(config.output_dir))
            if not config.resume:
                clear_run(config.output_dir)
            check_run_key(config.output_dir, _run_key(config, ranks))
            clear_partial(config.output_dir)
        stack.enter_context(ranks.connected())
        ranks.wait()
        if (config.output_dir / RUN_FILE).exists():
            return _summarize(config, read_record(config.output_dir / RUN_FILE, RunRecord))
        if config.stage not in BY_TRL:
            return _train(config, ranks, progress)
        if not train_by_trl(config, ranks, progress):
            return _stopped(config)
        return _summarize(config, read_record(config.output_dir / RUN_FILE, RunRecord))


def _train(config: StageRunConfig, ranks: Ranks, progress: Progress) -> StepSummary:
    """Prepare, train and export."""
    output_dir = config.output_dir
    if config.recipe.train.threads:
        torch.set_num_threads(config.recipe.train.threads)
    checkpoints = list_checkpoints(output_dir)
    done, folder = checkpoints[-1] if checkpoints else (0, None)
    run = _prepare(config, ranks, folder, progress)
    if ranks.is_main:
        write_inputs(config, iter_dropped(run.index))
    if folder:
        progress.note(f"continuing after step {done} of {run.schedule.num_steps}")
    with ExitStack() as stack:
        trainer = _make_trainer(run, stack, done=done, progress=progress)
        progress.start(f"train {config.stage.value}", total=run.schedule.num_steps)
        progress.advance(done)
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    if trainer.was_stopped:
        return _stopped(config)
    with whole_weights(run.loaded.model, run.settings):
        if ranks.is_main:
            export_run(config, run.loaded, _describe(run), is_half=run.settings.is_half)
    ranks.wait()
    return _summarize(config, read_record(output_dir / RUN_FILE, RunRecord))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What is fixed before the first step."""

    config: StageRunConfig
    ranks: Ranks
    settings: Settings
    loaded: LoadedModel
    shape: ModelShape | None
    """None where a checkpoint stands for parts that are not at hand."""
    index: ExampleIndex
    schedule: Schedule
    feature_statistics: tuple[Tensor, Tensor] | None = None
    """Mean and deviation of the projector's inputs, where it learns by them."""
    other_layout: Path | None = None
    """Checkpoint to go on from that is of another number of ranks."""


def _prepare(config: StageRunConfig, ranks: Ranks, folder: Path | None, progress: Progress) -> _Run:
    """Load the model, read the records, choose the settings and lay out the steps.

    Args:
        config: of the run.
        ranks: of which this is one.
        folder: checkpoint to go on from.
        progress: told of the phases.
    """
    output_dir, recipe = config.output_dir, config.recipe
    data = prepare.share_data(config, ranks)
    shape = find_shape(config)
    choice = precision_of_run(config, shape, ranks, folder)
    progress.note(f"computing in {choice.precision.value}: {choice.reason}")
    base = machine_settings(
        recipe,
        recipe.stage[config.stage],
        world_size=ranks.world_size,
        has_cuda=torch.cuda.is_available(),
        is_half=choice.precision is Precision.BF16,
    )
    progress.start("load model")
    loaded = prepare.load_initial(config, base, data, resumed=folder)
    index = prepare.share_index(
        config, data, loaded.processor, ranks, progress=progress, is_training=True
    )
    settings = _fit(config, base, shape, index)
    begun = noted(output_dir, PACK_KEY)
    settings = replace(settings, pack_length=begun or settings.pack_length)
    is_other = folder is not None and has_other_layout(folder, settings)
    if settings.gradient_checkpointing:
        checkpoint_activations(loaded.model)
    _apply_kernels(loaded, settings, progress)
    schedule = prepare.lay_out(
        config,
        settings,
        prepare.choose_sharing(config, index, loaded, progress=progress),
        prepare.mixture_of(config, index),
        began_with=noted(output_dir, RANKS_KEY),
    )
    if ranks.is_main:
        check_run_key(
            output_dir,
            {
                "examples": index.fingerprint(),
                PACK_KEY: settings.pack_length,
                PRECISION_KEY: settings.precision.value,
            },
        )
    return _Run(
        config=config,
        ranks=ranks,
        settings=settings,
        loaded=loaded,
        shape=shape,
        index=index,
        schedule=schedule,
        feature_statistics=prepare.statistics_of_features(
            config, settings, data, loaded, progress=progress
        ),
        other_layout=folder if is_other else None,
    )


def _make_trainer(run: _Run, stack: ExitStack, *, done: int, progress: Progress) -> StageTrainer:
    """Return the trainer; what has to be closed after it is put on `stack`."""
    config, ranks, schedule, loaded = run.config, run.ranks, run.schedule, run.loaded
    recipe, output_dir = config.recipe, config.output_dir
    held_out = prepare.make_held_out(
        config, run.settings, loaded.processor, ranks, progress=progress
    )
    metrics = None
    if ranks.is_main:
        metrics = MetricsFile(output_dir / METRICS_FILE, after_step=done)
        stack.callback(metrics.close)
    arguments = training_arguments(
        recipe,
        config.stage,
        run.settings,
        output_dir=output_dir,
        num_steps=schedule.num_steps,
        accumulation=schedule.accumulation,
    )
    plan = StageRun(
        settings=run.settings,
        ranks=ranks,
        output_dir=output_dir,
        batches=prepare.make_batches(config, run.index, schedule, loaded.processor, ranks=ranks),
        held_out=held_out,
        stage=recipe.stage[config.stage],
        checkpoint=recipe.checkpoint,
        feature_statistics=run.feature_statistics,
        other_layout=run.other_layout,
        arithmetic=arithmetic_of(config, run.shape),
        metrics=metrics,
        extra_files={
            RECIPE_FILE: recipe.to_toml_values(),
            RUN_FILE: replace(_describe(run), complete=False).to_json(),
        },
        stop_request=stack.enter_context(closing(StopRequest())),
        progress=progress,
    )
    return StageTrainer(loaded, arguments, plan=plan)


def _apply_kernels(loaded: LoadedModel, settings: Settings, progress: Progress) -> None:
    if settings.liger and not apply_liger(loaded.model):
        progress.note("Liger does not know this language model; its kernels are not used")
    if settings.float8:
        progress.note(f"float8: {apply_float8(loaded.model)} matrices")
    if settings.compile:
        compile_layers(loaded.model)


def _fit(
    config: StageRunConfig, base: Settings, shape: ModelShape | None, index: ExampleIndex
) -> Settings:
    """Fill in what the recipe leaves open; without the model's sizes the usual is taken."""
    if shape is None:
        return base
    counts = count_index(index, source=config.data)
    return fit_settings(config.recipe, config.stage, base, shape, data=counts, device=this_gpu())


def _describe(run: _Run) -> RunRecord:
    """Return what is known about a run before it is finished."""
    schedule = run.schedule
    return describe_run(
        run.config,
        run.settings,
        data=describe_data(run.config.data, run.index, mixture=_describe_mixture(run)),
        num_steps=schedule.num_steps,
        num_ranks=run.ranks.world_size,
        packing=PackingRecord(
            tokens_per_pack=schedule.capacity,
            packs_per_step=schedule.packs_per_step,
            fill=schedule.fill,
        ),
    )


def _describe_mixture(run: _Run) -> tuple[MixtureRecord, ...]:
    """Return what each source of a mixture gave to the run."""
    mixture = prepare.mixture_of(run.config, run.index)
    if mixture is None:
        return ()
    drawn = np.bincount(
        mixture.origins[
            [
                e
                for step in range(run.schedule.num_steps)
                for e in run.schedule.examples_of_step(step)
            ]
        ],
        minlength=len(mixture.draws),
    )
    return tuple(
        MixtureRecord(
            source=source.source,
            weight=source.weight,
            epochs=source.epochs,
            limit=source.limit,
            used=int(np.count_nonzero(mixture.origins == number)),
            drawn=int(drawn[number]),
            share=float(drawn[number] / drawn.sum()),
            sources=trace_sources(Path(source.source)),
        )
        for number, source in enumerate(run.config.mixture)
    )


def _summarize(config: StageRunConfig, run: RunRecord) -> StepSummary:
    """Return the summary of a finished run, from its `run.json`."""
    output_dir = config.output_dir
    counts = {
        "records_used": run.data.used,
        "records_dropped": run.data.dropped,
        "masked_records": run.masked_records or None,
        "steps": run.steps,
        "tokens": run.tokens,
        "loss_first": run.loss_first,
        "loss_last": run.loss_last,
        "tokens_per_second": run.tokens_per_second,
        "seconds": run.seconds,
        **run.measures,
    }
    hint = f"medllava eval TASK --ckpt {output_dir}"
    if config.stage is Stage.ALIGN:
        name = config.recipe.name
        hint = f"medllava train {name} --stage 2 --data INSTRUCTIONS --init {output_dir}"
    return StepSummary(
        step="train",
        counts={name: value for name, value in counts.items() if value is not None},
        details={"stage": config.stage.value, "recipe": run.recipe, "complete": True},
        artifacts={
            "checkpoint": output_dir,
            "metrics": output_dir / METRICS_FILE,
            "report": output_dir / PAGE_FILE,
        },
        hint=hint,
    )


def _stopped(config: StageRunConfig, reason: str = "the machine asked for it") -> StepSummary:
    """Return the summary of a run that ended early, and why; the same command goes on."""
    checkpoints = list_checkpoints(config.output_dir)
    return StepSummary(
        step="train",
        complete=False,
        counts={"steps_done": checkpoints[-1][0] if checkpoints else 0},
        details={"stopped_by": reason},
        artifacts={"checkpoint": checkpoints[-1][1]} if checkpoints else {},
    )


def _run_key(config: StageRunConfig, ranks: Ranks) -> dict[str, Any]:
    """Return what decides every number of a run."""
    values = config.recipe.to_toml_values()
    data, train = dict(values["data"]), dict(values["train"])
    for name in ("num_workers", "max_dropped"):
        del data[name]
    for name in ("threads", "trackers", "restarts"):
        del train[name]
    init_run = describe_init(config.init).run
    return {
        "stage": config.stage.value,
        "model": values["model"],
        "data": data,
        "settings": values["stage"][config.stage.value],
        "train": train,
        "init": (init_run and init_run.weights_sha256) or config.init,
        "max_steps": config.max_steps,
        "validation_data": str(config.validation_data) if config.validation_data else None,
        RANKS_KEY: noted(config.output_dir, RANKS_KEY) or ranks.world_size,
        **({"mixture": [asdict(source) for source in config.mixture]} if config.mixture else {}),
    }
