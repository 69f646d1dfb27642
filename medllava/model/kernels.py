"""Faster kernels put into a model before it trains: Liger's, float8 products, compiled layers.

Each changes how a language model's decoder layers compute, none what they mean; encoder, projector
and head stay as they are. Order matters: Liger swaps classes, float8 swaps linear layers, and each
layer is compiled last, on its own and for one shape, around the attention kernel.
"""

import importlib.util
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from medllava.errors import SetupError
from medllava.model.packed_attention import (
    SEGMENTED,
    VARLEN,
    segmented_attention,
    varlen_attention,
)

_OF_THE_LOSS = ("shift_labels", "num_items_in_batch")
"""Arguments of the loss that transformers hands down to every layer."""
_DIVISOR = 16
"""float8 products want sizes that this divides."""


def apply_liger(model: Any) -> bool:  # noqa: ANN401 - a native LLaVA
    """Swap in Liger's norms, SwiGLU and rotary; its fused loss is not used, ours keeps few logits.

    Returns:
        False where Liger does not know this kind of language model; nothing is changed then.

    Raises:
        SetupError: Liger or CUDA is missing.
    """
    if importlib.util.find_spec("liger_kernel") is None or not torch.cuda.is_available():
        raise SetupError(
            "Liger's kernels need CUDA and their package: train.liger. Install medllava[liger], "
            "or leave train.liger out."
        )
    from liger_kernel.transformers.monkey_patch import (  # noqa: PLC0415 - an extra
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )

    text = model.model.language_model
    patch = MODEL_TYPE_TO_APPLY_LIGER_FN.get(text.config.model_type)
    if patch is None:
        return False
    patch(
        model=text,
        rope=True,
        rms_norm=True,
        swiglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
    )
    return True


def apply_float8(model: Any) -> int:  # noqa: ANN401 - a native LLaVA
    """Multiply the matrices of the decoder layers in float8, scaled per tensor.

    Returns:
        How many layers were swapped.

    Raises:
        SetupError: torchao is missing, or the GPU has no float8.
    """
    has_float8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
    if importlib.util.find_spec("torchao") is None or not has_float8:
        raise SetupError(
            "train.float8 needs torchao and a GPU with float8 (H100 or newer). "
            "Install medllava[float8], or leave it out."
        )
    from torchao.float8 import convert_to_float8_training  # noqa: PLC0415 - an extra

    layers = model.model.language_model.layers

    def fits(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and not (
            module.in_features % _DIVISOR or module.out_features % _DIVISOR
        )

    count = sum(fits(module, "") for module in layers.modules())
    convert_to_float8_training(layers, module_filter_fn=fits)
    return count


def compile_layers(model: Any) -> int:  # noqa: ANN401 - a native LLaVA
    """Compile every decoder layer for the one shape that all its packs have.

    The attention kernel reads where segments begin, which a compiler cannot trace: it runs outside.

    Returns:
        How many layers.
    """
    outside: Any = torch.compiler.disable
    for name, kernel in ((SEGMENTED, segmented_attention), (VARLEN, varlen_attention)):
        AttentionInterface.register(name, outside(kernel))
    layers = model.model.language_model.layers
    for layer in layers:
        layer.forward = _compiled(layer.forward)
    return len(layers)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a layer without the loss's own arguments, whose sizes change in every step."""
    compiled = torch.compile(forward, dynamic=False)

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the model hands a layer
        for name in _OF_THE_LOSS:
            kwargs.pop(name, None)
        return compiled(*args, **kwargs)

    return call
