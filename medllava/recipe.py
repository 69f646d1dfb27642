"""Recipes: one TOML file describes one model, its parts, its data and its stages.

A recipe is complete and readable alone: no inheritance, no interpolation. The loader is strict; an
unknown key, a wrong type or a missing value is a `RecipeError` with the full dotted path, the file
and the nearest valid key. `--set a.b=value` takes the value in TOML syntax. Nothing here needs
torch, so every recipe can be checked anywhere.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from medllava.errors import RecipeError
from medllava.records import Stage

Geometry = StrEnum("Geometry", ["PAD", "CROP", "STRETCH"])
FeatureSelect = StrEnum("FeatureSelect", ["DEFAULT", "FULL"])
Schedule = StrEnum("Schedule", ["COSINE", "LINEAR", "CONSTANT", "WARMUP_STABLE_DECAY"])
Adapter = StrEnum("Adapter", ["NONE", "LORA", "QLORA"])
Precision = StrEnum("Precision", ["AUTO", "BF16", "FP32"])
Optimizer = StrEnum("Optimizer", ["FP32_MASTERS", "BF16_STOCHASTIC", "EIGHT_BIT"])
PreferenceLoss = StrEnum(
    "PreferenceLoss",
    [
        "SIGMOID",
        "SIGMOID_NORM",
        "HINGE",
        "IPO",
        "ROBUST",
        "EXO_PAIR",
        "NCA_PAIR",
        "BCO_PAIR",
        "SPPO_HARD",
        "AOT",
        "AOT_UNPAIRED",
        "APO_ZERO",
        "APO_DOWN",
        "DISCOPOP",
    ],
)
"""Losses of TRL's DPOTrainer, by its names; `sigmoid` is DPO."""
PolicyLoss = StrEnum("PolicyLoss", ["GRPO", "DAPO", "DR_GRPO", "BNPO"])
"""How TRL's GRPOTrainer averages the loss over tokens, by its names."""
RewardScale = StrEnum("RewardScale", ["GROUP", "BATCH", "NONE"])


