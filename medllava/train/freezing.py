"""The table of who learns, applied to a model: frozen parts rest and stay bitwise as they were.

Parameters are named by the part of the native model they belong to.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from medllava.errors import DataError
from medllava.model.adapter import is_adapter_parameter
from medllava.train.stages import Part


def part_of(name: str) -> Part:
    """Return the part that a parameter or module name of the native model belongs to."""
    if "vision_tower" in name:
        return Part.VISION_ENCODER
    return Part.PROJECTOR if "multi_modal_projector" in name else Part.LANGUAGE_MODEL


def freeze_parts(model: nn.Module, learning: frozenset[Part]) -> None:
    """Let only the parameters of `learning`, and of an adapter, take gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in learning or is_adapter_parameter(name))


def learned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of everything that learns, by name."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def restore_learned(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `learned_tensors` returned.

    Raises:
        DataError: other parameters learn now.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if own.keys() != tensors.keys():
        raise DataError(
            "the checkpoint holds other learned weights than this run learns. "
            "Start anew with --no-resume."
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def checkpoint_activations(model: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Compute a layer's activations again in the backward pass instead of keeping them."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def rest_frozen(model: nn.Module) -> None:
    """Put every module without a learning parameter into evaluation mode."""
    for module in _frozen_branches(model):
        module.eval()
        for part in module.modules():
            # Layers only checkpoint in training mode, and a frozen language model keeps its
            # activations too; dropout is in the layers' children, which stay at rest.
            part.training = isinstance(part, GradientCheckpointingLayer) and bool(
                part.gradient_checkpointing
            )


def _frozen_branches(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules that have parameters, none of which learns.

    A module without parameters (dropout, an activation) goes with the one it is in.
    """
    learns = [parameter.requires_grad for parameter in module.parameters()]
    if not any(learns):
        if learns:
            yield module
        return
    for child in module.children():
        yield from _frozen_branches(child)
