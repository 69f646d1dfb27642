"""Checkpoints of the older LLaVA layout to the native model: LLaVA-Med v1.5 and v1, LLaVA 1.5.

They hold one flat language model with `mm_projector` and, mostly, the vision tower inside it. The
tower's own weights are used, where the reference's loader puts the stock encoder in their place;
where that encoder is at hand, the difference is reported. A v1 delta is added to its base first.
A v1 projector is one linear layer: it becomes `linear_1`, with no activation and an identity after.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from medllava.errors import SetupError
from medllava.layout import MODEL_CONFIG_FILE
from medllava.model.chat_template import HUMAN_ASSISTANT, MISTRAL, VICUNA
from medllava.model.loaded import LoadedModel
from medllava.model.parts import fit_embeddings, load_vision_encoder
from medllava.model.processor import build_processor, image_statistics, num_image_tokens
from medllava.model.sources import check_keys, check_none, read_config, reading_weights
from medllava.model.tensors import find_file, read_tensors
from medllava.recipe import FeatureSelect, Geometry, LanguageModelConfig, VisionEncoderConfig

_TEXT_TYPES = {"llava_mistral": "mistral", "llava_llama": "llama", "llava": "llama"}
_MARKS = ("<im_start>", "<im_end>")
_TOWER = "vision_tower.vision_model."
_RENAMES = (
    (r"model\.vision_tower\.vision_tower\.vision_model\.(.*)", _TOWER + r"\1"),
    (r"model\.mm_projector\.0\.(.*)", r"multi_modal_projector.linear_1.\1"),
    (r"model\.mm_projector\.2\.(.*)", r"multi_modal_projector.linear_2.\1"),
    (r"model\.mm_projector\.(weight|bias)", r"multi_modal_projector.linear_1.\1"),
    (r"lm_head\.(.*)", r"language_model.lm_head.\1"),
    (r"model\.(.*)", r"language_model.model.\1"),
)
_ROTARY = {"rope_theta", "rope_scaling", "rope_parameters"}
_NOT_SIZES = {"model_type", "pad_token_id"}
_BUFFERS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def split_delta(source: str) -> tuple[str, str | None]:
    """Split `DELTA+BASE`; anything else comes back whole, with None.

    Raises:
        SetupError: the name says that it is a delta, but no base is given.
    """
    if Path(source).exists():
        return source, None
    delta, _, base = source.partition("+")
    if not base and "delta" in source.lower():
        raise SetupError(
            f"a delta needs the model it was taken from: {source}. "
            f"Write {source}+BASE with the id or folder of LLaMA-7B."
        )
    return delta, base or None


def import_llava(
    source: str, *, base: str | None = None, dtype: torch.dtype, attention: str
) -> LoadedModel:
    """Import a checkpoint of the older layout, on the CPU.

    Args:
        source: folder or hub id.
        base: the language model to which `source` is a delta.
        dtype: of all weights.
        attention: transformers' `attn_implementation`.

    Raises:
        SetupError: it is no such checkpoint, or weights are missing, left over or misshapen.
    """
    config = read_config(source)
    if config.get("model_type") not in _TEXT_TYPES:
        raise SetupError(
            f"model type {config.get('model_type')!r} is no LLaVA that can be loaded: {source}. "
            "Name a native LLaVA, or a llava_mistral or llava_llama checkpoint."
        )
    tensors = read_tensors(source)
    notes: list[str] = []
    if base is not None:
        tensors = add_delta(tensors, read_tensors(base), source=source)
        notes.append(f"delta {source} was added to {base}")
    is_linear = "model.mm_projector.weight" in tensors
    state = rename_tensors(tensors)
    _check_projector(state, source=source)
    if is_linear:
        width = state["multi_modal_projector.linear_1.weight"].shape[0]
        state["multi_modal_projector.linear_2.weight"] = torch.eye(width)
        state["multi_modal_projector.linear_2.bias"] = torch.zeros(width)
    encoder, tower_notes = _vision_tower(state, config, dtype=dtype)
    notes += tower_notes
    model = _build(state, config, encoder=encoder, is_linear=is_linear, source=source, dtype=dtype)
    processor = _attach_processor(model, config, is_linear=is_linear, source=source)
    model.set_attn_implementation(attention)
    model.eval()
    return LoadedModel(model=model, processor=processor, source=source, notes=tuple(notes))


def rename_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor the name that native checkpoints use on disk; buffers are left out."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith(_BUFFERS):
            continue
        for pattern, replacement in _RENAMES:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[match.expand(replacement)] = tensor
                break
        else:
            renamed[name] = tensor
    return renamed


def add_delta(
    delta: dict[str, Tensor], base: dict[str, Tensor], *, source: str
) -> dict[str, Tensor]:
    """Return delta + base, tensor by tensor, in the delta's precision.

    Embedding and head have more rows in the delta, for its added tokens; those rows, the projector
    and a vision tower are whole. Everything else must be in both.

    Raises:
        SetupError: names what the base lacks or what has another shape.
    """
    result = {}
    problems: dict[str, list[str]] = {"not in the base": [], "misshapen": []}
    for name, tensor in delta.items():
        if ".mm_projector." in name or ".vision_tower." in name or name.endswith(_BUFFERS):
            result[name] = tensor
            continue
        if name not in base:
            problems["not in the base"].append(name)
            continue
        other = base[name].to(tensor.dtype)
        rows = other.shape[0]
        if name in _EMBEDDINGS and other.shape[1:] == tensor.shape[1:] and rows <= len(tensor):
            result[name] = torch.cat([tensor[:rows] + other, tensor[rows:]])
        elif other.shape == tensor.shape:
            result[name] = tensor + other
        else:
            problems["misshapen"].append(name)
    check_none(problems, source=source)
    return result


def text_config(config: dict[str, Any], *, vocab_size: int) -> PreTrainedConfig:
    """Take the language model's own values out of an older checkpoint's flat configuration.

    The rotary base has another name there than the configuration class shows, so it is asked for by
    name: Mistral-7B-Instruct-v0.2 turns with 1e6, a hundred times the default.
    """
    text_type = _TEXT_TYPES[config["model_type"]]
    own = AutoConfig.for_model(text_type).to_dict().keys() - PreTrainedConfig().to_dict().keys()
    wanted = own | _ROTARY
    values = {k: v for k, v in config.items() if k in wanted and k not in _NOT_SIZES}
    values["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    values["vocab_size"] = vocab_size
    made: PreTrainedConfig = AutoConfig.for_model(text_type, **values)
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(made)]
    made.architectures = [causal.__name__]
    return made


def clip_config(state: dict[str, Tensor]) -> CLIPVisionConfig:
    """Read the sizes of a CLIP tower off its weights; its head width is 64, as in all of CLIP."""
    patches = state[_TOWER + "embeddings.patch_embedding.weight"]
    hidden, _, _, patch_size = patches.shape
    positions = len(state[_TOWER + "embeddings.position_embedding.weight"])
    layers = {
        int(m[1]) for name in state if (m := re.search(_TOWER + r"encoder\.layers\.(\d+)", name))
    }
    wide = len(state[_TOWER + "encoder.layers.0.mlp.fc1.bias"])
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden // 64),
        image_size=round((positions - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
        projection_dim=768,
    )


def compare_tower(state: dict[str, Tensor], stock: str) -> str:
    """Say in one sentence how the checkpoint's vision tower differs from the stock encoder."""
    has_stock = find_file(stock, MODEL_CONFIG_FILE, local_only=True) is not None
    if not has_stock:
        return f"vision weights are the checkpoint's own; {stock} is not at hand to compare them"
    theirs = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in read_tensors(stock, local_only=True).items()
    }
    worst, differing, compared = 0.0, 0, 0
    for name, tensor in state.items():
        other = theirs.get(name.removeprefix(_TOWER))
        if not name.startswith(_TOWER) or other is None:
            continue
        compared += 1
        gap = float((tensor.float() - other.to(tensor.dtype).float()).abs().max())
        worst, differing = max(worst, gap), differing + (gap > 0)
    return (
        f"vision weights are the checkpoint's own; {differing} of {compared} tensors differ from "
        f"{stock}, by at most {worst:.3g}"
    )


