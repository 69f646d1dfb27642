"""Attention for packed sequences: which kernel, and two of our own for where flash-attn is absent.

A pack is one row of tokens whose `position_ids` restart at every record. flash-attn finds the
segments by itself; here are the same thing through torch's varlen kernel on CUDA, and through one
causal sdpa call per segment anywhere. Neither builds the T x T mask of transformers' sdpa path.
Inside a segment, positions that go back to a number above zero begin a branch: it sees the segment
up to there and itself, as records do that share an image (`data.prefix_sharing`). Everything that
is not a pack (padding, decoding with a cache, vision encoders) goes to that path.
"""

import importlib
import importlib.util
import inspect
import itertools
import weakref
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from medllava.errors import SetupError
from medllava.recipe import Attention

SEGMENTED = "medllava_segmented"
VARLEN = "medllava_varlen"

_HALF = (torch.float16, torch.bfloat16)
# Every layer of a forward pass asks the same; looking at positions on a GPU would wait for it.
_last_bounds: tuple[weakref.ref[Tensor], list[list[int]]] | None = None
_last_masks: tuple[weakref.ref[Tensor], list[list[Tensor | None]]] | None = None
_last_cumulative: tuple[list[list[int]], Tensor, int] | None = None


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
    has_flash = on_cuda and importlib.util.find_spec("flash_attn") is not None
    has_varlen = on_cuda and has_varlen_kernel()
    if requested is Attention.AUTO:
        if has_flash:
            return "flash_attention_2"
        return VARLEN if has_varlen else SEGMENTED
    if requested is Attention.FLASH and not has_flash:
        raise SetupError(
            "flash-attn needs CUDA and its package: train.attention. "
            "Install medllava[flash], or set train.attention=auto."
        )
    if requested is Attention.VARLEN and not has_varlen:
        raise SetupError(
            "torch's varlen attention needs CUDA and torch >= 2.10: train.attention. "
            "Set train.attention=auto."
        )
    names = {
        Attention.FLASH: "flash_attention_2",
        Attention.VARLEN: VARLEN,
        Attention.SEGMENTED: SEGMENTED,
    }
    return names.get(requested, requested.value)


