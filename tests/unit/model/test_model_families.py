"""Language models of many families become one native model, or are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, SiglipConfig, SiglipModel

from medllava.errors import RecipeError, SetupError
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import (
    FeatureSelect,
    LanguageModelConfig,
    ModelConfig,
    VisionEncoderConfig,
    load_recipe,
)

DEBUG = load_recipe("debug").model
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def build(model_type: str, **values: Any) -> LoadedModel:
    config = {"model_type": model_type, **SIZES, **values}
    text = LanguageModelConfig(source="random", config=config)
    return build_model(replace(DEBUG, language_model=text), seed=0)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    image = torch.full((1, model.config.image_seq_length), model.config.image_token_index)
    words = torch.arange(4, 12)[None]
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return model(input_ids=torch.cat([words, image, words], dim=1), pixel_values=pixels).logits


@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
        ("gemma", {"head_dim": 12}),
        ("gemma3_text", {"head_dim": 12}),
        ("phi3", {"pad_token_id": 0}),
    ],
)
def test_saved_family_loads_as_the_same_model_in_transformers(
    tmp_path: Path, model_type: str, values: dict[str, Any]
) -> None:
    loaded = build(model_type, **values)
    expected = logits(loaded.model)
    save_model(loaded, tmp_path)
    assert torch.equal(logits(load_model(str(tmp_path), device="cpu").model), expected)
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(logits(bare.eval()), expected, atol=1e-6)
    assert bare.config.text_config.architectures is not None


@pytest.mark.parametrize(
    ("model_type", "values", "message"),
    [
        ("phi", {}, "adds a bias to its logits"),
        ("gpt2", {"n_embd": 48, "n_layer": 2, "n_head": 4}, "word embeddings elsewhere"),
        ("gemma2", {"head_dim": 12}, "caps its logits"),
    ],
)
def test_family_the_native_class_cannot_hold_is_refused_by_name(
    model_type: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        build(model_type, **values)


def test_sizes_that_do_not_fit_together_are_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match=r"model\.language_model\.config"):
        build("llama", pad_token_id=4000)


def test_weights_carry_the_names_that_servers_read(tmp_path: Path) -> None:
    """The four prefixes of vLLM's and SGLang's LLaVA, CLIP with its inner `vision_model`."""
    save_model(build("llama"), tmp_path, dtype=torch.bfloat16)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    prefixes = (
        "language_model.model.",
        "language_model.lm_head.",
        "multi_modal_projector.linear_",
        "vision_tower.vision_model.",
    )
    assert all(name.startswith(prefixes) for name in names)
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names


def test_whole_siglip2_gives_its_image_half(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    whole = SiglipModel(
        SiglipConfig(
            text_config={**sizes, "intermediate_size": 64, "vocab_size": 99},
            vision_config={**sizes, "intermediate_size": 64, "image_size": 28, "patch_size": 14},
        )
    ).eval()
    whole.save_pretrained(tmp_path / "siglip2")
    vision = VisionEncoderConfig(
        source=str(tmp_path / "siglip2"), feature_select=FeatureSelect.FULL, feature_layer=-1
    )
    config = ModelConfig(vision_encoder=vision, language_model=DEBUG.language_model)
    loaded = build_model(config, seed=0)
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        own = whole.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        tower = loaded.model.model.vision_tower
        got = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(own, got)
    assert loaded.processor.image_processor.image_mean == (0.5, 0.5, 0.5)
    expected = loaded.model.state_dict()
    save_model(loaded, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), device="cpu").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())
