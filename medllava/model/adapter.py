"""Low-rank adapters on the language model: attach, merge, save apart, read back.

The adapter is put into the native model's linear layers (peft), so the class stays the native one.
A checkpoint is always merged: a whole LLaVA with its projector, whatever learned. With 4-bit
weights beneath (QLoRA) the merged weights are the dequantized ones plus the adapter. What learned
can be written apart too, as peft reads it, for those who have the model that it learned on.
"""

# mypy: allow-untyped-calls
# peft types its classes only in part

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medllava.errors import SetupError
from medllava.layout import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from medllava.store import read_json

_MARK = ".lora_"
_WRAPPED = ".base_layer."
_PEFT_PREFIX = "base_model.model."
_MISSING = "adapters need peft. Install medllava[lora]."


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
        raise SetupError(_MISSING) from None
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


def save_adapter(model: nn.Module, folder: Path, *, base: str) -> None:
    """Write what learned, apart from what rested: adapter_config.json, adapter_model.safetensors.

    Whatever learned beside the adapter, such as the projector, is written whole.

    Args:
        model: with an adapter, as it was trained: parameters that rest take no gradients.
        folder: made if absent.
        base: folder or hub id of the model that it learned on.
    """
    tuned: Any = model
    (config,) = (copy.copy(found) for found in tuned.peft_config.values())
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = {name.split(".")[1] for name in learned if not is_adapter_parameter(name)}
    config.base_model_name_or_path = base
    config.modules_to_save = sorted(whole) or None
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _PEFT_PREFIX + name.replace(".default.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in learned.items()
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(folder)


def is_adapter(source: str) -> bool:
    """Tell whether a folder holds an adapter alone."""
    return (Path(source) / ADAPTER_CONFIG_FILE).is_file()


def base_of(folder: Path) -> str:
    """Return the folder or hub id of the model that an adapter learned on.

    Raises:
        SetupError: it does not say.
    """
    base = read_json(folder / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
    if not base:
        raise SetupError(f"the adapter does not name its model: {folder}. Write {folder}+MODEL.")
    return str(base)


def merge_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Return the model with an adapter of `save_adapter` merged into it.

    Args:
        model: what the adapter learned on; changed in place.
        folder: of the adapter.

    Raises:
        SetupError: peft is missing, or the adapter does not fit this model.
    """
    try:
        from peft import PeftModel  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError(_MISSING) from None
    if not (folder / ADAPTER_WEIGHTS_FILE).is_file():  # peft would take a pickle instead
        raise SetupError(f"no {ADAPTER_WEIGHTS_FILE}: {folder}. Export the adapter again.")
    base: Any = model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # keys without a place are only warned of
            tuned = PeftModel.from_pretrained(base, str(folder))
            _check_places(tuned, folder)
    except (UserWarning, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"the adapter does not fit the model it is put on ({reason:.200}): {folder}."
        ) from None
    merged: nn.Module = tuned.merge_and_unload()
    return merged


def _check_places(tuned: nn.Module, folder: Path) -> None:
    """Raise a `ValueError` for matrices of an adapter that have no place; peft passes them over."""
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as file:
        names = [name for name in file.keys() if is_adapter_parameter(name)]  # noqa: SIM118 - no dict
    places = {name.replace(".default.", ".") for name, _ in tuned.named_parameters()}
    if missing := sorted(set(names) - places):
        raise ValueError(f"no place for {missing[0].removeprefix(_PEFT_PREFIX)}")
