"""The vision half of an open_clip checkpoint with a timm ViT trunk, such as BiomedCLIP's ViT-B/16.

Its tensors are renamed to those of transformers' ViT, the fused query-key-value matrix is split,
and the text half is left out. The normalization is what `open_clip_config.json` states.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import json
import re
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTModel

from medllava.errors import SetupError
from medllava.model.sources import check_keys, reading_weights
from medllava.model.tensors import find_file, read_tensors

CONFIG_FILE = "open_clip_config.json"
_TRUNK = "visual.trunk."
_LEFT_OUT = ("visual.head.", "text.", "logit_")
_RENAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HEAD_WIDTH = 64


def load_open_clip_encoder(source: str, *, dtype: torch.dtype) -> PreTrainedModel:
    """Load the ViT of an open_clip checkpoint.

    Args:
        source: folder or hub id with `open_clip_config.json`.
        dtype: of all weights.

    Raises:
        SetupError: the trunk is no plain ViT, or weights are missing, left over or misshapen.
    """
    tensors = read_tensors(source)
    if _TRUNK + "blocks.0.attn.qkv.weight" not in tensors:
        raise SetupError(
            f"the image half of this open_clip checkpoint is no timm ViT: {source}. "
            "Choose an encoder that transformers has."
        )
    state = rename_trunk(tensors)
    # The pooler is never asked by a LLaVA and not in the checkpoint; zeros make it reproducible.
    hidden = state["embeddings.cls_token"].shape[-1]
    state["pooler.dense.weight"] = torch.zeros(hidden, hidden)
    state["pooler.dense.bias"] = torch.zeros(hidden)
    with reading_weights(source, key="model.vision_encoder.source"):
        loaded: Any = ViTModel.from_pretrained(
            None, config=_vit_config(state), state_dict=state, dtype=dtype, output_loading_info=True
        )
    model, info = loaded
    check_keys(info, source=source)
    encoder: PreTrainedModel = model
    return encoder


def open_clip_statistics(
    source: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Return the mean and deviation an open_clip checkpoint states, or None if it is none."""
    path = find_file(source, CONFIG_FILE)
    if path is None:
        return None
    values = json.loads(path.read_text(encoding="utf-8")).get("preprocess_cfg", {})
    if "mean" not in values or "std" not in values:
        return None
    return tuple(values["mean"]), tuple(values["std"])


def rename_trunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the trunk's tensors the names that transformers' ViT has on disk."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(_LEFT_OUT):
            continue
        block = re.fullmatch(_TRUNK + r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)", name)
        plain = re.fullmatch(_TRUNK + r"(.+?)(\.weight|\.bias|)", name)
        if block and block[2] == "attn.qkv":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                key = f"encoder.layer.{block[1]}.attention.attention.{part}{block[3]}"
                renamed[key] = piece.contiguous()
        elif block and block[2] in _RENAMES:
            renamed[f"encoder.layer.{block[1]}.{_RENAMES[block[2]]}{block[3]}"] = tensor
        elif plain and plain[1] in _RENAMES:
            renamed[_RENAMES[plain[1]] + plain[2]] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _vit_config(state: dict[str, Tensor]) -> ViTConfig:
    """Read the sizes off the weights; timm's norms add 1e-6, its GELU is the exact one."""
    hidden, _, _, patch_size = state["embeddings.patch_embeddings.projection.weight"].shape
    positions = state["embeddings.position_embeddings"].shape[1] - 1
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layer.")}
    return ViTConfig(
        hidden_size=hidden,
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.bias"]),
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden // _HEAD_WIDTH),
        image_size=round(positions**0.5) * patch_size,
        patch_size=patch_size,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