class Attention(StrEnum):
    """A kernel of attention; `flash` is the newest flash-attn that is installed."""

    AUTO = "auto"
    FLASH = "flash"
    FLASH_2 = "flash_attention_2"
    FLASH_3 = "flash_attention_3"
    FLASH_4 = "flash_attention_4"
    FLASH_HUB = "kernels-community/flash-attn2"
    """The kernels hub's build of flash-attn, fetched by the `kernels` package."""
    VARLEN = "varlen"
    SEGMENTED = "segmented"
    SDPA = "sdpa"
    EAGER = "eager"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionEncoderConfig:
    """The part that sees; frozen unless a stage trains it."""

    source: str
    """Hub id or folder; `random` builds a tiny one from `config`."""
    license: str = "unknown"
    """SPDX id of the encoder's license; it goes to the model card."""
    feature_layer: int = -2
    """Hidden state that is projected; -2 as in LLaVA."""
    feature_select: FeatureSelect = FeatureSelect.DEFAULT
    """`default` drops the class token, `full` keeps every token."""
    image_size: int = 0
    """Pixels per side; 0 keeps the encoder's own. More pixels mean more image tokens."""
    geometry: Geometry = Geometry.PAD
    """`pad` to square with the mean color, center `crop`, or `stretch`."""
    config: dict[str, Any] = field(default_factory=dict)
    """Transformers' configuration values with `model_type`: what a `random` encoder is
    made from, and the sizes of another one for the plan, so that it needs no download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorConfig:
    """The part that translates: two linear layers around an activation."""

    activation: str = "gelu"
    """Between the two linear layers, by transformers' name."""
    standardize_features: bool = False
    """Start and learn by standardized features, at the scale of word embeddings: small models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """The part that talks."""

    source: str
    """Hub id or folder; `random` builds a tiny one from `config`."""
    license: str = "unknown"
    """SPDX id of the language model's license; it goes to the model card."""
    system_prompt: str = ""
    """Put before every conversation, in training, evaluation and chat alike."""
    chat_template: str = ""
    """Jinja; empty keeps the tokenizer's own."""
    tokenizer: str = ""
    """Hub id or folder of the tokenizer; empty takes it from `source`."""
    config: dict[str, Any] = field(default_factory=dict)
    """Transformers' configuration values with `model_type`: what a `random` model is made
    from, and the sizes of another one for the plan, so that it needs no download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The three parts of a vision-language model."""

    vision_encoder: VisionEncoderConfig
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    language_model: LanguageModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How records become batches, the same in all stages."""

    max_length: int = 2048
    """Tokens of the longest record, image tokens included; longer text is cut."""
    pack_length: int = 0
    """Tokens of one pack. 0: `max_length`, and on a GPU up to 8,192 as memory allows."""
    packing: bool = True
    """False pads each batch to its longest record instead."""
    records_per_image: int = 1
    """Most records about one image that share its tokens in a pack. More costs less work where data
    has many questions per image, and makes steps less varied; needs packing."""
    num_workers: int = 2
    """Processes that decode images, per rank."""
    max_dropped: float = 0.1
    """Largest share of records that may be dropped before training refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """One source of a stage's records, beside others."""

    source: str
    """A folder, a file or a benchmark's name."""
    weight: float | None = None
    """Share of the records drawn, beside the other sources' weights; all of them have one, or none.
    A pass then ends when the first source is through."""
    epochs: float | None = None
    """Times the source is gone through in one pass, where no source has a weight; unset is once."""
    limit: int | None = None
    """Most records to take, from the beginning of the source."""

    def describe(self) -> str:
        """Return it as `--data` takes it, as far as that can say it."""
        return self.source if self.weight is None else f"{self.source}:{self.weight:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of the curriculum; who learns is fixed by the stage, how fast by these."""

    learning_rate: float
    """Peak rate of AdamW for what learns in the stage."""
    projector_learning_rate: float = 0.0
    """Peak rate of the projector; 0 takes `learning_rate`."""
    epochs: float = 1.0
    """Passes over the records; a fraction stops within a pass."""
    global_batch_size: int = 128
    """Records per optimizer step over all ranks; packing keeps it on average."""
    micro_batch_size: int = 1
    """Packs (records without packing) per device and forward pass."""
    schedule: Schedule = Schedule.COSINE
    """How the learning rate falls after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's decay; norms and biases are left out."""
    adam_beta2: float = 0.999
    """Share of Adam's memory of squared gradients that a step keeps; 0.95 forgets the large first
    ones within a short run."""
    max_grad_norm: float = 1.0
    """0 switches clipping off."""
    train_vision_encoder: bool = False
    """True lets the vision encoder learn too, at `learning_rate`."""
    adapter: Adapter = Adapter.NONE
    """`lora` learns low-rank updates of the language model; `qlora` holds its base in 4 bits."""
    lora_rank: int = 128
    """Rank of the updates."""
    lora_alpha: int = 256
    """The updates are scaled by `lora_alpha / lora_rank`."""
    lora_dropout: float = 0.05
    """Share of an update's inputs that is dropped while training."""
    data: str | tuple[DataSource, ...] = ""
    """Default of `--data`: a folder, a file or a benchmark's name; or a list of tables with
    `source` and `weight`, `epochs` or `limit`, to mix several."""
    replay: float = 0.0
    """Share of the records drawn from the data of the run that this one starts from, so that what
    was learned there is not forgotten; 0 draws none. 0.1 to 0.2 is usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferConfig(StageConfig):
    """Stage 4: pairs of replies, by TRL's DPO. A batch counts pairs."""

    learning_rate: float = 5e-6
    """Peak rate of AdamW for what learns in the stage."""
    global_batch_size: int = 32
    """Pairs per optimizer step over all ranks."""
    micro_batch_size: int = 4
    """Pairs per device and forward pass."""
    adapter: Adapter = Adapter.LORA
    """`lora` learns low-rank updates, `none` the whole language model. The reference is the model
    that the stage starts from, whose log-probabilities are computed once and kept."""
    lora_dropout: float = 0.0
    """Switched off by TRL, so that policy and reference differ by what was learned only."""
    loss: PreferenceLoss = PreferenceLoss.SIGMOID
    """`sigmoid` is DPO; the others are TRL's relatives of it."""
    beta: float = 0.1
    """How dearly a step away from the reference is paid; `ipo` calls it tau."""
    label_smoothing: float = 0.0
    """Share of pairs taken to be the wrong way round, for `robust`, `exo_pair` and `aot`."""
    likelihood_weight: float = 0.0
    """Weight of the chosen reply's own negative log-likelihood beside the loss (RPO)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """What a reply is rewarded for: weights of parts between 0 and 1."""

    score: float = 1.0
    """The strict protocol's score: closed and choice right or wrong, open by token recall."""
    looking: float = 0.0
    """Share of the score taken off where the same answer is given about another picture of the
    same modality (lambda); 0 shows no other picture."""
    format: float = 0.0
    """One clear answer: a closed question is answered with one of its answers, and with `think`
    the reasoning stands in its tags, before the answer."""
    length: float = 0.0
    """Taken off as words pass `max_words`, all of it at twice as many."""
    max_words: int = 64
    """Words that cost nothing; reasoning counts."""
    steps: float = 0.0
    """R1-VL's StepRAR: share of a question's key steps that the reply passes through."""
    reasoning: float = 0.0
    """R1-VL's StepRVR: reasoning that describes, then reasons, then answers, in that order."""
    think: bool = False
    """Ask for reasoning in <think></think> before the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceConfig(StageConfig):
    """Stage 5: rewards, by TRL's GRPO. A batch counts questions, each answered several times."""

    learning_rate: float = 5e-6
    """Peak rate of AdamW for what learns in the stage."""
    global_batch_size: int = 16
    """Questions per optimizer step over all ranks, other pictures counted."""
    micro_batch_size: int = 8
    """Answers per device and forward pass of the update."""
    adapter: Adapter = Adapter.LORA
    """`lora` learns low-rank updates, `none` the whole language model."""
    lora_dropout: float = 0.0
    """Switched off by TRL, so that an answer is as likely while learning as it was when given."""
    generations: int = 8
    """Answers to each question, compared with each other."""
    max_new_tokens: int = 128
    """Longest answer."""
    temperature: float = 1.0
    """Of the answers' sampling; 0 would give equal answers, which teach nothing."""
    loss: PolicyLoss = PolicyLoss.DAPO
    """`grpo` averages within each answer first, `dapo` and `bnpo` over tokens, `dr_grpo` divides by
    a constant."""
    scale_rewards: RewardScale = RewardScale.BATCH
    """What advantages are divided by: the deviation of the `group`'s rewards as in GRPO, of the
    `batch`'s, or nothing (Dr. GRPO). `group` would undo the weight of `rewards.looking`."""
    kl: float = 0.0
    """Weight of the distance from the model that the stage starts from; above 0 it is kept in
    memory."""
    clip: float = 0.2
    """How far one update may change an answer's likelihood ratio."""
    vllm: bool = False
    """Let vLLM give the answers, on the GPU that trains."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """What an answer is rewarded for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesConfig:
    """Settings of the stages."""

    align: StageConfig
    """Stage 1: the projector learns on figure-caption pairs."""
    instruct: StageConfig
    """Stage 2: projector and language model learn on conversations."""
    finetune: StageConfig
    """Stage 3: the same two learn on a benchmark's train split."""
    prefer: PreferConfig = field(default_factory=PreferConfig)
    """Stage 4: the better of two replies is made likelier."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    """Stage 5: the model's own answers are made likelier as they are rewarded."""

    def __getitem__(self, stage: Stage) -> StageConfig:
        """Return the settings of `stage`."""
        config: StageConfig = getattr(self, stage.value)
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Machine and numerics, the same in all stages."""

    seed: int = 0
    """Of the data's order, the projector's start and dropout."""
    precision: Precision = Precision.AUTO
    """`auto`: bf16 on GPUs that have it, and on a CPU that a short trial shows to be faster with it
    (AVX512-BF16, AMX); fp32 elsewhere. A run that goes on keeps what it began with."""
    attention: Attention = Attention.AUTO
    """`auto` takes the fastest that is installed and says which."""
    gradient_checkpointing: bool | None = None
    """Compute activations again in the backward pass. Unset: the plan decides from memory."""
    zero_stage: int | None = None
    """DeepSpeed's ZeRO stage, 0 to 3. Unset: the plan decides from memory."""
    offload: bool | None = None
    """Keep optimizer states in host memory. Unset: the plan decides from memory."""
    optimizer: Optimizer = Optimizer.FP32_MASTERS
    """How what learns is updated where weights are bf16: `fp32_masters` keeps a full copy (14 bytes
    per parameter with the weight), `bf16_stochastic` rounds at random (10), `eight_bit` also keeps
    Adam's moments in eight bits (4; needs bitsandbytes)."""
    compile: bool = False
    """Compile each decoder layer; packs are then filled up to one fixed length."""
    liger: bool | None = None
    """Liger's norms, SwiGLU and rotary (the `liger` extra). Unset: on CUDA where installed."""
    float8: bool = False
    """Multiply the language model's matrices in float8 (the `float8` extra, H100 or newer)."""
    threads: int = 0
    """CPU threads per process; 0 lets torch choose."""
    restarts: int = 0
    """How often the ranks of a run start again from the last checkpoint when one of them dies (is
    killed, loses its GPU or a connection). An error of the data or the recipe ends the run at once.
    Any number above 0 starts even one process through the launcher."""
    trackers: tuple[str, ...] = ()
    """Any of tensorboard, wandb, trackio; metrics.jsonl is always written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When state is saved and how much of it is kept."""

    every_steps: int = 500
    """Optimizer steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete, typed recipe; build one with `load_recipe`."""

    name: str
    """The shipped name, or one of yours."""
    description: str
    """One sentence; the model card opens with it."""
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    stage: StagesConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def to_toml_values(self) -> dict[str, Any]:
        """Return the resolved recipe as plain nested values, ready for JSON."""
        return dataclasses.asdict(self)


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes, name to file, from the wheel or the checkout."""
    package = Path(__file__).parent
    folders = [package / "_recipes", package.parent / "recipes"]
    folder = next((f for f in folders if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def find_recipe(name_or_path: str) -> Path:
    """Resolve a shipped name or a path.

    Raises:
        RecipeError: neither exists; names the nearest shipped recipe.
    """
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.is_file():
        return path
    raise RecipeError(
        f"no recipe {name_or_path!r}{_nearest(name_or_path, shipped)}. "
        f"Shipped: {', '.join(shipped) or 'none'}; or give the path of a .toml file."
    )


def load_recipe(name_or_path: str, *, overrides: Iterable[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    Args:
        name_or_path: a shipped name or the path of a TOML file.
        overrides: `dotted.key=value` pairs, values in TOML syntax (a bare word is a string).

    Raises:
        RecipeError: names the file (or `--set`), the dotted key, what was expected and found.
    """
    path = find_recipe(name_or_path)
    values = _read_toml(path)
    for override in overrides:
        _apply_override(values, override)
    recipe: Recipe = _build(Recipe, values, prefix="", file=path.name)
    return recipe


