"""Which attention kernel a model runs on: what is asked for, else the fastest that is installed.

flash-attn 2, 3 and 4 and the kernels hub are transformers' own names; what counts as installed is
what transformers itself accepts, so a stub or another version's package is never chosen. The two
kernels of our own (`packed_attention`) serve packs where there is none.
"""

import importlib.util

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils import import_utils

from medllava.errors import SetupError
from medllava.model.packed_attention import (
    SEGMENTED,
    VARLEN,
    packed_mask,
    segmented_attention,
    varlen_attention,
)
from medllava.recipe import Attention

_NEWEST_FIRST = (Attention.FLASH_4, Attention.FLASH_3, Attention.FLASH_2)


def choose_attention(requested: Attention, *, device: str) -> str:
    """Return the name to pass to transformers as `attn_implementation`.

    Args:
        requested: `auto` takes flash-attn, else torch's varlen kernel (both on CUDA only), else
            one causal sdpa per segment.
        device: where the model will run, such as `cpu` or `cuda:0`.

    Raises:
        SetupError: the requested kernel is not installed or cannot run on `device`.
    """
    _register()
    on_cuda = device.startswith("cuda")
    installed = [name for name in _NEWEST_FIRST if on_cuda and has_flash(name)]
    has_varlen = on_cuda and has_varlen_kernel()
    if requested is Attention.AUTO:
        if installed:
            return installed[0].value
        return VARLEN if has_varlen else SEGMENTED
    if requested is Attention.FLASH_HUB and not (on_cuda and import_utils.is_kernels_available()):
        raise SetupError(
            "the kernels hub needs CUDA and the kernels package: train.attention. "
            "Install kernels, or set train.attention=auto."
        )
    if requested is Attention.FLASH or requested in _NEWEST_FIRST:
        fitting = installed if requested is Attention.FLASH else {requested} & set(installed)
        if not fitting:
            raise SetupError(
                f"{requested.value!r} needs CUDA and its flash-attn package: train.attention. "
                "Install medllava[flash], or set train.attention=auto."
            )
        return next(iter(fitting)).value
    if requested is Attention.VARLEN and not has_varlen:
        raise SetupError(
            "torch's varlen attention needs CUDA and torch >= 2.10: train.attention. "
            "Set train.attention=auto."
        )
    names = {Attention.VARLEN: VARLEN, Attention.SEGMENTED: SEGMENTED}
    return names.get(requested, requested.value)


def has_flash(name: Attention) -> bool:
    """Tell whether transformers accepts this version of flash-attn as installed."""
    checks = {
        Attention.FLASH_2: import_utils.is_flash_attn_2_available,
        Attention.FLASH_3: import_utils.is_flash_attn_3_available,
        Attention.FLASH_4: import_utils.is_flash_attn_4_available,
    }
    return bool(checks[name]())


def has_varlen_kernel() -> bool:
    """Tell whether this torch has `torch.nn.attention.varlen`."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def supports_branches(attention: str, sliding_window: int | None, *, longest: int) -> bool:
    """Tell whether records that share an image's tokens are kept apart by this kernel.

    Args:
        attention: name of the kernel.
        sliding_window: of the language model.
        longest: tokens of the longest record; a window it fits into hides nothing.
    """
    fits = not sliding_window or longest <= sliding_window
    return attention in {SEGMENTED, VARLEN} and fits


def _register() -> None:
    AttentionInterface.register(SEGMENTED, segmented_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(SEGMENTED, packed_mask)
    AttentionMaskInterface.register(VARLEN, packed_mask)
