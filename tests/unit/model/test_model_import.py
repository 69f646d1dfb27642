"""Older LLaVA layouts become native models with the same logits as a direct computation."""

import json
from pathlib import Path

import pytest
import torch
from model_factory import (
    HIDDEN,
    VOCAB,
    WIDTH,
    noise_image,
    old_layout,
    tiny_clip,
    tiny_mistral,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from medllava.errors import SetupError
from medllava.model.import_llava_med import add_delta, import_llava
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel

V15 = {
    "model_type": "llava_mistral",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
    "mm_use_im_start_end": False,
}


def mlp() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))


@torch.no_grad()
def direct_logits(
    projector: nn.Module,
    pixels: Tensor,
    before: Tensor,
    after: Tensor,
    language_model: PreTrainedModel,
) -> Tensor:
    """Compute what the reference's model computes, from its parts alone."""
    states = tiny_clip()(pixel_values=pixels, output_hidden_states=True).hidden_states
    image = projector(states[-2][:, 1:])
    embed = language_model.get_input_embeddings()
    embeddings = torch.cat([embed(before)[None], image, embed(after)[None]], dim=1)
    return language_model(inputs_embeds=embeddings).logits


def check_same(
    loaded: LoadedModel, projector: nn.Module, language_model: PreTrainedModel | None = None
) -> None:
    processor, model = loaded.processor, loaded.model
    pixels = processor.image_processor([noise_image()], return_tensors="pt")["pixel_values"]
    before, after = torch.tensor([5, 9, 11]), torch.tensor([20, 30])
    image = torch.full((4,), model.config.image_token_id)
    input_ids = torch.cat([before, image, after])[None]
    with torch.no_grad():
        logits = model(input_ids=input_ids, pixel_values=pixels).logits[..., :VOCAB]
    # Worst case measured: 0 (the same operations in the same order). The image token's own column
    # is left out: its row is new, and no reply contains it.
    columns = torch.arange(VOCAB) != model.config.image_token_id
    expected = direct_logits(projector, pixels, before, after, language_model or tiny_mistral())
    assert torch.allclose(logits[..., columns], expected[..., columns], atol=1e-5)


def test_v15_checkpoint_gives_the_logits_of_a_direct_computation(tmp_path: Path) -> None:
    projector = mlp()
    tensors = old_layout(tiny_mistral(), tiny_clip(), projector.state_dict())
    folder = write_checkpoint(tmp_path / "v15", tensors, V15)
    loaded = load_model(str(folder), device="cpu")
    check_same(loaded, projector)
    assert loaded.processor.image_processor.do_pad
    assert "own" in loaded.notes[0]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": "<image>\nWhat?"}], add_generation_prompt=True
    )
    assert text.endswith("[INST] <image>\nWhat? [/INST]")
    text_config = loaded.model.config.text_config
    assert text_config.rope_parameters["rope_theta"] == 10.0
    assert text_config.architectures == ["MistralForCausalLM"]


def test_vision_weights_that_differ_from_the_stock_encoder_are_reported(tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    tiny_clip().save_pretrained(stock)
    tower = tiny_clip()
    with torch.no_grad():
        tower.get_parameter(
            next(n for n, _ in tower.named_parameters() if n.endswith("post_layernorm.bias"))
        ).add_(0.5)
    tensors = old_layout(tiny_mistral(), tower, mlp().state_dict())
    config = {**V15, "mm_vision_tower": str(stock)}
    folder = write_checkpoint(tmp_path / "v15", tensors, config)
    loaded = import_llava(str(folder), dtype=torch.float32, attention="sdpa")
    assert "1 of " in loaded.notes[0]
    assert "at most 0.5" in loaded.notes[0]


def test_checkpoint_without_tower_takes_the_stock_encoder(tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    tiny_clip().save_pretrained(stock)
    projector = mlp()
    tensors = old_layout(tiny_mistral(), None, projector.state_dict())
    config = {**V15, "mm_vision_tower": str(stock)}
    folder = write_checkpoint(tmp_path / "v15", tensors, config)
    loaded = import_llava(str(folder), dtype=torch.float32, attention="sdpa")
    check_same(loaded, projector)
    assert "no vision weights" in loaded.notes[0]


def test_v1_single_linear_projector_is_exact(tmp_path: Path) -> None:
    torch.manual_seed(2)
    projector = nn.Linear(WIDTH, HIDDEN)
    tensors = old_layout(tiny_mistral(), tiny_clip(), projector.state_dict())
    config = {**V15, "mm_use_im_start_end": True, "image_aspect_ratio": "square"}
    folder = write_checkpoint(tmp_path / "v1", tensors, config)
    loaded = import_llava(str(folder), dtype=torch.float32, attention="sdpa")
    check_same(loaded, projector)
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "image"}]}]
    )
    assert "### Human: Q\n<im_start><image><im_end>\n" in text