def recipe_from_values(values: Mapping[str, Any], *, file: str) -> Recipe:
    """Rebuild a recipe from `Recipe.to_toml_values`, as saved beside a checkpoint."""
    recipe: Recipe = _build(Recipe, values, prefix="", file=file)
    return recipe


def read_tables(
    path: Path | None, overrides: Iterable[str], *, tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Read settings that are no recipe, as strictly as one.

    Args:
        path: a TOML file with these tables, or none.
        overrides: `table.key=value` pairs, which go before the file.
        tables: the type of each key, by table and key; keys are unique over all tables.

    Returns:
        The values that were given, by key.

    Raises:
        RecipeError: names the file (or `--set`), the dotted key, what was expected and found.
    """
    values = _read_toml(path) if path is not None else {}
    for override in overrides:
        _apply_override(values, override)
    file = path.name if path is not None else "--set"
    given: dict[str, Any] = {}
    for table, keys in values.items():
        if table not in tables:
            near = _nearest(table, tables)
            raise RecipeError(f"{file}: {table} is not a table{near}. Use {', '.join(tables)}.")
        if not isinstance(keys, Mapping):
            raise RecipeError(f"{file}: {table} must be a table, got {keys!r}.")
        for key, value in keys.items():
            if key not in tables[table]:
                near = _nearest(key, tables[table], prefix=f"{table}.")
                raise RecipeError(f"{file}: {table}.{key} is not a setting{near}.")
            given[key] = _convert(tables[table][key], value, key=f"{table}.{key}", file=file)
    return given


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror}): {path}. Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"not valid TOML ({error}): {path}. Correct that line.") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise RecipeError(f"--set {override!r}: expected KEY=VALUE, such as data.packing=false.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for part in parts[:-1]:
        child = table.setdefault(part, {})
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override!r}: {part} is a value, not a table.")
        table = child
    table[parts[-1]] = value


def _build(config: Any, values: Any, *, prefix: str, file: str) -> Any:  # noqa: ANN401 - any dataclass
    if not isinstance(values, Mapping):
        table = prefix.rstrip(".") or "recipe"
        raise RecipeError(f"{file}: {table} must be a table, got {values!r}.")
    fields = {f.name: f for f in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    for key in values:
        if key not in fields:
            nearest = _nearest(key, fields, prefix=prefix)
            raise RecipeError(f"{file}: {prefix}{key} is not a setting{nearest}.")
    given = {}
    for name, f in fields.items():
        if name in values:
            given[name] = _convert(hints[name], values[name], key=f"{prefix}{name}", file=file)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{file}: {prefix}{name} is missing. Add it; it has no default.")
    return config(**given)


def _convert(hint: Any, value: Any, *, key: str, file: str) -> Any:  # noqa: ANN401, PLR0911 - one case per TOML type
    if typing.get_origin(hint) is types.UnionType:
        if value is None:
            return None
        kinds = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        # A name may stand for a list of one, as in `data`.
        is_list = isinstance(value, list | tuple)
        hint = next((k for k in kinds if (typing.get_origin(k) is tuple) == is_list), kinds[0])
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, prefix=f"{key}.", file=file)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, key=f"{key}[{i}]", file=file) for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value in list(hint):
            return hint(value)
        names = ", ".join(hint)
        raise RecipeError(f"{file}: {key} must be one of {names}; got {value!r}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = hint if isinstance(hint, type) else origin
    if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
        return value
    expected = plain.__name__
    raise RecipeError(f"{file}: {key} must be {expected}; got {type(value).__name__} {value!r}.")


def _nearest(name: str, candidates: Iterable[str], *, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
