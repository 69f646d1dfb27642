"""Attention inside the records of a pack, without the T x T mask of transformers' sdpa path.

A pack is one row of tokens in which records stand behind one another. Where they begin is told by
whoever packed them, as transformers' flash attention is told it (`cu_seq_lens_q`, `max_length_q`);
without that it is read off `position_ids` that restart at every record. Two kernels: torch's varlen
kernel on CUDA, and one causal sdpa call per segment anywhere. Inside a segment, positions that go
back to a number above zero begin a branch: it sees the segment up to there and itself, as records
do that share an image (`data.prefix_sharing`); their masks come with the pack, too. A sliding
window is applied inside each segment, and costs nothing where no record is longer than it.
Everything that is not a pack (padding, decoding with a cache, vision encoders) goes to sdpa.
"""

import importlib
import inspect
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SEGMENTED = "medllava_segmented"
VARLEN = "medllava_varlen"
SEGMENT_MASKS = "segment_masks"
"""Key of a pack with branches: for every segment its mask, or None where all before is seen."""

_HALF = (torch.float16, torch.bfloat16)


class _Segments(NamedTuple):
    """The segments of all rows, laid behind one another."""

    bounds: Tensor | list[int]
    """Where each starts, and the end."""
    longest: int
    masks: list[Tensor | None] | None
    """What the tokens of each segment see; None where none of them has branches."""


def segment_bounds(position_ids: Tensor) -> list[list[int]]:
    """Return where the segments of each row start, with the row's length at the end.

    Args:
        position_ids: (B, T); a segment starts where the position is not one higher than the last
            and is zero (a branch of the segment where it is more).
    """
    starts = (position_ids.diff(dim=-1) != 1) & (position_ids[..., 1:] == 0)
    length = position_ids.shape[-1]
    return [[0, *(row.nonzero().flatten() + 1).tolist(), length] for row in starts.cpu().unbind(0)]


def branch_masks(positions: Tensor, bounds: list[int]) -> list[Tensor | None] | None:
    """Return for every segment of a row what its tokens see, None where that is all before.

    Args:
        positions: (T,), on the CPU.
        bounds: of its segments.

    Returns:
        Boolean masks (T', T') of segments with branches, True where the column is seen; None where
        no segment has any.
    """
    masks = [_branch_mask(positions[start:end]) for start, end in itertools.pairwise(bounds)]
    return masks if any(mask is not None for mask in masks) else None


def _branch_mask(positions: Tensor) -> Tensor | None:
    """Return what the tokens of one segment see; (T',) positions from zero on."""
    starts = (positions.diff() != 1).nonzero().flatten() + 1
    if not len(starts):
        return None
    mask = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()
    for start in starts.tolist():
        mask[start:, positions[start] : start] = False
    return mask


