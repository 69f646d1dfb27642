"""The picture part of a LLaVA as a GGUF file: encoder up to the chosen layer, and projector.

llama.cpp's LLaVA graph knows encoders of SigLIP's and CLIP's shape with two linear layers behind
them. What it cannot run is refused by name.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from medllava.errors import SetupError
from medllava.hub.export.gguf_language import Precision, add_tensor
from medllava.model.loaded import LoadedModel

_TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Encoders that can be written. CLIP's is refused by the comparison as long as llama.cpp reads the
class token at the wrong end (its issue 25814)."""
_EXACT = "SigLIP and SigLIP 2"
"""Encoders whose answers are those of transformers."""
_ACTIVATIONS = {"gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def check_vision(config: Any) -> None:  # noqa: ANN401 - transformers' configuration
    """Stop before any work if llama.cpp cannot run this encoder or projector.

    Raises:
        SetupError: names the encoder and those that work.
    """
    vision = config.vision_config
    if vision.model_type not in _TOWERS:
        raise SetupError(
            f"no GGUF for a {vision.model_type!r} vision encoder: llama.cpp has no graph for it. "
            f"{_EXACT} work; serve this model with transformers."
        )
    problem = ""
    if not isinstance(config.vision_feature_layer, int):
        problem = "features of several layers"
    elif config.projector_hidden_act != "gelu":
        problem = f"a projector with {config.projector_hidden_act!r}"
    elif vision.hidden_act not in _ACTIVATIONS:
        problem = f"an encoder with {vision.hidden_act!r}"
    elif _has_class_token(vision) and config.vision_feature_select_strategy != "default":
        problem = "the class token among the features"
    if problem:
        raise SetupError(
            f"no GGUF for {problem}: llama.cpp's LLaVA graph has none. Serve this model with "
            "transformers, vLLM or SGLang."
        )


def write_vision(loaded: LoadedModel, path: Path, *, precision: Precision) -> None:
    """Write encoder and projector; four bits are kept to the language model.

    Raises:
        SetupError: as `check_vision`.
    """
    model: Any = loaded.model
    config = model.config
    check_vision(config)
    vision, layers = config.vision_config, _num_layers(config)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_file_type(precision.file_type)
    writer.add_clip_has_vision_encoder(True)  # noqa: FBT003 - gguf's own signature
    writer.add_bool("clip.has_llava_projector", True)  # noqa: FBT003 - gguf's own signature
    writer.add_clip_projector_type("mlp")
    writer.add_vision_use_gelu(vision.hidden_act != "quick_gelu")
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_image_mean(list(loaded.processor.image_processor.image_mean))
    writer.add_vision_image_std(list(loaded.processor.image_processor.image_std))
    # Names the layer outright; left out, readers disagree whether the last block counts.
    writer.add_array("clip.vision.feature_layer", [layers])
    kind = Kind.F16 if precision.matrices is not Kind.F32 else Kind.F32
    for name, tensor in _iter_tensors(model, layers):
        add_tensor(writer, name, tensor, Kind.F32 if "embd" in name else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _has_class_token(vision: Any) -> bool:  # noqa: ANN401 - transformers' configuration
    return bool(vision.model_type == "clip_vision_model")


def _num_layers(config: Any) -> int:  # noqa: ANN401 - transformers' configuration
    """Return how many encoder layers run before the features are taken."""
    layer, total = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return int(layer if layer >= 0 else total + 1 + layer)


def _iter_tensors(model: Any, layers: int) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401 - as above
    tower = model.model.vision_tower
    weights = {k.removeprefix("vision_model."): v for k, v in tower.state_dict().items()}
    yield "v.patch_embd.weight", weights["embeddings.patch_embedding.weight"]
    if "embeddings.patch_embedding.bias" in weights:
        yield "v.patch_embd.bias", weights["embeddings.patch_embedding.bias"]
    if "embeddings.class_embedding" in weights:
        yield "v.class_embd", weights["embeddings.class_embedding"]
    yield "v.position_embd.weight", weights["embeddings.position_embedding.weight"]
    for suffix in ("weight", "bias"):
        if f"pre_layrnorm.{suffix}" in weights:  # transformers' own spelling
            yield f"v.pre_ln.{suffix}", weights[f"pre_layrnorm.{suffix}"]
    for layer in range(layers):
        for theirs, ours in _LAYER.items():
            for suffix in ("weight", "bias"):
                key = f"encoder.layers.{layer}.{theirs}.{suffix}"
                yield f"v.blk.{layer}.{ours}.{suffix}", weights[key]
    projector = model.model.multi_modal_projector
    for number, linear in ((0, projector.linear_1), (2, projector.linear_2)):
        yield f"mm.{number}.weight", linear.weight
        if linear.bias is not None:
            yield f"mm.{number}.bias", linear.bias
