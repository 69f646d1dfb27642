"""How much arithmetic and memory a step takes, and what GPUs offer; no torch here.

The plan uses these before anything is loaded, the monitor uses the same numbers for MFU while it
trains, so both speak of the same FLOPs. Model FLOPs: what the mathematics needs, without what
gradient checkpointing computes twice. Memory follows from counts, from `Settings`, and from what
each layer keeps for its backward pass, tensor by tensor, with a flash-like attention kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from medllava.model.shapes import ModelShape
from medllava.recipe import Adapter
from medllava.train.settings import Settings
from medllava.train.stages import Learning


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What goes through the model: of one step, one epoch or a whole run."""

    num_tokens: int
    """Real tokens, image tokens included, padding excluded."""
    num_supervised: int
    """Tokens whose logits are computed, because they have labels."""
    num_images: int
    sum_squared_lengths: float
    """Sum over sequences of their length squared, for attention."""


def compute_flops(shape: ModelShape, learning: Learning, work: Workload) -> float:
    """Count the model FLOPs of a forward and backward pass.

    A weight matrix costs 2 FLOPs per parameter and token forward, 2 backward for the gradient of
    its input, and 2 more for its own gradient if it learns: 4 for a frozen language model under a
    projector that learns, 6 for one that learns itself. A frozen encoder costs its forward pass.
    """
    weights = 6 if learning.language_model else 4
    layers = weights * shape.layer_parameters * work.num_tokens
    adapters = 6 * learning.num_adapter_parameters(shape) * work.num_tokens
    # Two products of L x L/2 (causal) forward, twice that backward.
    attention = 6.0 * shape.query_width * shape.num_layers * work.sum_squared_lengths
    head = weights * shape.hidden_size * shape.vocab_size * work.num_supervised
    projector = 6 * shape.projector_parameters * work.num_images * shape.num_image_tokens
    passes = 3 if learning.vision_encoder else 1
    per_image = (
        2 * shape.encoder_parameters * shape.encoder_tokens
        + 4 * shape.encoder_width * shape.encoder_layers * shape.encoder_tokens**2
    )
    encoder = passes * per_image * work.num_images
    return float(layers + adapters + attention + head + projector + encoder)


def forward_flops(shape: ModelShape, work: Workload) -> float:
    """Count the FLOPs of a forward pass alone: of a reference, or to give an answer.

    An answer that is given token by token costs the same arithmetic; it takes longer, because each
    token waits for the one before it.
    """
    nothing = Learning(parts=frozenset())
    images = Workload(num_tokens=0, num_supervised=0, num_images=1, sum_squared_lengths=0.0)
    encoder = compute_flops(shape, nothing, images)
    projector = 6 * shape.projector_parameters * shape.num_image_tokens
    both = compute_flops(shape, nothing, work) - work.num_images * encoder
    attention = 6.0 * shape.query_width * shape.num_layers * work.sum_squared_lengths
    matrices = (both - attention) / 2
    return matrices + attention / 3 + work.num_images * (encoder - projector * 2 / 3)


def compute_memory(
    shape: ModelShape,
    learning: Learning,
    settings: Settings,
    work: "PassCounts",
) -> dict[str, int]:
    """Estimate the peak of bytes per device, by cause; they add up.

    Gradients appear in the backward pass while activations go. With one pass per step only what
    they take beyond the activations counts; with several they are there all the time.

    Args:
        shape: of the model.
        learning: who gets gradients.
        settings: precision, optimizer, sharding, checkpointing.
        work: what goes through in one forward pass on one device.
    """
    width, world = settings.bytes_per_weight, settings.world_size
    trainable = learning.num_trainable(shape)
    weights = shape.num_parameters * width
    if learning.adapter is Adapter.QLORA:
        weights -= shape.layer_parameters * width - shape.layer_parameters // 2
    weights += learning.num_adapter_parameters(shape) * width
    share = [1, 1 / world]
    gradients = int(trainable * width * share[settings.zero_stage >= 2])
    activations = work.tokens * _activation_bytes(shape, learning, settings)
    logits = work.supervised * shape.vocab_size * (width + 2 * 4)
    if work.passes_per_step == 1 and not settings.is_sharded:
        gradients = max(0, gradients - activations - logits)
    optimizer = int(trainable * settings.optimizer_bytes * share[settings.zero_stage >= 1])
    return {
        "weights": int(weights * share[settings.zero_stage >= 3]),
        "gradients": gradients,
        "optimizer": 0 if settings.offload else optimizer,
        "activations": activations,
        "logits": logits,
        "images": work.images * _encoder_bytes(shape, learning, width),
        "buffers": _buffer_bytes(shape, settings),
    }


