"""A recipe's stage as transformers' TrainingArguments."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from medllava.recipe import Recipe, Schedule, StageConfig
from medllava.records import Stage
from medllava.train.settings import Settings
from medllava.train.sharding import deepspeed_config

_DECAY_SHARE = 0.2
"""Of the steps, in which warmup_stable_decay falls to zero."""
_SCHEDULES = {
    Schedule.COSINE: "cosine",
    Schedule.LINEAR: "linear",
    Schedule.CONSTANT: "constant_with_warmup",
    Schedule.WARMUP_STABLE_DECAY: "warmup_stable_decay",
}


def training_arguments(
    recipe: Recipe,
    stage: Stage,
    settings: Settings,
    *,
    output_dir: Path,
    num_steps: int,
    accumulation: int,
) -> TrainingArguments:
    """Translate the recipe for the Trainer; arguments as in `argument_values`."""
    return TrainingArguments(
        **argument_values(
            recipe,
            stage,
            settings,
            output_dir=output_dir,
            num_steps=num_steps,
            accumulation=accumulation,
        )
    )


def argument_values(
    recipe: Recipe,
    stage: Stage,
    settings: Settings,
    *,
    output_dir: Path,
    num_steps: int,
    accumulation: int,
) -> dict[str, Any]:
    """Return what `TrainingArguments`, and TRL's heirs of it, take.

    Args:
        recipe: machine and numerics.
        stage: whose settings are used.
        settings: precision and sharding.
        output_dir: of the run.
        num_steps: optimizer steps, over which the schedule is laid out.
        accumulation: micro-batches per rank and step.
    """
    config = recipe.stage[stage]
    deepspeed = deepspeed_config(
        settings, max_grad_norm=config.max_grad_norm, accumulation=accumulation
    )
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulation,
        "max_steps": num_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": _SCHEDULES[config.schedule],
        "lr_scheduler_kwargs": _schedule_options(config, num_steps),
        "warmup_steps": _warmup_steps(config, num_steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": settings.is_half and settings.is_sharded,  # alone, the weights themselves are bf16
        "use_cpu": not torch.cuda.is_available(),
        "deepspeed": deepspeed,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": recipe.data.num_workers,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "seed": recipe.train.seed,
        "data_seed": recipe.train.seed,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": list(recipe.train.trackers) or "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def _warmup_steps(config: StageConfig, num_steps: int) -> int:
    return math.ceil(config.warmup_ratio * num_steps)


def _schedule_options(config: StageConfig, num_steps: int) -> dict[str, Any] | None:
    if config.schedule is not Schedule.WARMUP_STABLE_DECAY:
        return None
    return {"num_decay_steps": math.ceil(_DECAY_SHARE * num_steps)}
