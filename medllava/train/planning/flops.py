"""How much arithmetic a step takes, and what GPUs offer; no torch here.

The plan uses these before anything is loaded, the monitor uses the same numbers for MFU while it
trains, so both speak of the same FLOPs. Model FLOPs: what the mathematics needs, without what
gradient checkpointing computes twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from medllava.model.shapes import ModelShape
from medllava.recipe import Adapter, StageConfig
from medllava.records import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What learns in a stage; the projector always does."""

    language_model: bool
    vision_encoder: bool = False
    adapter: Adapter = Adapter.NONE
    adapter_rank: int = 0

    @classmethod
    def of(cls, stage: Stage, config: StageConfig) -> "Learning":
        """Read it off a stage and its settings."""
        adapter = Adapter.NONE if stage is Stage.ALIGN else config.adapter
        return cls(
            language_model=stage is not Stage.ALIGN and adapter is Adapter.NONE,
            vision_encoder=config.train_vision_encoder,
            adapter=adapter,
            adapter_rank=config.lora_rank if adapter is not Adapter.NONE else 0,
        )

    def num_adapter_parameters(self, shape: ModelShape) -> int:
        """Count the low-rank matrices on every linear layer of the language model."""
        hidden, wide = shape.hidden_size, shape.intermediate_size
        per_layer = (
            2 * (hidden + shape.query_width)  # query and output
            + 2 * (hidden + shape.key_width)  # key and value
            + 3 * (hidden + wide)  # gate, up and down
        )
        return self.adapter_rank * per_layer * shape.num_layers

    def num_trainable(self, shape: ModelShape) -> int:
        """Count the parameters that get gradients."""
        return (
            shape.projector_parameters
            + (shape.language_parameters if self.language_model else 0)
            + (shape.encoder_parameters if self.vision_encoder else 0)
            + self.num_adapter_parameters(shape)
        )


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