def host_memory(shape: ModelShape, learning: Learning, settings: Settings) -> int:
    """Return the bytes of host memory per device that offloading the optimizer takes.

    Masters, both moments, and the gradients that arrive there, all fp32, of this rank's share.
    """
    if not settings.offload:
        return 0
    return learning.num_trainable(shape) * 16 // settings.world_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCounts:
    """What goes through the model in one forward pass on one device."""

    tokens: int
    """Positions, padding included."""
    supervised: int
    """Positions whose logits are computed; all of them without packing."""
    images: int
    passes_per_step: int = 1
    """Forward passes before the optimizer steps."""


def _activation_bytes(shape: ModelShape, learning: Learning, settings: Settings) -> int:
    """Bytes that one token keeps in the language model from forward to backward."""
    width = settings.bytes_per_weight
    hidden, query, wide = shape.hidden_size, shape.query_width, shape.intermediate_size
    learns = learning.language_model or learning.adapter is not Adapter.NONE
    # Norms keep fp32 inputs; attention q, k, v and output at full width; the gate three operands.
    norms, gate = 2 * 4 * hidden, 3 * wide
    if settings.liger:  # its norms keep their inputs as they are, its gate computes one again
        norms, gate = 2 * width * hidden, 2 * wide
    layer = norms + width * (4 * query + gate)
    if learns:  # inputs of the weights that learn
        layer += width * ((2 if settings.liger else 4) * hidden + wide)
    if settings.gradient_checkpointing:
        return shape.num_layers * width * hidden + layer
    return shape.num_layers * layer


def _encoder_bytes(shape: ModelShape, learning: Learning, width: int) -> int:
    """Bytes that one image keeps: all layers if the encoder learns, one otherwise."""
    layers = shape.encoder_layers if learning.vision_encoder else 1
    return shape.encoder_tokens * shape.encoder_width * width * 16 * layers


def _buffer_bytes(shape: ModelShape, settings: Settings) -> int:
    """The buckets that gradients and gathered weights travel in."""
    if not settings.is_sharded:
        return 0
    buckets = settings.bytes_per_weight * min(shape.num_parameters, 500_000_000)
    return buckets * (2 if settings.zero_stage >= 3 else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a data sheet says about a GPU."""

    name: str
    memory_bytes: int
    peak_flops: float
    """Dense bf16 FLOPs per second, without sparsity."""


GIB = 1024**3
GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100-40G", memory_bytes=40 * GIB, peak_flops=312e12),
        Gpu(name="A100-80G", memory_bytes=80 * GIB, peak_flops=312e12),
        Gpu(name="H100", memory_bytes=80 * GIB, peak_flops=989e12),
        Gpu(name="H200", memory_bytes=141 * GIB, peak_flops=989e12),
    )
}


def find_gpu(device_name: str, *, memory_bytes: int) -> Gpu | None:
    """Recognise a device by what the driver calls it, such as "NVIDIA H100 80GB HBM3"."""
    for family in ("H200", "H100", "A100"):
        if family in device_name:
            fitting = [g for g in GPUS.values() if g.name.startswith(family)]
            return min(fitting, key=lambda g: abs(g.memory_bytes - memory_bytes))
    return None
