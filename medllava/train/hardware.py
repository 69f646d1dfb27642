"""What this machine is: its GPU, its memory, and whether it is fast at bf16."""

import functools
import time
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # comes with accelerate
import torch
from torch import Tensor
from torch.nn import functional

from medllava.model.shapes import ModelShape
from medllava.recipe import Precision
from medllava.train.planning.costs import Gpu, find_gpu

CLEAR_GAIN = 1.3
"""From this many times fp32's speed on, a layer in bf16 pays for what bf16 costs elsewhere."""
_TRIAL_TOKENS = 512
_TRIAL_REPEATS = 5
_TRIAL_WIDEST = 1024
"""Wider layers are tried at this width: the trial must stay short."""
_NARROWEST = 256
"""Below this width a step is not made of matrix products, and fp32 is taken untried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionChoice:
    """What a run computes in, and why."""

    precision: Precision
    """bf16 or fp32."""
    reason: str


def this_gpu() -> Gpu | None:
    """Return what is known of this machine's GPU; None without one, or for one we do not know."""
    if not torch.cuda.is_available():
        return None
    memory = torch.cuda.get_device_properties(0).total_memory
    return find_gpu(torch.cuda.get_device_name(), memory_bytes=memory)


def host_memory_bytes() -> int:
    """Return the memory of this machine."""
    return int(psutil.virtual_memory().total)


def choose_precision(
    asked: Precision, shape: ModelShape | None, *, is_sharded: bool
) -> PrecisionChoice:
    """Choose what a run computes in; on a CPU by a trial of a second.

    A CPU with AVX512-BF16 or AMX multiplies bf16 several times faster than fp32, another emulates
    it many times slower, and no list of processors is complete.

    Args:
        asked: by the recipe.
        shape: of the model; None, where its parts are not at hand, takes a usual layer.
        is_sharded: whether DeepSpeed holds the model, whose ranks share a CPU's cores: fp32 then.
    """
    if asked is not Precision.AUTO:
        return PrecisionChoice(precision=asked, reason="as the recipe says")
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return PrecisionChoice(precision=Precision.BF16, reason="the GPU has it")
        return PrecisionChoice(precision=Precision.FP32, reason="the GPU has no bf16")
    if is_sharded:
        return PrecisionChoice(precision=Precision.FP32, reason="several ranks on a CPU")
    width, wide = (shape.hidden_size, shape.intermediate_size) if shape else (576, 1536)
    if width < _NARROWEST:
        return PrecisionChoice(precision=Precision.FP32, reason="the layers are small")
    gain = try_bf16(min(width, _TRIAL_WIDEST), min(wide, 4 * _TRIAL_WIDEST))
    return PrecisionChoice(
        precision=Precision.BF16 if gain >= CLEAR_GAIN else Precision.FP32,
        reason=f"a layer in bf16 runs at {gain:.1f} times the speed of fp32 on this CPU",
    )


@functools.cache
def try_bf16(width: int, wide: int) -> float:
    """Return how many times faster a layer of these sizes is in bf16 than in fp32, here and now.

    Forward and backward pass of a gated layer, in turns, so that a busy machine disturbs both; the
    fastest of each counts. The global random state is left alone.
    """
    layers = {
        dtype: _make_layer(width, wide, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    }
    fastest = dict.fromkeys(layers, float("inf"))
    for _ in range(_TRIAL_REPEATS):
        for dtype, tensors in layers.items():
            started = time.perf_counter()
            _run_layer(*tensors)
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - started)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def _make_layer(width: int, wide: int, *, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((_TRIAL_TOKENS, width), (wide, width), (wide, width), (width, wide))
    tensors = (0.02 * torch.randn(size, generator=generator) for size in sizes)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def _run_layer(inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> None:
    normed = functional.rms_norm(inputs, inputs.shape[1:])
    opened = functional.silu(functional.linear(normed, gate))
    outputs = inputs + functional.linear(opened * functional.linear(normed, up), down)
    torch.autograd.grad(outputs.float().sum(), [inputs, gate, up, down])
