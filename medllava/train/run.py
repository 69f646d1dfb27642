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

import json
import os
import shutil
from contextlib import closing
from typing import Any

import torch

from medllava.data.dataset import ExampleIndex, iter_dropped
from medllava.data.packing import Schedule
from medllava.model.load import save_model
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress, SilentProgress
from medllava.records import StepSummary
from medllava.store import exclusive, read_json, write_json, write_text
from medllava.train import prepare
from medllava.train.arguments import training_arguments, uses_bf16
from medllava.train.checkpoint import (
    CHECKPOINTS,
    METRICS_FILE,
    RUN_FILE,
    check_run_key,
    clear_partial,
    clear_run,
    list_checkpoints,
)
from medllava.train.config import StageRunConfig
from medllava.train.facts import (
    describe_data,
    describe_init,
    describe_machine,
    describe_parts,
    weights_digest,
)
from medllava.train.monitor import MetricsFile, read_metrics, summarize_metrics, write_report
from medllava.train.stage_data import find_data
from medllava.train.stages import freeze_parts, learning_parts
from medllava.train.trainer import StageTrainer, StopRequest

RECIPE_FILE = "recipe.json"
DROPPED_FILE = "dropped.jsonl"
RANDOM_FOLDER = "random-data"
REPORT_FILE = "report.html"


_SILENT = SilentProgress()


def train_stage(config: StageRunConfig, *, progress: Progress = _SILENT) -> StepSummary:
    """Train one stage, or go on where an earlier run of the same stage was ended.

    Args:
        config: recipe, stage, data and folder.
        progress: told of the phases and of every step.

    Returns:
        Counts and artifacts; incomplete when the machine asked the run to stop.

    Raises:
        DataError: the data is missing, too much of it cannot be used, or the folder holds another
            run.
        SetupError: weights, a device or a package is missing.
        RecipeError: the recipe cannot be used, or the loss is not finite.
    """
    with exclusive(config.output_dir):
        if not config.resume:
            clear_run(config.output_dir)
        check_run_key(config.output_dir, _run_key(config))
        if (config.output_dir / RUN_FILE).exists():
            return _summarize(config, read_json(config.output_dir / RUN_FILE))
        clear_partial(config.output_dir)
        return _train(config, progress)


def _train(config: StageRunConfig, progress: Progress) -> StepSummary:
    """Prepare, train and export."""
    recipe, output_dir = config.recipe, config.output_dir
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed warns on stdout
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    checkpoints = list_checkpoints(output_dir)
    done, folder = checkpoints[-1] if checkpoints else (0, None)
    data = find_data(config, made_up=output_dir / RANDOM_FOLDER)
    progress.start("load model")
    loaded = prepare.load_initial(config, data, resumed=folder)
    freeze_parts(loaded.model, learning_parts(config.stage, recipe.stage[config.stage]))
    index = prepare.index_data(config, data, loaded.processor, progress=progress)
    prepare.check_dropped(config, index)
    schedule = prepare.lay_out(config, index)
    check_run_key(output_dir, {"examples": index.fingerprint()})
    _write_inputs(config, index)
    if folder:
        progress.note(f"continuing after step {done} of {schedule.num_steps}")
    trainer = _make_trainer(config, loaded, index, schedule, progress)
    trainer.metrics_file = MetricsFile(output_dir / METRICS_FILE, after_step=done)
    progress.start(f"train {config.stage.value}", total=schedule.num_steps)
    progress.advance(done)
    with closing(StopRequest()) as trainer.stop_request, closing(trainer.metrics_file):
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    if trainer.was_stopped:
        return _stopped(config, trainer.state.global_step, schedule)
    return _export(config, loaded, index, schedule)


def _make_trainer(
    config: StageRunConfig,
    loaded: LoadedModel,
    index: ExampleIndex,
    schedule: Schedule,
    progress: Progress,
) -> StageTrainer:
    recipe = config.recipe
    trainer = StageTrainer(
        loaded.model,
        training_arguments(
            recipe,
            config.stage,
            output_dir=config.output_dir,
            num_steps=schedule.num_steps,
            accumulation=schedule.accumulation,
        ),
        output_dir=config.output_dir,
        batches=prepare.make_batches(config, index, schedule, loaded.processor),
        processor=loaded.processor,
        stage=recipe.stage[config.stage],
        checkpoint=recipe.checkpoint,
        progress=progress,
    )
    unfinished = _describe(config, index, schedule)
    trainer.extra_files = {
        RECIPE_FILE: recipe.to_toml_values(),
        RUN_FILE: {**unfinished, "complete": False},
    }
    return trainer


