"""How a run holds and computes its model: one object that plan, loader and trainer all read.

What the recipe leaves open is filled in twice: from the machine before anything is loaded
(`machine_settings`), and from the data and the memory once records are counted
(`planning.plan.fit_settings`). Nothing else decides precision, sharding or the length of a pack.
"""

import importlib.util
from dataclasses import dataclass

from medllava.errors import RecipeError
from medllava.recipe import Optimizer, Precision, Recipe, StageConfig

LONGEST_PACK = 8192
"""Tokens of a pack that a GPU's matrix products run at full speed with; longer gains little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is computed and spread over memory."""

    world_size: int
    precision: Precision
    """Resolved: bf16 holds and computes everything in bf16, fp32 in fp32."""
    optimizer: Optimizer = Optimizer.FP32_MASTERS
    pack_length: int
    """Tokens of a pack; without packing of the longest record."""
    micro_batch_size: int = 1
    """Packs (records without packing) per rank and forward pass."""
    zero_stage: int = 0
    gradient_checkpointing: bool = False
    offload: bool = False
    liger: bool = False
    compile: bool = False
    float8: bool = False

    @property
    def is_half(self) -> bool:
        """Tell whether weights are bf16."""
        return self.precision is Precision.BF16

    @property
    def bytes_per_weight(self) -> int:
        """2 for bf16, 4 for fp32; frozen and learning weights alike."""
        return 2 if self.is_half else 4

    @property
    def optimizer_bytes(self) -> int:
        """Bytes the optimizer keeps per learning parameter: Adam's moments, and a master copy.

        fp32 weights are their own masters; bf16 ones have an fp32 copy, are rounded at random
        (moments in fp32), or are rounded at random with moments of eight bits.
        """
        if not self.is_half or self.optimizer is Optimizer.BF16_STOCHASTIC:
            return 8
        return 2 if self.optimizer is Optimizer.EIGHT_BIT else 12

    @property
    def is_sharded(self) -> bool:
        """Tell whether DeepSpeed holds the model; it is then started by a launcher at any size."""
        return self.world_size > 1 or self.zero_stage > 0 or self.offload


def wants_launcher(recipe: Recipe) -> bool:
    """Tell whether even one process must be started as a rank: the recipe asks for sharding."""
    return bool(recipe.train.zero_stage) or bool(recipe.train.offload)


def machine_settings(
    recipe: Recipe, stage: StageConfig, *, world_size: int, has_cuda: bool, is_half: bool
) -> Settings:
    """Return the recipe's choices, and the machine's where the recipe leaves them open.

    Args:
        recipe: resolved.
        stage: of the recipe.
        world_size: ranks.
        has_cuda: whether the run is, or is planned for, a GPU.
        is_half: whether bf16 is what `precision = "auto"` means there.

    Raises:
        RecipeError: settings that exclude each other.
    """
    train = recipe.train
    settings = Settings(
        world_size=world_size,
        precision=(Precision.BF16 if is_half else Precision.FP32)
        if train.precision is Precision.AUTO
        else train.precision,
        optimizer=train.optimizer,
        pack_length=max(recipe.data.pack_length, recipe.data.max_length),
        micro_batch_size=stage.micro_batch_size,
        zero_stage=train.zero_stage if train.zero_stage is not None else 2 * (world_size > 1),
        gradient_checkpointing=bool(train.gradient_checkpointing),
        offload=bool(train.offload),
        liger=(has_cuda and _has("liger_kernel")) if train.liger is None else train.liger,
        compile=train.compile,
        float8=train.float8,
    )
    if settings.is_sharded and settings.optimizer is not Optimizer.FP32_MASTERS:
        raise RecipeError(
            f"train.optimizer={settings.optimizer.value} is for one process without sharding; "
            "DeepSpeed keeps fp32 masters. Leave out train.optimizer, or run on one GPU unsharded."
        )
    if 0 < recipe.data.pack_length < recipe.data.max_length:
        raise RecipeError(
            f"data.pack_length={recipe.data.pack_length} is below data.max_length="
            f"{recipe.data.max_length}, the longest record. Raise it, or set it to 0."
        )
    return settings


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