def test_marks_that_the_tokenizer_lacks_stop_the_import(tmp_path: Path) -> None:
    tensors = old_layout(tiny_mistral(), tiny_clip(), nn.Linear(WIDTH, HIDDEN).state_dict())
    folder = write_checkpoint(tmp_path / "v1", tensors, V15)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "mm_use_im_start_end": True}))
    with pytest.raises(SetupError, match="<im_end> and <im_start>, which the tokenizer lacks"):
        load_model(str(folder), device="cpu")


def test_llama_checkpoint_of_llava_15_speaks_vicuna_and_keeps_its_rotary_scaling(
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        )
    ).eval()
    projector = mlp()
    tensors = old_layout(language_model, tiny_clip(), projector.state_dict())
    folder = write_checkpoint(tmp_path / "v15", tensors, {**V15, "model_type": "llava_llama"})
    values = json.loads((folder / "config.json").read_text())
    values |= {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
    values |= {"num_key_value_heads": 4}
    (folder / "config.json").write_text(json.dumps(values))
    loaded = load_model(str(folder), device="cpu")
    check_same(loaded, projector, language_model)
    text = loaded.processor.apply_chat_template([{"role": "user", "content": "<image>\nWhat?"}])
    assert text.endswith("USER: <image>\nWhat? ")


def test_delta_is_added_to_its_base_on_the_rows_they_share(tmp_path: Path) -> None:
    projector = nn.Linear(WIDTH, HIDDEN)
    target = old_layout(tiny_mistral(), tiny_clip(), projector.state_dict())
    rows = VOCAB - 4
    base = {n: torch.randn_like(t) for n, t in tiny_mistral().state_dict().items()}
    delta = {n: t - base[n] if n in base else t for n, t in target.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        base[name] = base[name][:rows]
        delta[name] = torch.cat([target[name][:rows] - base[name], target[name][rows:]])
    config = {**V15, "mm_use_im_start_end": True}
    delta_folder = write_checkpoint(tmp_path / "med-delta", delta, config)
    base_folder = write_checkpoint(tmp_path / "base", base, {})
    loaded = load_model(f"{delta_folder}+{base_folder}", device="cpu")
    check_same(loaded, projector)


def test_delta_and_base_of_different_models_are_refused_by_name() -> None:
    delta = {"model.norm.weight": torch.zeros(4), "model.layers.0.w": torch.zeros(2, 2)}
    with pytest.raises(SetupError, match=r"not in the base: model\.norm\.weight"):
        add_delta(delta, {"model.layers.0.w": torch.zeros(2, 2)}, source="delta")


def test_delta_without_base_says_what_to_type() -> None:
    with pytest.raises(SetupError, match=r"med-delta\+BASE"):
        load_model("some/med-delta", device="cpu")


@pytest.mark.parametrize(
    ("lost", "added", "message"),
    [
        ("model.norm.weight", None, "missing: .*norm.weight"),
        (None, "model.layers.9.odd.weight", "unexpected: .*odd.weight"),
        ("model.mm_projector.2.bias", None, "missing: .*linear_2.bias"),
        ("model.mm_projector.0.weight", None, "no projector"),
    ],
)
def test_missing_and_left_over_weights_stop_the_import_by_name(
    tmp_path: Path, lost: str | None, added: str | None, message: str
) -> None:
    tensors = old_layout(tiny_mistral(), tiny_clip(), mlp().state_dict())
    if lost:
        del tensors[lost]
    if added:
        tensors[added] = torch.zeros(2)
    folder = write_checkpoint(tmp_path / "broken", tensors, V15)
    with pytest.raises(SetupError, match=message):
        load_model(str(folder), device="cpu")


def test_sharded_checkpoint_with_a_lost_file_is_refused(tmp_path: Path) -> None:
    tensors = old_layout(tiny_mistral(), tiny_clip(), mlp().state_dict())
    folder = write_checkpoint(tmp_path / "v15", tensors, V15)
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    half = len(names) // 2
    files = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, keys in files.items():
        save_file({k: whole[k] for k in keys}, folder / file)
    index = {"weight_map": {k: file for file, keys in files.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_same(load_model(str(folder), device="cpu"), mlp())
    (folder / "b.safetensors").unlink()
    with pytest.raises(SetupError, match=r"b\.safetensors is missing"):
        load_model(str(folder), device="cpu")