def _write_inputs(config: StageRunConfig, index: ExampleIndex) -> None:
    """Write what is known before the first step."""
    write_json(config.output_dir / RECIPE_FILE, config.recipe.to_toml_values())
    lines = (json.dumps(values, ensure_ascii=False) + "\n" for values in iter_dropped(index))
    write_text(config.output_dir / DROPPED_FILE, "".join(lines))


def _export(
    config: StageRunConfig, loaded: LoadedModel, index: ExampleIndex, schedule: Schedule
) -> StepSummary:
    """Write the finished model and what is known about it; `run.json` comes last."""
    output_dir = config.output_dir
    save_model(loaded, output_dir, dtype=torch.bfloat16 if uses_bf16(config.recipe) else None)
    run = {
        **_describe(config, index, schedule),
        "complete": True,
        **summarize_metrics(read_metrics(output_dir / METRICS_FILE)),
        "weights_sha256": weights_digest(output_dir),
    }
    write_report(
        output_dir / REPORT_FILE,
        title=f"{config.recipe.name}, stage {config.stage.value}",
        subtitle=f"{schedule.num_steps} steps on {config.data}",
        facts=run,
    )
    write_json(output_dir / RUN_FILE, run)
    (output_dir / prepare.PIXELS_FILE).unlink(missing_ok=True)
    shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
    return _summarize(config, run)


def _describe(config: StageRunConfig, index: ExampleIndex, schedule: Schedule) -> dict[str, Any]:
    """Return what is known about a run before it is finished."""
    return {
        "stage": config.stage.value,
        "recipe": config.recipe.name,
        "init": describe_init(config.init),
        "parts": describe_parts(config.recipe.model),
        "data": describe_data(config.data, index),
        "seed": config.recipe.train.seed,
        "steps": schedule.num_steps,
        "packing": {
            "tokens_per_pack": schedule.capacity,
            "packs_per_step": schedule.packs_per_step,
            "fill": schedule.fill,
        },
        "machine": describe_machine(),
    }


def _summarize(config: StageRunConfig, run: dict[str, Any]) -> StepSummary:
    """Return the summary of a finished run, from its `run.json`."""
    output_dir = config.output_dir
    data = run["data"]
    return StepSummary(
        step="train",
        counts={
            "records_used": data["used"],
            "records_dropped": data["dropped"],
            "steps": run["steps"],
            "tokens": run["tokens"],
            "loss_first": run["loss_first"],
            "loss_last": run["loss_last"],
            "tokens_per_second": run["tokens_per_second"],
            "seconds": run["seconds"],
        },
        details={"stage": run["stage"], "recipe": run["recipe"], "complete": True},
        artifacts={
            "checkpoint": output_dir,
            "metrics": output_dir / METRICS_FILE,
            "report": output_dir / REPORT_FILE,
        },
        hint=f"medllava eval TASK --ckpt {output_dir}",
    )


def _stopped(config: StageRunConfig, step: int, schedule: Schedule) -> StepSummary:
    """Return the summary of a run that was asked to stop."""
    return StepSummary(
        step="train",
        complete=False,
        counts={"steps_done": step, "steps": schedule.num_steps},
        artifacts={"checkpoint": list_checkpoints(config.output_dir)[-1][1]},
    )


def _run_key(config: StageRunConfig) -> dict[str, Any]:
    """Return what decides every number of a run."""
    values = config.recipe.to_toml_values()
    data, train = dict(values["data"]), dict(values["train"])
    for name in ("num_workers", "max_dropped"):
        del data[name]
    for name in ("threads", "trackers"):
        del train[name]
    init_run = describe_init(config.init)["run"]
    return {
        "stage": config.stage.value,
        "model": values["model"],
        "data": data,
        "settings": values["stage"][config.stage.value],
        "train": train,
        "init": init_run["weights_sha256"] if init_run else config.init,
        "max_steps": config.max_steps,
    }
