"""How a run is spread over its ranks: the plan's settings as DeepSpeed's, and whole tensors again.

Every run of several ranks is DeepSpeed's, whatever its ZeRO stage; one process needs it only to
shard or to offload.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medllava.data.dataset import ExampleIndex
from medllava.data.packing import Schedule
from medllava.errors import SetupError
from medllava.model.shapes import ModelShape, read_shape
from medllava.train.arguments import uses_bf16
from medllava.train.config import StageRunConfig
from medllava.train.planning.dry_run import count_batches, count_index, this_gpu
from medllava.train.planning.memory_by_cause import Settings
from medllava.train.planning.plan import CPU, build_plan

_PARTITIONED = 3
"""ZeRO stage from which the weights themselves are spread."""


def choose_settings(
    config: StageRunConfig,
    shape: ModelShape | None,
    index: ExampleIndex,
    schedule: Schedule,
    *,
    world_size: int,
) -> Settings:
    """Return how the run is spread: the recipe's choice, else the plan's for this machine.

    Args:
        config: of the run.
        shape: of the model; None where its parts are not at hand, which makes usual choices.
        index: all examples.
        schedule: of the run.
        world_size: ranks.
    """
    train = config.recipe.train
    if shape is None:
        usual = 2 if world_size > 1 else 0
        return Settings(
            zero_stage=usual if train.zero_stage is None else train.zero_stage,
            gradient_checkpointing=bool(train.gradient_checkpointing),
            offload=bool(train.offload),
            world_size=world_size,
            bytes_per_weight=2 if uses_bf16(config.recipe) else 4,
        )
    plan = build_plan(
        config.recipe,
        config.stage,
        shape,
        data=count_index(config, index),
        world_size=world_size,
        gpu=this_gpu() or CPU,
        batches=count_batches(config, index, schedule),
    )
    return plan.chosen.settings


def find_shape(config: StageRunConfig) -> ModelShape | None:
    """Return the sizes of the recipe's parts; None where a checkpoint stands for absent ones."""
    try:
        return read_shape(config.recipe.model)
    except SetupError:
        return None


def is_sharded(settings: Settings) -> bool:
    """Tell whether DeepSpeed holds the model."""
    return settings.world_size > 1 or settings.zero_stage > 0 or settings.offload


def deepspeed_config(
    config: StageRunConfig, settings: Settings, *, accumulation: int
) -> dict[str, Any] | None:
    """Return DeepSpeed's configuration, or None where it is not needed."""
    if not is_sharded(settings):
        return None
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
    }
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.recipe.stage[config.stage].max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": uses_bf16(config.recipe)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@contextmanager
def whole_weights(model: nn.Module, settings: Settings) -> Iterator[None]:
    """Hold all weights whole on every rank, for as long as they are written."""
    if settings.zero_stage < _PARTITIONED:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415 - only sharded runs need it

    with GatheredParameters(list(model.parameters()), modifier_rank=None):
        yield


class BufferKeeper:
    """Keeps buffers in their own precision, whatever a wrapper casts the weights to.

    Rotary frequencies in bf16 would turn the angles of late positions by whole radians.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the model's floating-point buffers."""
        self._kept: dict[str, Tensor] = {
            name: buffer.detach().clone()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point()
        }

    def restore(self, model: nn.Module) -> None:
        """Put back those whose precision was changed."""
        for name, buffer in list(model.named_buffers()):
            kept = self._kept.get(name)
            if kept is not None and kept.dtype != buffer.dtype:
                owner, _, leaf = name.rpartition(".")
                model.get_submodule(owner)._buffers[leaf] = kept.to(buffer.device)  # noqa: SLF001 - keeps it a non-persistent buffer
