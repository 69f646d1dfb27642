"""A language model in 4 bits, frozen, for adapters to learn on (QLoRA).

The linear layers of the language model are replaced in place by bitsandbytes' NF4 layers; their
inputs and outputs keep their types, so the model stays the native one. Encoder, projector, word
embeddings and head keep their precision. It works on a GPU and, slowly, on a CPU.

Source: QLoRA (Dettmers et al. 2023, arXiv 2305.14314): NF4 with doubly quantized constants.
"""

# mypy: allow-untyped-calls
# bitsandbytes types its classes only in part

import importlib.util
from typing import Any, cast

import torch
from torch import nn

from medllava.errors import SetupError


def quantize_language_model(model: nn.Module, *, compute_dtype: torch.dtype) -> int:
    """Turn the linear layers of a native LLaVA's language model into frozen 4-bit ones, in place.

    Args:
        model: on the device it will run on, without an adapter.
        compute_dtype: weights are unpacked to this for every multiplication.

    Returns:
        How many layers were replaced.

    Raises:
        SetupError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SetupError("4-bit weights need bitsandbytes. Install medllava[quantize].")
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and ".language_model." in f".{name}"
    ]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - chosen above; tells mypy
        setattr(model.get_submodule(parent), leaf, _quantized(layer, compute_dtype))
    return len(names)


def _quantized(layer: nn.Linear, compute_dtype: torch.dtype) -> nn.Module:
    """Return the NF4 layer; the full weight is free as soon as nothing else holds `layer`."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit  # noqa: PLC0415 - an extra

    device = layer.weight.device
    with torch.device("meta"):
        packed = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute_dtype,
            quant_type="nf4",
        )
    packed.weight = Params4bit(
        layer.weight.detach().to(compute_dtype).contiguous(), requires_grad=False, quant_type="nf4"
    )
    if layer.bias is not None:
        packed.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    quantized: Any = packed.to(device)  # moving is what packs the weight
    # On a CPU with AVX512-BF16 the layer would repack itself in place in its first evaluation: for
    # a kernel that wants sizes divisible by 32 and computes in bf16 whatever type was asked for.
    quantized.support_avx512bf16_for_cpu = False
    return cast("nn.Module", quantized)