def _check_projector(state: dict[str, Tensor], *, source: str) -> None:
    if "multi_modal_projector.linear_1.weight" not in state:
        raise SetupError(
            f"no projector (model.mm_projector) among the weights: {source}. "
            "This is a language model without images, or an adapter; name the merged checkpoint."
        )


def _vision_tower(
    state: dict[str, Tensor], config: dict[str, Any], *, dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """Return the tower's configuration, or the stock encoder if the checkpoint has no tower."""
    stock = str(config.get("mm_vision_tower", ""))
    if any(name.startswith(_TOWER) for name in state):
        return clip_config(state), [compare_tower(state, stock)]
    encoder = load_vision_encoder(VisionEncoderConfig(source=stock), seed=0, dtype=dtype)
    return encoder, [f"the checkpoint has no vision weights; those of {stock} are used"]


def _build(
    state: dict[str, Tensor],
    config: dict[str, Any],
    *,
    encoder: Any,  # noqa: ANN401 - a configuration or a model
    is_linear: bool,
    source: str,
    dtype: torch.dtype,
) -> LlavaForConditionalGeneration:
    """Fill the native model with the renamed tensors."""
    has_own = isinstance(encoder, CLIPVisionConfig)
    rows = len(state["language_model.model.embed_tokens.weight"])
    full = config.get("mm_vision_select_feature", "patch") == "cls_patch"
    values: dict[str, Any] = {
        "vision_config": encoder if has_own else encoder.config,
        "text_config": text_config(config, vocab_size=rows),
        "projector_hidden_act": "linear" if is_linear else "gelu",
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if full else "default",
    }
    with reading_weights(source, key="--init"):
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=LlavaConfig(**values),
            state_dict=state,
            dtype=dtype,
            output_loading_info=True,
        )
    model, info = loaded
    if not has_own:
        model.model.vision_tower = encoder
        missing = [k for k in info["missing_keys"] if "vision_tower" not in k]
        info = {**info, "missing_keys": missing}
    check_keys(info, source=source)
    native: LlavaForConditionalGeneration = model
    return native