def with_segment_masks(batch: dict[str, Any]) -> dict[str, Any]:
    """Say once for all layers what the branches of a pack see; others stay as they are.

    Args:
        batch: a micro-batch on the CPU; a pack with branches has `position_ids` (1, T) alone.
    """
    positions = batch.get("position_ids")
    if positions is None or "cu_seq_lens_q" in batch:
        return batch
    (bounds,) = segment_bounds(positions)
    cumulative = torch.tensor(bounds, dtype=torch.int32)
    longest = max(end - start for start, end in itertools.pairwise(bounds))
    return {
        **batch,
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
        SEGMENT_MASKS: branch_masks(positions[0], bounds),
    }


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
        kwargs: `cu_seq_lens_q` or `position_ids` (B, T) when this may be a pack, `scaling`,
            `dropout`, `sliding_window`.

    Returns:
        (B, T, heads, head width), and None for the weights.
    """
    segments = _find_segments(module, query, key, attention_mask, kwargs)
    if segments is None:
        return _sdpa(module, query, key, value, attention_mask, kwargs)
    batch, heads, length, width = query.shape
    flat = [_one_row(tensor) for tensor in (query, key, value)]
    bounds = segments.bounds if isinstance(segments.bounds, list) else segments.bounds.tolist()
    masks = segments.masks or [None] * (len(bounds) - 1)
    pieces = []
    for (start, end), mask in zip(itertools.pairwise(bounds), masks, strict=True):
        if start == end:  # fills up to a fixed number of segments
            continue
        q, k, v = (tensor[:, :, start:end] for tensor in flat)
        shown = _windowed(mask, end - start, kwargs.get("sliding_window"), query.device)
        pieces.append(_sdpa(module, q, k, v, shown, kwargs)[0])
    return torch.cat(pieces, dim=1).reshape(batch, length, heads, width), None


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
    segments = _find_segments(module, query, key, attention_mask, kwargs)
    fits_kernel = query.dtype in _HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    has_branches = segments is not None and segments.masks is not None
    if segments is None or has_branches or not fits_kernel or kwargs.get("dropout", 0.0):
        return segmented_attention(module, query, key, value, attention_mask, **kwargs)
    kernel: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    batch, heads, length, width = query.shape
    cumulative = torch.as_tensor(segments.bounds, dtype=torch.int32, device=query.device)
    flat = [_one_row(tensor)[0].transpose(0, 1) for tensor in (query, key, value)]
    options: dict[str, Any] = {}
    parameters = inspect.signature(kernel).parameters
    if key.shape[1] != heads:
        if "enable_gqa" in parameters:
            options["enable_gqa"] = True
        else:
            groups = heads // key.shape[1]
            flat[1:] = [tensor.repeat_interleave(groups, dim=1) for tensor in flat[1:]]
    window = kwargs.get("sliding_window")
    left = window - 1 if window and segments.longest > window else -1
    options |= {"window_size": (left, 0)} if "window_size" in parameters else {"is_causal": True}
    out: Tensor = kernel(
        *flat,
        cumulative,
        cumulative,
        segments.longest,
        segments.longest,
        scale=kwargs.get("scaling"),
        **options,
    )
    return out.view(batch, length, heads, width), None


def packed_mask(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    config: Any = None,  # noqa: ANN401 - any model's configuration
    **kwargs: Any,  # noqa: ANN401 - transformers hands every mask function the same open set
) -> Tensor | None:
    """Build no mask where the segments say it all, and sdpa's mask everywhere else.

    A sliding window is applied by the kernel inside each segment; other local attention is not.
    """
    is_window = local_size is not None and local_size == getattr(config, "sliding_window", None)
    fits = local_size is None or is_window or kv_length <= local_size
    if attention_mask is None and q_length == kv_length and fits and not use_vmap:
        return None
    mask: Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        config=config,
        **kwargs,
    )
    return mask


def _find_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> _Segments | None:
    """Return the segments, or None where this call is not a pack of causal sequences."""
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if attention_mask is not None or not is_causal or query.shape[2] != key.shape[2]:
        return None
    cumulative, longest = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q")
    if cumulative is not None and longest is not None:
        return _Segments(cumulative, int(longest), kwargs.get(SEGMENT_MASKS))
    position_ids = kwargs.get("position_ids")
    if position_ids is None:
        return _read_segments(torch.arange(query.shape[2])[None], query)
    return _read_segments(position_ids, query)


def _read_segments(position_ids: Tensor, query: Tensor) -> _Segments:
    """Read the segments of every row off positions; rows stand behind one another."""
    rows = position_ids.cpu().expand(query.shape[0], -1)
    bounds, masks = [0], []
    for row, own in zip(rows, segment_bounds(rows), strict=True):
        masks += branch_masks(row, own) or [None] * (len(own) - 1)
        bounds += [bounds[-1] + bound for bound in own[1:]]
    longest = max(end - start for start, end in itertools.pairwise(bounds))
    has_branches = any(mask is not None for mask in masks)
    return _Segments(bounds, longest, masks if has_branches else None)


def _one_row(tensor: Tensor) -> Tensor:
    """Lay the rows of (B, heads, T, width) behind one another: (1, heads, B * T, width)."""
    if tensor.shape[0] == 1:
        return tensor
    batch, heads, length, width = tensor.shape
    return tensor.transpose(0, 1).reshape(1, heads, batch * length, width)


def _windowed(
    mask: Tensor | None, length: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Return a segment's mask (1, 1, T', T') with the sliding window, None where all is seen."""
    if mask is not None:
        mask = mask.to(device)
    if window and length > window:
        band = torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)
        mask = band if mask is None else mask & band
    return None if mask is None else mask[None, None]


def _sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    dtype = query.dtype
    if dtype in _HALF and query.device.type == "cpu":  # its backward pass is slow in bf16
        query, key, value = query.float(), key.float(), value.float()
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out.to(dtype), None
