"""What this machine is: its GPU, and whether it is fast at bf16."""

import torch

from medllava.recipe import Precision, Recipe
from medllava.train.planning.costs import Gpu, find_gpu


def this_gpu() -> Gpu | None:
    """Return what is known of this machine's GPU; None without one, or for one we do not know."""
    if not torch.cuda.is_available():
        return None
    memory = torch.cuda.get_device_properties(0).total_memory
    return find_gpu(torch.cuda.get_device_name(), memory_bytes=memory)


def uses_bf16(recipe: Recipe) -> bool:
    """Tell whether the run computes in bf16: asked for, or `auto` where that is faster.

    That is a GPU that has it, or a CPU with AMX; other CPUs emulate bf16, far slower than fp32.
    """
    if recipe.train.precision is Precision.AUTO:
        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
        return bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - it has no public name
    return recipe.train.precision is Precision.BF16