def has_varlen_kernel() -> bool:
    """Tell whether this torch has `torch.nn.attention.varlen`."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def segment_bounds(position_ids: Tensor) -> list[list[int]]:
    """Return where the segments of each row start, with the row's length at the end.

    Args:
        position_ids: (B, T); a segment starts where the position is not one higher than the last
            and is zero (a branch of the segment where it is more).
    """
    global _last_bounds
    if _last_bounds is not None and _last_bounds[0]() is position_ids:
        return _last_bounds[1]
    starts = (position_ids.diff(dim=-1) != 1) & (position_ids[..., 1:] == 0)
    length = position_ids.shape[-1]
    bounds = [
        [0, *(row.nonzero().flatten() + 1).tolist(), length] for row in starts.cpu().unbind(0)
    ]
    _last_bounds = (weakref.ref(position_ids), bounds)
    return bounds


def branch_masks(position_ids: Tensor) -> list[list[Tensor | None]]:
    """Return for every segment of each row what its tokens see, None where that is all before.

    Args:
        position_ids: (B, T).

    Returns:
        Boolean masks (T', T') of segments with branches, True where the column is seen.
    """
    global _last_masks
    if _last_masks is not None and _last_masks[0]() is position_ids:
        return _last_masks[1]
    rows = position_ids.cpu().unbind(0)
    masks = [
        [_branch_mask(row[start:end]) for start, end in itertools.pairwise(bounds)]
        for row, bounds in zip(rows, segment_bounds(position_ids), strict=True)
    ]
    masks = [[m if m is None else m.to(position_ids.device) for m in row] for row in masks]
    _last_masks = (weakref.ref(position_ids), masks)
    return masks


def _branch_mask(positions: Tensor) -> Tensor | None:
    """Return what the tokens of one segment see; (T',) positions from zero on."""
    starts = (positions.diff() != 1).nonzero().flatten() + 1
    if not len(starts):
        return None
    mask = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()
    for start in starts.tolist():
        mask[start:, positions[start] : start] = False
    return mask


def segmented_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 - transformers hands every kernel the same open set
) -> tuple[Tensor, None]:
    """Attend causally inside each segment, one sdpa call per segment; branches take a small mask.

    Args:
        module: the attention layer that asks.
        query: (B, heads, T, head width).
        key: (B, key-value heads, T, head width).
        value: as `key`.
        attention_mask: not None means that this is no pack.
        kwargs: `position_ids` (B, T) when this may be a pack, `scaling`, `dropout`.

    Returns:
        (B, T, heads, head width), and None for the weights.
    """
    bounds = _pack_bounds(module, query, key, attention_mask, kwargs)
    if bounds is None:
        return _sdpa(module, query, key, value, attention_mask, kwargs)
    masks = branch_masks(kwargs["position_ids"])
    masks = masks if len(masks) == len(bounds) else masks * len(bounds)
    rows = []
    for row, row_bounds in enumerate(bounds):
        pieces = []
        for (start, end), mask in zip(itertools.pairwise(row_bounds), masks[row], strict=True):
            q, k, v = (t[row : row + 1, :, start:end] for t in (query, key, value))
            pieces.append(
                _sdpa(module, q, k, v, None if mask is None else mask[None, None], kwargs)[0]
            )
        rows.append(torch.cat(pieces, dim=1))
    return torch.cat(rows, dim=0), None


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 - transformers hands every kernel the same open set
) -> tuple[Tensor, None]:
    """Attend causally inside each segment with torch's varlen kernel; shapes as above.

    Segments with branches go segment by segment: for keys that are not the queries' own tokens, the
    kernel's causal alignment is not documented.
    """
    bounds = _pack_bounds(module, query, key, attention_mask, kwargs)
    fits_kernel = query.dtype in _HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    has_branches = bounds is not None and any(
        mask is not None for row in branch_masks(kwargs["position_ids"]) for mask in row
    )
    if bounds is None or has_branches or not fits_kernel or kwargs.get("dropout", 0.0):
        return segmented_attention(module, query, key, value, attention_mask, **kwargs)
    kernel: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    cumulative, longest = _cumulative_lengths(bounds, query.device)
    flat = [
        t.transpose(1, 2).reshape(batch * length, heads, width)
        for t in (query, repeat_kv(key, groups), repeat_kv(value, groups))
    ]
    causal = (
        {"window_size": (-1, 0)}
        if "window_size" in inspect.signature(kernel).parameters
        else {"is_causal": True}
    )
    out: Tensor = kernel(
        *flat, cumulative, cumulative, longest, longest, scale=kwargs.get("scaling"), **causal
    )
    return out.view(batch, length, heads, width), None


def supports_branches(attention: str, sliding_window: int | None) -> bool:
    """Tell whether records that share an image's tokens are kept apart by this kernel."""
    return attention in {SEGMENTED, VARLEN} and not sliding_window


def packed_mask(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,  # noqa: ANN401 - transformers hands every mask function the same open set
) -> Tensor | None:
    """Build no mask where the segments say it all, and sdpa's mask everywhere else."""
    fits_window = local_size is None or kv_length <= local_size
    if attention_mask is None and q_length == kv_length and fits_window and not use_vmap:
        return None
    mask: Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        **kwargs,
    )
    return mask


def _pack_bounds(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> list[list[int]] | None:
    """Return the segments, or None where this call is not a pack of causal sequences."""
    position_ids = kwargs.get("position_ids")
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if (
        position_ids is None
        or attention_mask is not None
        or not is_causal
        or query.shape[2] != key.shape[2]
    ):
        return None
    bounds = segment_bounds(position_ids)
    return bounds if len(bounds) == query.shape[0] else bounds * query.shape[0]


def _cumulative_lengths(bounds: list[list[int]], device: torch.device) -> tuple[Tensor, int]:
    """Return where every segment of all rows ends, and the longest; the last answer is kept."""
    global _last_cumulative
    if _last_cumulative is not None and _last_cumulative[0] is bounds:
        return _last_cumulative[1], _last_cumulative[2]
    offsets = [0]
    for row in bounds:
        base = offsets[-1]
        offsets += [base + bound for bound in row[1:]]
    longest = max(b - a for a, b in itertools.pairwise(offsets))
    cumulative = torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True)
    _last_cumulative = (bounds, cumulative, longest)
    return cumulative, longest


def _sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out, None


def _register() -> None:
    AttentionInterface.register(SEGMENTED, segmented_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(SEGMENTED, packed_mask)
    AttentionMaskInterface.register(VARLEN, packed_mask)