def _attach_processor(
    model: LlavaForConditionalGeneration, config: dict[str, Any], *, is_linear: bool, source: str
) -> Any:  # noqa: ANN401 - LlavaProcessor
    """Build the processor this checkpoint was trained with, and fit the model to its tokens."""
    inner: Any = model
    with reading_weights(source, key="--init"):
        tokenizer = AutoTokenizer.from_pretrained(source, config=inner.config.text_config)
    known = set(tokenizer.get_vocab().values())
    tower = inner.model.vision_tower
    has_marks = bool(config.get("mm_use_im_start_end"))
    if has_marks and (lost := set(_MARKS) - tokenizer.get_vocab().keys()):
        raise SetupError(
            f"images are marked with {' and '.join(sorted(lost))}, which the tokenizer lacks: "
            f"{source}. Take the tokenizer files that came with the checkpoint."
        )
    template = MISTRAL if config["model_type"] == "llava_mistral" else VICUNA
    processor = build_processor(
        tokenizer,
        tower,
        statistics=image_statistics("random", model_type=tower.config.model_type),
        vision=VisionEncoderConfig(
            source=str(config.get("mm_vision_tower", "")),
            feature_select=FeatureSelect(inner.config.vision_feature_select_strategy),
            geometry=Geometry.PAD if config.get("image_aspect_ratio") == "pad" else Geometry.CROP,
        ),
        language_model=LanguageModelConfig(
            source=source, chat_template=HUMAN_ASSISTANT if is_linear else template
        ),
        image_marks=_MARKS if has_marks else None,
    )
    fit_embeddings(inner, sorted(set(tokenizer.get_vocab().values()) - known))
    inner.config.image_token_index = processor.image_token_id
    inner.config.image_seq_length = num_image_tokens(processor)
    inner.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return processor
