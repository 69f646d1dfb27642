"""Sizes of a model's parts, read from configurations alone.

The plan works on these, so that a 7B run can be planned on a laptop without its weights. A part's
configuration is looked for in its folder, then in the recipe's own `config` table, then on the hub.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.errors import SetupError
from medllava.layout import MODEL_CONFIG_FILE
from medllava.recipe import LanguageModelConfig, ModelConfig, VisionEncoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model's parts, read from configurations alone (`model.shapes.read_shape`)."""

    hidden_size: int
    """Width of the language model."""
    num_layers: int
    query_width: int
    """Attention heads times head width."""
    key_width: int
    """Key-value heads times head width."""
    intermediate_size: int
    vocab_size: int
    layer_parameters: int
    """Weight matrices of all layers of the language model: what every token is multiplied with."""
    language_parameters: int
    """All of the language model, embeddings and head included."""
    projector_parameters: int
    encoder_parameters: int
    encoder_width: int
    encoder_layers: int
    encoder_tokens: int
    """Tokens the encoder works on per image, class token included."""
    num_image_tokens: int
    """Tokens one image takes in the language model."""

    @property
    def num_parameters(self) -> int:
        """All parameters of the model."""
        return self.language_parameters + self.projector_parameters + self.encoder_parameters


def read_shape(config: ModelConfig) -> ModelShape:
    """Measure the model a recipe describes on torch's meta device, which holds no weights.

    Raises:
        RecipeError: transformers refuses the values of a `config` table.
        SetupError: a part's configuration is neither at its source nor in the recipe.
    """
    import torch  # noqa: PLC0415 - only this function needs it; the plan itself does not
    from transformers import AutoModel, AutoModelForCausalLM  # noqa: PLC0415

    from medllava.model.tiny import random_part_config  # noqa: PLC0415

    text = random_part_config(
        part_values(config.language_model, key="model.language_model"),
        key="model.language_model.config",
    )
    vision = random_part_config(
        part_values(config.vision_encoder, key="model.vision_encoder"),
        key="model.vision_encoder.config",
    )
    vision.image_size = config.vision_encoder.image_size or vision.image_size
    with torch.device("meta"):
        language_model: Any = AutoModelForCausalLM.from_config(text)
        encoder: Any = AutoModel.from_config(vision)
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    patches = (vision.image_size // vision.patch_size) ** 2
    prefix = 0 if vision.model_type == "siglip_vision_model" else 1
    prefix += int(getattr(vision, "num_register_tokens", 0))
    dropped = 1 if config.vision_encoder.feature_select.value == "default" else 0
    embeddings = language_model.get_input_embeddings()
    inside = [p for p in language_model.parameters() if p.dim() == 2]
    tables = {id(embeddings.weight), id(language_model.get_output_embeddings().weight)}
    return ModelShape(
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        query_width=heads * head_width,
        key_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        intermediate_size=text.intermediate_size,
        vocab_size=text.vocab_size,
        layer_parameters=sum(p.numel() for p in inside if id(p) not in tables),
        language_parameters=sum(p.numel() for p in language_model.parameters()),
        projector_parameters=(vision.hidden_size + 1) * text.hidden_size
        + (text.hidden_size + 1) * text.hidden_size,
        encoder_parameters=sum(p.numel() for p in encoder.parameters()),
        encoder_width=vision.hidden_size,
        encoder_layers=vision.num_hidden_layers,
        encoder_tokens=patches + prefix,
        num_image_tokens=patches + prefix - dropped,
    )


def part_values(part: LanguageModelConfig | VisionEncoderConfig, *, key: str) -> dict[str, Any]:
    """Return a part's configuration values with their `model_type`.

    Args:
        part: the recipe's.
        key: its dotted path, for the error.

    Raises:
        SetupError: they are nowhere to be found.
    """
    folder = Path(part.source)
    if (folder / MODEL_CONFIG_FILE).is_file():
        values = json.loads((folder / MODEL_CONFIG_FILE).read_text(encoding="utf-8"))
    elif part.config:
        values = part.config
    else:
        values = _hub_values(part.source, key=key)
    inner = values.get("vision_config")
    if isinstance(part, VisionEncoderConfig) and isinstance(inner, dict):
        kind = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
        values = {"model_type": kind.get(values["model_type"], ""), **inner}
    return dict(values)


def _hub_values(source: str, *, key: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - not needed for local parts
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        path = hf_hub_download(source, MODEL_CONFIG_FILE)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(
            f"no configuration of {source!r}: {reason} ({key}.source). Name a folder that has its "
            f"config.json, or put its values into the recipe's [{key}.config]."
        ) from None
    values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return values
