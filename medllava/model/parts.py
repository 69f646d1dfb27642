"""Parts to one native model: any causal language model, any vision encoder, a new projector.

A recipe's `ModelConfig` enters; a `LlavaForConditionalGeneration` with its processor leaves, ready
for stage 1. Nothing of ours is in the model class, so everything that loads transformers' LLaVA
loads what is trained from here. Weights that are missing, left over or of the wrong shape stop the
load by name, and a last check makes sure that the language model still says what it said alone.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from medllava.errors import SetupError
from medllava.model.loaded import LoadedModel
from medllava.model.open_clip import CONFIG_FILE, load_open_clip_encoder
from medllava.model.processor import build_processor, image_statistics, num_image_tokens
from medllava.model.sources import check_keys, reading_weights
from medllava.model.standardize import selected_features, standardize_projector
from medllava.model.tensors import find_file
from medllava.model.tiny import (
    build_random_language_model,
    build_random_vision_encoder,
    build_tiny_tokenizer,
)
from medllava.model.vision import check_encoder, resize_encoder
from medllava.recipe import LanguageModelConfig, ModelConfig, VisionEncoderConfig

RANDOM = "random"
_PROBE_TOKENS = 8


def build_model(
    config: ModelConfig,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    calibration: Sequence[Image.Image] = (),
) -> LoadedModel:
    """Build a native LLaVA from a recipe's parts, on the CPU.

    Args:
        config: the three parts.
        seed: of the projector and of random parts.
        dtype: of all weights.
        attention: transformers' `attn_implementation`; see `attention.choose_attention`.
        calibration: RGB images from the training data that stand for all of them when the
            projector starts from standardized features; without any, colored noise is used.

    Raises:
        RecipeError: the values of a random part are refused.
        SetupError: a part is not at its source, lacks weights, or cannot be part of a LLaVA.
    """
    language_model, tokenizer = load_language_model(config.language_model, seed=seed, dtype=dtype)
    encoder = load_vision_encoder(config.vision_encoder, seed=seed + 1, dtype=dtype)
    source = config.vision_encoder.source
    known = set(tokenizer.get_vocab().values())
    processor = build_processor(
        tokenizer,
        encoder,
        statistics=image_statistics(source, model_type=encoder.config.model_type),
        vision=config.vision_encoder,
        language_model=config.language_model,
    )
    new_token_ids = sorted(set(tokenizer.get_vocab().values()) - known)
    fit_embeddings(language_model, new_token_ids)
    expected = _probe(language_model)
    model = _assemble(language_model, encoder, processor, config=config, seed=seed)
    _check_assembly(model, processor, expected=expected, config=config)
    model.set_attn_implementation(attention)
    if config.projector.standardize_features:
        standardize_projector(model, processor, images=calibration, seed=seed)
    model.eval()
    return LoadedModel(
        model=model, processor=processor, source=f"{source} + {config.language_model.source}"
    )


def load_language_model(
    config: LanguageModelConfig, *, seed: int, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the language model with its tokenizer, or build the random one."""
    model: Any
    tokenizer: PreTrainedTokenizerBase
    if config.source == RANDOM:
        model = build_random_language_model(config.config, seed=seed)
        _cast_weights(model, dtype)
        if not config.tokenizer:
            return model, build_tiny_tokenizer(vocab_size=_num_embeddings(model))
    else:
        with reading_weights(config.source, key="model.language_model.source"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                config.source, dtype=dtype, output_loading_info=True, use_safetensors=True
            )
        model, info = loaded
        check_keys(info, source=config.source)
    where = config.tokenizer or config.source
    with reading_weights(where, key="model.language_model.tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(where)
    return model, tokenizer


def load_vision_encoder(
    config: VisionEncoderConfig, *, seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    """Load the vision encoder at the recipe's image size, or build the random one."""
    encoder: Any
    if config.source == RANDOM:
        encoder = build_random_vision_encoder(config.config, seed=seed)
        _cast_weights(encoder, dtype)
    else:
        with reading_weights(config.source, key="model.vision_encoder.source"):
            encoder = _read_vision_encoder(config.source, dtype)
    check_encoder(encoder, source=config.source)
    return resize_encoder(encoder, image_size=config.image_size)


def _read_vision_encoder(source: str, dtype: torch.dtype) -> PreTrainedModel:
    if find_file(source, CONFIG_FILE) is not None:
        return load_open_clip_encoder(source, dtype=dtype)
    whole = AutoConfig.from_pretrained(source)
    vision = getattr(whole, "vision_config", whole)
    loaded: Any = AutoModel.from_pretrained(
        source, config=vision, dtype=dtype, output_loading_info=True, use_safetensors=True
    )
    encoder: PreTrainedModel
    encoder, info = loaded
    text_tower = ("text_model.", "text_projection", "visual_projection", "logit_")
    check_keys(info, source=source, ignored_prefixes=text_tower)
    return encoder


def fit_embeddings(model: PreTrainedModel, new_token_ids: Sequence[int]) -> None:
    """Make room for new tokens; their rows start as the mean of the old ones.

    A table that must grow grows to a multiple of 64, which matrix units like; it never shrinks.
    """
    old = _num_embeddings(model)
    needed = max(new_token_ids, default=0) + 1
    if needed > old:
        model.resize_token_embeddings(needed, pad_to_multiple_of=64, mean_resizing=False)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tables = [embeddings.weight]
    if head.weight is not embeddings.weight:
        tables.append(head.weight)
    with torch.no_grad():
        for table in tables:
            mean = table[:old].float().mean(dim=0).to(table.dtype)
            table[old:] = mean
            table[[i for i in new_token_ids if i < old]] = mean


def _assemble(
    language_model: PreTrainedModel,
    encoder: PreTrainedModel,
    processor: LlavaProcessor,
    *,
    config: ModelConfig,
    seed: int,
) -> LlavaForConditionalGeneration:
    """Put the parts into an empty native model; no weight is copied."""
    tokenizer = processor.tokenizer
    dtype = language_model.dtype
    # Servers build the language model from this name; some know none for a bare configuration.
    language_model.config.architectures = [type(language_model).__name__]
    values: dict[str, Any] = {
        "vision_config": encoder.config,
        "text_config": language_model.config,
        "image_token_index": processor.image_token_id,
        "image_seq_length": num_image_tokens(processor),
        "projector_hidden_act": config.projector.activation,
        "vision_feature_select_strategy": config.vision_encoder.feature_select.value,
        "vision_feature_layer": config.vision_encoder.feature_layer,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": dtype,
    }
    head: Any = language_model.get_output_embeddings()
    _check_language_model(language_model, source=config.language_model.source)
    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration(LlavaConfig(**values))
    model.model.language_model = language_model.base_model
    model.model.vision_tower = encoder
    model.lm_head = head
    model.model.multi_modal_projector.to_empty(device="cpu").to(dtype)
    _initialise_projector(model, seed=seed)
    own: Any = language_model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=_end_ids(own.eos_token_id, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    native: LlavaForConditionalGeneration = model
    return native


def _end_ids(own: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends a reply: those of the part, and the one that closes a turn.

    Other engines know only what the generation configuration says, and would run on past a turn
    whose end is the tokenizer's own.
    """
    ends = list(own) if isinstance(own, list | tuple) else [own]
    return sorted({int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None})


def _check_language_model(model: PreTrainedModel, *, source: str) -> None:
    """Stop if the native class has no place for something the language model has."""
    head: Any = model.get_output_embeddings()
    lack = ""
    if getattr(head, "bias", None) is not None:
        lack = "adds a bias to its logits"
    elif getattr(model.config, "final_logit_softcapping", None):
        lack = "caps its logits"
    elif not hasattr(model.base_model, "embed_tokens"):
        lack = "keeps its word embeddings elsewhere (a position table beside them, mostly)"
    if lack:
        raise SetupError(
            f"this language model ({model.config.model_type}) {lack}, for which the native LLaVA "
            f"has no place: {source}. Choose another language model."
        )


@torch.no_grad()
def _initialise_projector(model: LlavaForConditionalGeneration, *, seed: int) -> None:
    """Draw both linear layers as torch does, from their own seed."""
    projector: Any = model.model.multi_modal_projector
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in (projector.linear_1, projector.linear_2):
            fresh = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            layer.load_state_dict(fresh.state_dict())


def _cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights, as loading does, and not buffers: rotary frequencies must stay in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _num_embeddings(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.num_embeddings)


@torch.no_grad()
def _probe(language_model: PreTrainedModel) -> Tensor:
    """Return the language model's own logits for its first few tokens, (1, T, V)."""
    input_ids = torch.arange(min(_PROBE_TOKENS, _num_embeddings(language_model)))[None]
    logits: Tensor = language_model(input_ids=input_ids, use_cache=False).logits
    return logits


@torch.no_grad()
def _check_assembly(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    expected: Tensor,
    config: ModelConfig,
) -> None:
    """Stop if the native class cannot express the parts."""
    input_ids = torch.arange(expected.shape[1])[None]
    logits = model(input_ids=input_ids, use_cache=False).logits
    if not torch.allclose(logits, expected, atol=1e-3, rtol=1e-3):
        raise SetupError(
            "inside a LLaVA this language model gives other logits than alone, because it does "
            f"more than a linear layer after its last norm: {config.language_model.source}. "
            "Choose another language model."
        )
    blank = Image.new("RGB", (32, 32))
    found = selected_features(model, processor, [blank]).shape[1]
    if found != num_image_tokens(processor):
        raise SetupError(
            f"the vision encoder gives {found} features, {num_image_tokens(processor)} were "
            f"expected from its configuration: {config.vision_encoder.source}. "
            "Choose another vision encoder."
        )
