"""One table: which part learns in which stage, and how fast. Needs no torch.

The trainer freezes by it, the FLOP count and the memory estimate count by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from medllava.errors import RecipeError
from medllava.model.shapes import ModelShape
from medllava.recipe import Adapter, StageConfig, StagesConfig
from medllava.records import Stage

Part = StrEnum("Part", ["VISION_ENCODER", "PROJECTOR", "LANGUAGE_MODEL"])

LEARNS: Mapping[Stage, frozenset[Part]] = {
    Stage.ALIGN: frozenset({Part.PROJECTOR}),
    Stage.INSTRUCT: frozenset({Part.PROJECTOR, Part.LANGUAGE_MODEL}),
    Stage.FINETUNE: frozenset({Part.PROJECTOR, Part.LANGUAGE_MODEL}),
    Stage.PREFER: frozenset({Part.PROJECTOR, Part.LANGUAGE_MODEL}),
    Stage.REINFORCE: frozenset({Part.PROJECTOR, Part.LANGUAGE_MODEL}),
}
"""Who learns; a recipe may add the vision encoder."""
BY_TRL = frozenset({Stage.PREFER, Stage.REINFORCE})
"""Stages that TRL's trainers run (the `rl` extra), on records of their own kinds."""


def uses_adapter(stage: Stage, config: StageConfig) -> bool:
    """Tell whether an adapter learns in the language model's place."""
    return config.adapter is not Adapter.NONE and Part.LANGUAGE_MODEL in LEARNS[stage]


def learning_parts(stage: Stage, config: StageConfig) -> frozenset[Part]:
    """Return the parts that learn in a stage."""
    extra = {Part.VISION_ENCODER} if config.train_vision_encoder else set()
    resting = {Part.LANGUAGE_MODEL} if uses_adapter(stage, config) else set()
    return (LEARNS[stage] | extra) - resting


def learning_rate_of(part: Part, config: StageConfig) -> float:
    """Return the peak learning rate of a part."""
    if part is Part.PROJECTOR and config.projector_learning_rate:
        return config.projector_learning_rate
    return config.learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Who learns in a stage, as counts need it."""

    parts: frozenset[Part]
    adapter: Adapter = Adapter.NONE
    adapter_rank: int = 0

    @classmethod
    def of(cls, stage: Stage, config: StageConfig) -> "Learning":
        """Read it off the table and a stage's settings."""
        has_adapter = uses_adapter(stage, config)
        return cls(
            parts=learning_parts(stage, config),
            adapter=config.adapter if has_adapter else Adapter.NONE,
            adapter_rank=config.lora_rank if has_adapter else 0,
        )

    @property
    def language_model(self) -> bool:
        """Tell whether the language model's own weights learn."""
        return Part.LANGUAGE_MODEL in self.parts

    @property
    def vision_encoder(self) -> bool:
        """Tell whether the vision encoder learns."""
        return Part.VISION_ENCODER in self.parts

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
        counts = {
            Part.PROJECTOR: shape.projector_parameters,
            Part.LANGUAGE_MODEL: shape.language_parameters,
            Part.VISION_ENCODER: shape.encoder_parameters,
        }
        return sum(counts[part] for part in self.parts) + self.num_adapter_parameters(shape)


def check_batch(stages: StagesConfig, stage: Stage) -> None:
    """Refuse batches that TRL cannot divide, by our names and before anything is written.

    Raises:
        RecipeError: names the settings.
    """
    prefer, reinforce = stages.prefer, stages.reinforce
    if stage is Stage.PREFER and prefer.global_batch_size % prefer.micro_batch_size:
        raise RecipeError(
            f"stage.prefer.micro_batch_size={prefer.micro_batch_size} does not divide "
            f"stage.prefer.global_batch_size={prefer.global_batch_size}."
        )
    if stage is not Stage.REINFORCE:
        return
    answers = reinforce.global_batch_size * reinforce.generations
    if reinforce.generations < 2:
        raise RecipeError("stage.reinforce.generations must be 2 or more: answers are compared.")
    if answers % reinforce.micro_batch_size:
        raise RecipeError(
            f"stage.reinforce.micro_batch_size={reinforce.micro_batch_size} does not divide the "
            f"{answers} answers of a step ({reinforce.global_batch_size} questions x "
            f"{reinforce.generations} answers)."
        )
