"""How many bytes a step holds on each device, by cause; an estimate, without torch.

Weights, gradients and optimizer state follow from counts and from ZeRO's sharding. Activations are
counted tensor by tensor for a layer with gated feed-forward and a flash-like attention kernel.
"""

from dataclasses import dataclass

from medllava.model.shapes import ModelShape
from medllava.recipe import Adapter
from medllava.train.planning.flops import GIB, Learning


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is spread over memory; chosen by the plan where the recipe leaves it open."""

    zero_stage: int
    gradient_checkpointing: bool
    offload: bool
    world_size: int
    bytes_per_weight: int
    """2 for bf16, 4 for fp32."""


def compute_memory(
    shape: ModelShape,
    learning: Learning,
    settings: Settings,
    *,
    tokens_per_pass: int,
    supervised_per_pass: int,
    images_per_pass: int,
) -> dict[str, int]:
    """Estimate bytes per device, by cause.

    Args:
        shape: of the model.
        learning: who gets gradients.
        settings: sharding, checkpointing, precision.
        tokens_per_pass: positions of one forward pass on one device, padding included.
        supervised_per_pass: positions whose logits are computed; all of them without packing.
        images_per_pass: images of one forward pass.
    """
    width, world = settings.bytes_per_weight, settings.world_size
    trainable = learning.num_trainable(shape)
    weights = shape.num_parameters * width
    if learning.adapter is Adapter.QLORA:
        weights -= shape.layer_parameters * width - shape.layer_parameters // 2
    weights += learning.num_adapter_parameters(shape) * width
    # Adam keeps two fp32 moments, and an fp32 copy where the weights are bf16.
    optimizer = trainable * (12 if width == 2 else 8)
    share = [1, 1 / world]
    return {
        "weights": int(weights * share[settings.zero_stage >= 3]),
        "gradients": int(trainable * width * share[settings.zero_stage >= 2]),
        "optimizer": 0 if settings.offload else int(optimizer * share[settings.zero_stage >= 1]),
        "activations": tokens_per_pass * _activation_bytes(shape, learning, settings),
        "logits": supervised_per_pass * shape.vocab_size * (width + 8),
        "images": images_per_pass * _encoder_bytes(shape, learning, width),
        "buffers": _buffer_bytes(shape, settings),
    }


def _activation_bytes(shape: ModelShape, learning: Learning, settings: Settings) -> int:
    """Bytes that one token keeps in the language model from forward to backward."""
    width = settings.bytes_per_weight
    hidden, query, wide = shape.hidden_size, shape.query_width, shape.intermediate_size
    # Norms keep fp32 inputs; attention q, k, v and output at full width; the gate three operands.
    layer = 2 * 4 * hidden + width * (4 * query + 3 * wide)
    if learning.language_model or learning.adapter is not Adapter.NONE:
        layer += width * (4 * hidden + query + wide)  # inputs of the weights that learn
    if settings.gradient_checkpointing:
        return shape.num_layers * width * hidden + layer
    return shape.num_layers * layer


def _encoder_bytes(shape: ModelShape, learning: Learning, width: int) -> int:
    """Bytes that one image keeps: all layers if the encoder learns, one otherwise."""
    layers = shape.encoder_layers if learning.vision_encoder else 1
    return shape.encoder_tokens * shape.encoder_width * width * 16 * layers


def _buffer_bytes(shape: ModelShape, settings: Settings) -> int:
    """CUDA's own, and the buckets that gradients and gathered weights travel in."""
    buckets = settings.bytes_per_weight * min(shape.num_parameters, 500_000_000)
    gathered = buckets * (2 if settings.zero_stage >= 3 else 1)
    return 3 * GIB // 2 + (gathered if settings.world_size > 1 or settings.offload else 0)
