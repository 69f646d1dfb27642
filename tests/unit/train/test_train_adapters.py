"""A stage with an adapter: who learns, what stays, and what a resumed run goes on from."""

import importlib.util
from pathlib import Path

import pytest
import torch

from medllava.model.adapter import is_adapter_parameter, save_learned
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe
from medllava.records import Stage
from medllava.train.adapters import add_adapter, uses_adapter

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("peft", "bitsandbytes")),
    reason="peft and bitsandbytes are extras: medllava[lora,quantize]",
)
KINDS = ["lora", "qlora"]


def start(kind: str, *, resumed: Path | None = None) -> LoadedModel:
    settings = {"adapter": kind, "lora_rank": "4", "lora_alpha": "8", "lora_dropout": "0.0"}
    recipe = load_recipe(
        "debug", overrides=[f"stage.instruct.{k}={v}" for k, v in settings.items()]
    )
    loaded = build_model(recipe.model, seed=recipe.train.seed)
    add_adapter(loaded, recipe, Stage.INSTRUCT, resumed=resumed)
    return loaded


def train(loaded: LoadedModel, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        words = torch.randint(4, 300, (1, 12))
        image = torch.full((1, 4), loaded.processor.image_token_id)
        input_ids = torch.cat([image, words], dim=1)
        pixels = torch.randn(1, 3, 28, 28)
        loaded.model(input_ids=input_ids, pixel_values=pixels, labels=input_ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def optimizer_of(loaded: LoadedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_and_projector_learn_and_nothing_else(kind: str) -> None:
    loaded = start(kind)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    train(loaded, optimizer_of(loaded), range(2))
    for name, parameter in loaded.model.named_parameters():
        learns = is_adapter_parameter(name) or "multi_modal_projector" in name
        assert torch.equal(parameter, before[name]) is not learns, name


@pytest.mark.parametrize("kind", KINDS)
def test_six_steps_are_three_and_three_more_bit_by_bit(tmp_path: Path, kind: str) -> None:
    whole = start(kind)
    train(whole, optimizer_of(whole), range(6))
    first = start(kind)
    optimizer = optimizer_of(first)
    train(first, optimizer, range(3))
    save_learned(first.model, tmp_path)
    second = start(kind, resumed=tmp_path)
    continued = optimizer_of(second)
    continued.load_state_dict(optimizer.state_dict())
    train(second, continued, range(3, 6))
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in second.model.named_parameters())


def test_first_stage_never_has_an_adapter() -> None:
    recipe = load_recipe(
        "debug", overrides=["stage.align.adapter=lora", "stage.instruct.adapter=qlora"]
    )
    assert not uses_adapter(recipe, Stage.ALIGN)
    assert uses_adapter(recipe, Stage.INSTRUCT)
    assert not uses_adapter(recipe, Stage.FINETUNE)
