"""What a run leaves in its folder, whoever trains: inputs before the first step, the rest last."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import torch

from medllava.errors import SetupError
from medllava.layout import (
    ADAPTER_DIR,
    CARD_FILE,
    CHECKPOINTS_DIR,
    DROPPED_FILE,
    METRICS_FILE,
    PAGE_FILE,
    RECIPE_FILE,
    RUN_FILE,
)
from medllava.model.adapter import has_adapter, save_adapter
from medllava.model.load import save_model
from medllava.model.loaded import LoadedModel
from medllava.model.shapes import ModelShape, read_shape
from medllava.provenance import weights_sha256
from medllava.records import DataRecord, PackingRecord, RunRecord
from medllava.run_readme import render_run_readme
from medllava.store import write_json, write_text
from medllava.train import prepare
from medllava.train.config import StageRunConfig
from medllava.train.hardware import this_gpu
from medllava.train.monitor import Arithmetic, read_metrics, summarize_metrics, write_report
from medllava.train.run_record import describe_init, describe_machine, describe_parts
from medllava.train.settings import Settings
from medllava.train.stages import Learning


def find_shape(config: StageRunConfig) -> ModelShape | None:
    """Return the sizes of the recipe's parts; None where a checkpoint stands for absent ones."""
    try:
        return read_shape(config.recipe.model)
    except SetupError:
        return None


def arithmetic_of(config: StageRunConfig, shape: ModelShape | None) -> Arithmetic | None:
    """Return what the meter needs; None where the model's sizes are not known."""
    if shape is None:
        return None
    gpu = this_gpu()
    return Arithmetic(
        shape=shape,
        learning=Learning.of(config.stage, config.recipe.stage[config.stage]),
        peak_flops=gpu.peak_flops if gpu else None,
    )


def write_inputs(config: StageRunConfig, dropped: Iterable[Mapping[str, Any]]) -> None:
    """Write what is known before the first step: the recipe, and a line per unused record."""
    write_json(config.output_dir / RECIPE_FILE, config.recipe.to_toml_values())
    lines = (json.dumps(values, ensure_ascii=False) + "\n" for values in dropped)
    write_text(config.output_dir / DROPPED_FILE, "".join(lines))


def describe_run(
    config: StageRunConfig,
    settings: Settings,
    *,
    data: DataRecord,
    num_steps: int,
    num_ranks: int = 1,
    packing: PackingRecord | None = None,
) -> RunRecord:
    """Return what is known about a run before it is finished."""
    return RunRecord(
        stage=config.stage,
        recipe=config.recipe.name,
        command=config.command,
        init=describe_init(config.init),
        parts=describe_parts(config.recipe.model),
        data=data,
        seed=config.recipe.train.seed,
        steps=num_steps,
        ranks=num_ranks,
        settings=asdict(settings),
        packing=packing,
        machine=describe_machine(),
    )


def export_run(
    config: StageRunConfig,
    loaded: LoadedModel,
    record: RunRecord,
    *,
    is_half: bool,
    measure: Callable[[list[dict[str, Any]]], dict[str, float]] | None = None,
    more_curves: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write the finished model and what is known about it; `run.json` comes last.

    Args:
        config: of the run.
        loaded: the trained model.
        record: of `describe_run`.
        is_half: whether its weights are written in bf16.
        measure: tells from the records of all steps what only this stage knows.
        more_curves: of the page: title to label to name in the records.
    """
    output_dir = config.output_dir
    save_model(loaded, output_dir, dtype=torch.bfloat16 if is_half else None)
    if has_adapter(loaded.model):
        save_adapter(loaded.model, output_dir / ADAPTER_DIR, base=config.init)
    records = read_metrics(output_dir / METRICS_FILE)
    record = replace(
        record,
        complete=True,
        **summarize_metrics(records),
        weights_sha256=weights_sha256(output_dir),
        measures={} if measure is None else measure(records),
    )
    write_report(
        output_dir / PAGE_FILE,
        title=f"{config.recipe.name}, stage {config.stage.value}",
        subtitle=f"{record.steps} steps on {config.data}",
        facts=record.to_json(),
        more_curves=more_curves,
    )
    write_text(output_dir / CARD_FILE, render_run_readme(record, output_dir))
    write_json(output_dir / RUN_FILE, record.to_json())
    prepare.clear_pixels(output_dir)
    shutil.rmtree(output_dir / CHECKPOINTS_DIR, ignore_errors=True)
