"""Adapters change nothing until they learn, and are merged exactly."""

import importlib.util
from pathlib import Path

import pytest
import torch
from model_factory import noise_image
from torch import Tensor

from medllava.errors import SetupError
from medllava.model.adapter import (
    attach_adapter,
    has_adapter,
    is_adapter_parameter,
    merge_adapter,
    merged_state_dict,
    save_adapter,
)
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.quantize import quantize_language_model
from medllava.recipe import load_recipe

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is an extra: medllava[lora]"
)
# Worst case measured: 1e-7. A wrong scale (alpha for alpha / rank) moves logits by 1e-2.
TOLERANCE = 2e-6


def build() -> LoadedModel:
    return build_model(load_recipe("debug").model, seed=0)


def adapted() -> LoadedModel:
    loaded = build()
    attach_adapter(loaded.model, rank=4, alpha=8, seed=1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if is_adapter_parameter(name):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return loaded


def merged(loaded: LoadedModel) -> LoadedModel:
    whole = build()
    whole.model.load_state_dict(merged_state_dict(loaded.model))
    return whole


@torch.no_grad()
def logits(loaded: LoadedModel) -> Tensor:
    inputs = loaded.processor(
        text=["<image>What is it?"], images=[noise_image()], return_tensors="pt"
    )
    return loaded.model(**inputs).logits


def test_fresh_adapter_changes_nothing_and_only_it_belongs_to_the_language_model() -> None:
    loaded = build()
    before = logits(loaded)
    attach_adapter(loaded.model, rank=4, alpha=8)
    assert torch.equal(logits(loaded), before)
    names = [n for n, _ in loaded.model.named_parameters() if is_adapter_parameter(n)]
    assert names
    assert all(".language_model." in name for name in names)
    per_layer = {name.split(".layers.0.")[1] for name in names if ".layers.0." in name}
    assert {n.split(".lora_")[0] for n in per_layer} == {
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    }


def test_merged_model_computes_what_the_adapted_one_does() -> None:
    loaded = adapted()
    before = logits(loaded)
    loaded = merged(loaded)
    assert not has_adapter(loaded.model)
    assert loaded.model.state_dict().keys() == build().model.state_dict().keys()
    assert torch.allclose(logits(loaded), before, atol=TOLERANCE)
    assert not torch.allclose(logits(build()), before, atol=1e-3)


def test_saved_checkpoint_is_whole_and_native(tmp_path: Path) -> None:
    loaded = adapted()
    before = logits(loaded)
    save_model(loaded, tmp_path)
    assert has_adapter(loaded.model)
    assert not (tmp_path / "adapter_config.json").exists()
    again = load_model(str(tmp_path), device="cpu")
    assert torch.allclose(logits(again), before, atol=TOLERANCE)


def learned(folder: Path, *, base: str = "runs/stage1") -> LoadedModel:
    """Save an adapter, and a projector that learned beside it; return the model that has them."""
    loaded = adapted()
    for name, parameter in loaded.model.named_parameters():
        is_projector = "multi_modal_projector" in name
        parameter.requires_grad_(is_adapter_parameter(name) or is_projector)
        if is_projector:
            parameter.data.add_(0.01)
    save_adapter(loaded.model, folder, base=base)
    return loaded


def test_an_adapter_saved_apart_gives_the_same_model_through_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    loaded = learned(tmp_path)
    wanted = merged_state_dict(loaded.model)
    with torch.no_grad():
        plain = PeftModel.from_pretrained(build().model, str(tmp_path))
        inputs = loaded.processor(
            text=["<image>What is it?"], images=[noise_image()], return_tensors="pt"
        )
        assert torch.allclose(plain(**inputs).logits, logits(loaded), atol=TOLERANCE)
    found = merge_adapter(build().model, tmp_path).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_an_adapter_folder_loads_as_a_checkpoint_on_its_model(tmp_path: Path) -> None:
    base, apart = tmp_path / "base", tmp_path / "apart"
    save_model(build(), base)
    loaded = learned(apart, base=str(base))
    for source in (str(apart), f"{apart}+{base}"):
        again = load_model(source, device="cpu")
        assert torch.allclose(logits(again), logits(loaded), atol=TOLERANCE)
        assert again.source == source


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    learned(tmp_path)
    wider = ["model.language_model.config.hidden_size=64"]
    other = build_model(load_recipe("debug", overrides=wider).model, seed=0)
    with pytest.raises(SetupError, match="does not fit the model it is put on"):
        merge_adapter(other.model, tmp_path)
    deeper = ["model.language_model.config.num_hidden_layers=1"]
    other = build_model(load_recipe("debug", overrides=deeper).model, seed=0)
    with pytest.raises(SetupError, match="does not fit the model it is put on"):
        merge_adapter(other.model, tmp_path)


def test_no_pickle_is_read_in_an_adapters_place(tmp_path: Path) -> None:
    learned(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(SetupError, match=r"no adapter_model\.safetensors"):
        merge_adapter(build().model, tmp_path)


needs_4bit = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is an extra: medllava[quantize]",
)


def quantized() -> LoadedModel:
    loaded = build()
    num_layers = quantize_language_model(loaded.model, compute_dtype=torch.float32)
    assert num_layers == 2 * 7
    attach_adapter(loaded.model, rank=4, alpha=8, seed=1)
    for name, parameter in loaded.model.named_parameters():
        learns = is_adapter_parameter(name) or "multi_modal_projector" in name
        parameter.requires_grad_(learns)
    return loaded


@needs_4bit
def test_adapter_and_projector_learn_on_a_frozen_4bit_base_and_are_merged(tmp_path: Path) -> None:
    loaded = quantized()
    model = loaded.model
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert {p.dtype for n, p in base.items() if "proj.base_layer" in n} == {torch.uint8}
    inputs = loaded.processor(
        text=["<image>What is it?"], images=[noise_image()], return_tensors="pt"
    )
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    model.train()
    losses = []
    for _ in range(16):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    after = dict(model.named_parameters())
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())
    model.eval()
    before = logits(loaded)
    save_model(loaded, tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    # The merged weights are the unpacked ones plus the adapter, in full precision: 1e-5 measured.
    assert torch.allclose(logits(again), before, atol=1e-3)
    assert not torch.allclose(logits(again), logits(build()), atol=1e-2)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}


@needs_4bit
def test_4bit_layers_answer_alike_in_training_and_evaluation_on_every_processor() -> None:
    loaded = quantized()  # some sizes are not divisible by 32, which one CPU kernel would want
    loaded.model.train()
    in_training = logits(loaded)
    loaded.model.eval()
    assert torch.equal(logits(loaded), in_training)


@needs_4bit
def test_merging_in_memory_unpacks_the_4bit_weights() -> None:
    loaded = quantized()
    before = logits(loaded)
    loaded = merged(loaded)
    assert loaded.model.state_dict().keys() == build().model.state_dict().keys()
    assert torch.allclose(logits(loaded), before, atol=1e-3)
