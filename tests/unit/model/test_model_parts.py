"""Parts become one native model that transformers alone can load."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_factory import noise_image, tiny_clip, tiny_mistral
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    GraniteConfig,
    GraniteForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from medllava.errors import RecipeError, SetupError
from medllava.model.load import load_model, save_model
from medllava.model.parts import build_model
from medllava.model.processor import num_image_tokens
from medllava.model.standardize import selected_features
from medllava.model.tiny import build_tiny_tokenizer
from medllava.model.vision import resize_positions
from medllava.recipe import (
    FeatureSelect,
    LanguageModelConfig,
    ModelConfig,
    ProjectorConfig,
    VisionEncoderConfig,
    load_recipe,
)

DEBUG = load_recipe("debug").model


def local_language_model(folder: Path) -> LanguageModelConfig:
    tiny_mistral().save_pretrained(folder)
    build_tiny_tokenizer(vocab_size=512).save_pretrained(folder)
    return LanguageModelConfig(source=str(folder))


def answer(folder: Path) -> str:
    loaded = load_model(str(folder), device="cpu")
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = loaded.processor(text=[text], images=[noise_image()], return_tensors="pt")
    out = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.decode(new, skip_special_tokens=True)


def test_debug_recipe_builds_the_same_model_twice() -> None:
    first, second = (build_model(DEBUG, seed=3).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(DEBUG, seed=4).model.state_dict()
    assert not torch.equal(
        first["model.multi_modal_projector.linear_1.weight"],
        other["model.multi_modal_projector.linear_1.weight"],
    )


def test_saved_model_answers_the_same_in_a_bare_transformers_process(tmp_path: Path) -> None:
    save_model(build_model(DEBUG, seed=0), tmp_path)
    noise_image().save(tmp_path / "image.png")
    script = (
        "import sys\n"
        "from transformers import pipeline\n"
        "pipe = pipeline('image-text-to-text', model=sys.argv[1], device='cpu')\n"
        "content = [{'type': 'image', 'image': sys.argv[2]}, "
        "{'type': 'text', 'text': 'What is it?'}]\n"
        "out = pipe(text=[{'role': 'user', 'content': content}], return_full_text=False,"
        " generate_kwargs={'max_new_tokens': 8, 'do_sample': False})\n"
        "assert not any(name.startswith('medllava') for name in sys.modules)\n"
        "print('ANSWER', repr(out[0]['generated_text']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "image.png")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=True,
    )
    assert f"ANSWER {answer(tmp_path)!r}" in result.stdout


def test_a_model_of_bf16_parts_keeps_its_rotary_frequencies_in_fp32() -> None:
    whole, half = (
        build_model(DEBUG, seed=0, dtype=d).model for d in (torch.float32, torch.bfloat16)
    )
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    buffers = dict(half.named_buffers())
    for name, buffer in whole.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_saving_in_bf16_leaves_the_model_in_memory_alone(tmp_path: Path) -> None:
    loaded = build_model(DEBUG, seed=0)
    save_model(loaded, tmp_path, dtype=torch.bfloat16)
    assert loaded.model.dtype is torch.float32
    saved = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(str(tmp_path), device="cpu", dtype="bf16").model.dtype is torch.bfloat16


def test_missing_and_left_over_weights_stop_the_load_by_name(tmp_path: Path) -> None:
    save_model(build_model(DEBUG, seed=0), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if "linear_1.weight" in name)
    del tensors[lost]
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"missing: .*linear_1\.weight.*unexpected: extra\.weight"):
        load_model(str(tmp_path), device="cpu")


def test_language_model_weights_that_do_not_fit_stop_the_build(tmp_path: Path) -> None:
    config = local_language_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"missing: model\.norm\.weight"):
        build_model(replace(DEBUG, language_model=config), seed=0)


def test_new_token_rows_start_as_the_mean_and_old_rows_stay(tmp_path: Path) -> None:
    config = local_language_model(tmp_path)
    tokens = len(build_tiny_tokenizer(vocab_size=512))
    loaded = build_model(replace(DEBUG, language_model=config), seed=0)
    old = tiny_mistral().get_input_embeddings().weight
    new = loaded.model.get_input_embeddings().weight
    image = loaded.model.config.image_token_id
    assert image == tokens
    assert torch.equal(new[:image], old[:image])
    assert torch.allclose(new[image], old.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "select"),
    [
        ("clip", FeatureSelect.DEFAULT),
        ("siglip", FeatureSelect.FULL),
        ("dinov2", FeatureSelect.FULL),
        ("dinov2", FeatureSelect.DEFAULT),
        ("vit", FeatureSelect.DEFAULT),
    ],
)
def test_every_kind_of_encoder_fills_exactly_its_image_tokens(
    tmp_path: Path, kind: str, select: FeatureSelect
) -> None:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    if kind == "clip":  # the whole CLIP, as on the hub: its text half is left out
        whole = CLIPConfig(vision_config={**sizes, "intermediate_size": 64})
        whole.text_config.hidden_size, whole.text_config.num_hidden_layers = 32, 1
        whole.text_config.num_attention_heads, whole.text_config.vocab_size = 2, 99
        CLIPModel(whole).save_pretrained(tmp_path)
    else:
        make = {
            "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**sizes, intermediate_size=64)),
            "dinov2": lambda: Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2)),
            "vit": lambda: ViTModel(ViTConfig(**sizes, intermediate_size=64)),
        }
        make[kind]().save_pretrained(tmp_path)
    vision = VisionEncoderConfig(source=str(tmp_path), image_size=42, feature_select=select)
    loaded = build_model(replace(DEBUG, vision_encoder=vision), seed=0)
    prefix = 0 if kind == "siglip" or select is FeatureSelect.DEFAULT else 1
    assert num_image_tokens(loaded.processor) == 9 + prefix
    inputs = loaded.processor(text=["<image>a"], images=[noise_image()], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 42, 42)
    assert loaded.model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_resized_encoder_gives_what_interpolating_at_run_time_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Dinov2Model(
        Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=98, patch_size=14
        )
    ).eval()
    encoder.save_pretrained(tmp_path)
    vision = VisionEncoderConfig(
        source=str(tmp_path), image_size=42, feature_layer=-1, feature_select=FeatureSelect.FULL
    )
    loaded = build_model(replace(DEBUG, vision_encoder=vision), seed=0)
    pixels = torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        expected = encoder(pixels, output_hidden_states=True).hidden_states[-1]
        got = loaded.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(got, expected, atol=1e-5)


def test_prefix_positions_survive_resampling() -> None:
    positions = torch.randn(1, 2 + 16, 8)
    resized = resize_positions(positions, side=3, num_prefix=2)
    assert resized.shape == (1, 11, 8)
    assert torch.equal(resized[:, :2], positions[:, :2])
    assert torch.allclose(resize_positions(positions, side=4, num_prefix=2), positions, atol=1e-6)


def test_image_size_that_splits_a_patch_is_refused() -> None:
    vision = replace(DEBUG.vision_encoder, image_size=30)
    with pytest.raises(SetupError, match="no multiple of the patch size 14"):
        build_model(replace(DEBUG, vision_encoder=vision), seed=0)


def test_class_token_that_is_not_there_cannot_be_dropped() -> None:
    config = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    vision = VisionEncoderConfig(source="random", config=config)
    with pytest.raises(SetupError, match="no class token"):
        build_model(replace(DEBUG, vision_encoder=vision), seed=0)


def test_language_model_that_the_native_class_cannot_express_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=4.0,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    build_tiny_tokenizer(vocab_size=512).save_pretrained(tmp_path)
    text = LanguageModelConfig(source=str(tmp_path))
    with pytest.raises(SetupError, match="other logits than alone"):
        build_model(replace(DEBUG, language_model=text), seed=0)


def test_source_that_is_not_there_says_which_setting_to_change() -> None:
    text = LanguageModelConfig(source="./nowhere")
    with pytest.raises(SetupError, match=r"--set model\.language_model\.source=FOLDER"):
        build_model(replace(DEBUG, language_model=text), seed=0)
    vision = VisionEncoderConfig(source="./nowhere")
    with pytest.raises(SetupError, match=r"--set model\.vision_encoder\.source=FOLDER"):
        build_model(replace(DEBUG, vision_encoder=vision), seed=0)


def test_random_part_with_bad_values_is_a_recipe_error() -> None:
    text = replace(DEBUG.language_model, config={"hidden_size": 4})
    with pytest.raises(RecipeError, match=r"config\.model_type is missing"):
        build_model(replace(DEBUG, language_model=text), seed=0)


def test_standardised_features_arrive_at_the_scale_of_word_embeddings() -> None:
    projector = ProjectorConfig(standardize_features=True)
    images = [noise_image(seed) for seed in range(12)]
    loaded = build_model(replace(DEBUG, projector=projector), seed=0, calibration=images)
    model = loaded.model
    features = selected_features(model, loaded.processor, images)
    with torch.no_grad():
        first = model.model.multi_modal_projector.linear_1(features).flatten(0, 1)
        out = model.model.multi_modal_projector(features)
    weight = model.get_input_embeddings().weight
    assert torch.allclose(out.std(), weight.std(), rtol=0.02)
    plain = build_model(DEBUG, seed=0).model.model.multi_modal_projector.linear_1
    standard = (features - features.flatten(0, 1).mean(0)) / features.flatten(0, 1).std(0)
    assert torch.allclose(first, plain(standard).flatten(0, 1), atol=1e-4)


def test_saved_model_needs_no_code_of_ours(tmp_path: Path) -> None:
    save_model(build_model(DEBUG, seed=0), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert "auto_map" not in config
    assert not list(tmp_path.glob("*.py"))
    assert not list(tmp_path.glob(".saving-*"))
    assert AutoModel.from_pretrained(tmp_path).config.model_type == "llava"


def test_clip_tower_reloads_bit_by_bit(tmp_path: Path) -> None:
    tiny_clip().save_pretrained(tmp_path / "clip")
    vision = VisionEncoderConfig(source=str(tmp_path / "clip"))
    model = build_model(
        ModelConfig(vision_encoder=vision, language_model=DEBUG.language_model), seed=0
    )
    save_model(model, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), device="cpu").model.state_dict()
    state = model.model.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_a_model_that_was_loaded_is_saved_as_it_was(tmp_path: Path) -> None:
    """A run that goes on from a checkpoint leaves the files of one that was never stopped."""
    from medllava.model.load import load_model, save_model
    from medllava.recipe import load_recipe

    save_model(build_model(load_recipe("debug").model, seed=0), tmp_path / "fresh")
    save_model(load_model(str(tmp_path / "fresh")), tmp_path / "again")
    fresh, again = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("fresh", "again")
    )
    assert fresh.keys() == again.keys()
    assert [name for name in fresh if fresh[name] != again[name]] == []
