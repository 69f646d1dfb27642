"""Low-rank adapters on the language model: attach, save apart, merge.

The adapter is put into the native model's linear layers (peft), so the class stays the native one.
What is saved is always merged: a checkpoint is a whole LLaVA with its projector, whatever learned.
With 4-bit weights beneath (QLoRA) the merged weights are the dequantized ones plus the adapter.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medllava.errors import SetupError

_MARK = ".lora_"
_WRAPPED = ".base_layer."


def attach_adapter(
    model: nn.Module, *, rank: int, alpha: int, dropout: float = 0.0, seed: int = 0
) -> None:
    """Put an adapter on every linear layer of the language model, in place.

    Until it learns, the model computes what it did before. Parameters whose names
    `is_adapter_parameter` knows are the ones to train; the layers beneath are to be frozen.

    Args:
        model: a native LLaVA without an adapter.
        rank: of the two matrices.
        alpha: their product is scaled by alpha / rank.
        dropout: of the adapter's input.
        seed: of the first matrix; the second starts at zero.

    Raises:
        SetupError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError("adapters need peft. Install medllava[lora].") from None
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".language_model." in f".{name}"
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)


def is_adapter_parameter(name: str) -> bool:
    """Tell whether a parameter name belongs to an adapter."""
    return _MARK in name


def has_adapter(model: nn.Module) -> bool:
    """Tell whether an adapter is attached."""
    return any(is_adapter_parameter(name) for name, _ in model.named_parameters())


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors as if the adapter had been merged; the model stays as it is."""
    wrapped = dict(_adapted_layers(model))
    state = {}
    for name, tensor in model.state_dict().items():
        layer, _, rest = name.partition(_WRAPPED)
        if is_adapter_parameter(name) or rest.startswith("weight."):
            continue  # the adapter's own, and the notes of quantized weights
        if rest == "weight":
            state[f"{layer}.weight"] = _merged_weight(wrapped[layer])
        else:
            state[name.replace(_WRAPPED, ".")] = tensor
    return state


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if "base_layer" in dict(module.named_children()):
            yield name, module


def _merged_weight(layer: Any) -> Tensor:  # noqa: ANN401 - peft's own class
    """Return W + scale * B A, in the precision of the adapter where W is quantized."""
    layer.base_layer.state_dict()  # undoes what bitsandbytes repacks for a CPU that only infers
    weight = layer.base_layer.weight
    (adapter,) = layer.active_adapters
    delta: Tensor = layer.get_delta_weight(adapter)
    if getattr(weight, "quant_state", None) is not None:
        import bitsandbytes  # noqa: PLC0415 - only where 4-bit weights are

        weight = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        weight = weight.to(delta.dtype)
    merged: Tensor = weight.detach() + delta.to(weight.dtype)
    return merged
