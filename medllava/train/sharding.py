"""How a run is spread over its ranks: the settings as DeepSpeed's, and whole tensors again.

Every run of several ranks is DeepSpeed's, whatever its ZeRO stage; one process needs it only to
shard or to offload.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medllava.train.settings import Settings

_PARTITIONED = 3
"""ZeRO stage from which the weights themselves are spread."""


def deepspeed_config(
    settings: Settings, *, max_grad_norm: float, accumulation: int
) -> dict[str, Any] | None:
    """Return DeepSpeed's configuration, or None where it is not needed."""
    if not settings.is_sharded:
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
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": settings.is_half},
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
