"""LoRA and QLoRA as a stage's switch: what is put on the model before it learns.

The language model's own weights are frozen, in 4 bits for QLoRA; adapters and projector learn. What
a stage writes is merged, so later stages, evaluation and chat see an ordinary checkpoint.
"""

from pathlib import Path

import torch

from medllava.model.adapter import attach_adapter, is_adapter_parameter, load_learned
from medllava.model.loaded import LoadedModel
from medllava.model.quantize import quantize_language_model
from medllava.recipe import Adapter, Recipe
from medllava.records import Stage
from medllava.train.arguments import uses_bf16
from medllava.train.stages import Part, learning_parts, part_of


def uses_adapter(recipe: Recipe, stage: Stage) -> bool:
    """Tell whether an adapter learns in place of the language model; never in stage 1."""
    return stage is not Stage.ALIGN and recipe.stage[stage].adapter is not Adapter.NONE


def add_adapter(
    loaded: LoadedModel, recipe: Recipe, stage: Stage, *, resumed: Path | None = None
) -> None:
    """Freeze the language model, put the stage's adapter on it, and say who learns.

    Args:
        loaded: the model the stage starts from, also when it is resumed.
        recipe: its rank, scale and dropout, and 4-bit weights or not.
        stage: 2 or 3.
        resumed: checkpoint of the same run, whose learned tensors are put back.

    Raises:
        SetupError: an extra is not installed, or the checkpoint is of another adapter.
    """
    settings = recipe.stage[stage]
    if settings.adapter is Adapter.QLORA:
        dtype = torch.bfloat16 if uses_bf16(recipe) else torch.float32
        quantize_language_model(loaded.model, compute_dtype=dtype)
    attach_adapter(
        loaded.model,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        seed=recipe.train.seed,
    )
    whole = learning_parts(stage, settings) - {Part.LANGUAGE_MODEL}
    for name, parameter in loaded.model.named_parameters():
        learns = is_adapter_parameter(name) or part_of(name) in whole
        if learns or parameter.is_floating_point():
            parameter.requires_grad_(learns)
    if resumed is not None:
        load_learned(loaded.model, resumed)
