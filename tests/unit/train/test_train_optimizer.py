"""bf16 weights learn as well as fp32 ones, whatever keeps their small steps."""

import copy
import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from medllava.errors import RecipeError
from medllava.recipe import Optimizer, Precision, StageConfig, load_recipe
from medllava.train.optimizer import HalfAdamW, build_optimizer, parameter_groups, round_at_random
from medllava.train.settings import Settings, machine_settings

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is an extra: medllava[quantize]",
)
KINDS = [
    Optimizer.FP32_MASTERS,
    Optimizer.BF16_STOCHASTIC,
    pytest.param(Optimizer.EIGHT_BIT, marks=needs_bitsandbytes),
]


def half(kind: Optimizer) -> Settings:
    return Settings(
        world_size=1, precision=Precision.BF16, optimizer=kind, pack_length=64, zero_stage=0
    )


def drift(kind: Optimizer, *, steps: int = 200, lr: float = 1e-4) -> torch.Tensor:
    """Weights at 1 under a constant gradient: a step is a fortieth of what bf16 can tell."""
    layer = torch.nn.Linear(128, 64, bias=False).bfloat16()
    layer.weight.data.fill_(1.0)
    optimizer = build_optimizer(layer, StageConfig(learning_rate=lr), half(kind))
    for _ in range(steps):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    return layer.weight.detach().float()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_far_below_bf16s_resolution_are_not_lost(kind: Optimizer) -> None:
    torch.manual_seed(0)
    # AdamW under a constant gradient moves by the learning rate: 200 x 1e-4 = 0.02.
    assert float(drift(kind).mean()) == pytest.approx(0.98, abs=2e-3)


def test_masters_are_torchs_adamw_bit_by_bit() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(16, 16)
    plain.weight.data = plain.weight.data.bfloat16().float()
    plain.bias.data = plain.bias.data.bfloat16().float()
    ours = copy.deepcopy(plain).bfloat16()
    stage = StageConfig(learning_rate=1e-2, weight_decay=0.1)
    reference = torch.optim.AdamW(parameter_groups(plain, stage), lr=1e-2, fused=True)
    optimizer = build_optimizer(ours, stage, half(Optimizer.FP32_MASTERS))
    for _ in range(5):
        for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
            other.grad = torch.randn_like(other)
            one.grad = other.grad.float()
        reference.step()
        optimizer.step()
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(optimizer.state[other]["master"], one)
        assert torch.equal(other, one.bfloat16())


def test_the_recipe_says_how_long_adam_remembers() -> None:
    stage = StageConfig(learning_rate=1e-2, adam_beta2=0.95)
    full = torch.nn.Linear(8, 8)
    ours = copy.deepcopy(full).bfloat16()
    masters = half(Optimizer.FP32_MASTERS)
    plain = dataclasses.replace(masters, precision=Precision.FP32)
    for layer, settings in ((full, plain), (ours, masters)):
        optimizer = build_optimizer(layer, stage, settings)
        assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_bitwise(kind: Optimizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 64).bfloat16()
    grads = [[torch.randn_like(p) for p in layer.parameters()] for _ in range(6)]

    def run(
        layer: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: list, seed: int
    ) -> None:
        torch.manual_seed(seed)
        for step in steps:
            for parameter, grad in zip(layer.parameters(), step, strict=True):
                parameter.grad = grad
            optimizer.step()

    stage = StageConfig(learning_rate=1e-2)
    optimizer = build_optimizer(layer, stage, half(kind))
    run(layer, optimizer, grads[:3], 1)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    again = copy.deepcopy(layer)
    resumed = build_optimizer(again, stage, half(kind))
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    run(layer, optimizer, grads[3:], 2)
    run(again, resumed, grads[3:], 2)
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)


@needs_bitsandbytes
def test_eight_bit_moments_take_a_byte_each() -> None:
    layer = torch.nn.Linear(128, 64, bias=False).bfloat16()
    optimizer = HalfAdamW(
        parameter_groups(layer, StageConfig(learning_rate=1e-2)), lr=1e-2, kind=Optimizer.EIGHT_BIT
    )
    layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    state = optimizer.state[layer.weight]
    kept = sum(t.numel() * t.element_size() for t in state.values())
    assert kept < 2.2 * layer.weight.numel()


def test_rounding_at_random_keeps_the_mean_and_the_neighbours() -> None:
    torch.manual_seed(0)
    source = torch.full((100_000,), 1.0 + 1 / 512)  # between two bf16 numbers, a quarter up
    target = torch.empty_like(source, dtype=torch.bfloat16)
    round_at_random(target, source)
    assert set(target.float().tolist()) == {1.0, 1.0 + 1 / 128}
    assert float(target.float().mean()) == pytest.approx(float(source[0]), abs=1e-4)
    exact = torch.tensor([1.0, -2.0, 0.0, 3.140625])
    round_at_random(target[:4], exact)
    assert torch.equal(target[:4].float(), exact)


def test_the_projectors_own_learning_rate_is_used() -> None:
    model = torch.nn.ModuleDict(
        {name: torch.nn.Linear(4, 4) for name in ("multi_modal_projector", "language_model")}
    )
    stage = StageConfig(learning_rate=1e-5, projector_learning_rate=1e-3)
    rates = {
        id(p): group["lr"] for group in parameter_groups(model, stage) for p in group["params"]
    }
    assert {rates[id(p)] for p in model["multi_modal_projector"].parameters()} == {1e-3}
    assert {rates[id(p)] for p in model["language_model"].parameters()} == {1e-5}


@pytest.mark.parametrize(
    ("precision", "kind", "expected"),
    [
        (Precision.BF16, Optimizer.FP32_MASTERS, 12),
        (Precision.BF16, Optimizer.BF16_STOCHASTIC, 8),
        pytest.param(Precision.BF16, Optimizer.EIGHT_BIT, 2, marks=needs_bitsandbytes),
        (Precision.FP32, Optimizer.FP32_MASTERS, 8),
    ],
)
def test_the_plans_optimizer_bytes_are_what_the_optimizer_keeps(
    precision: Precision, kind: Optimizer, expected: int
) -> None:
    settings = Settings(world_size=1, precision=precision, optimizer=kind, pack_length=8)
    layer = torch.nn.Linear(256, 256, bias=False)
    layer = layer.bfloat16() if settings.is_half else layer
    optimizer = build_optimizer(layer, StageConfig(learning_rate=1e-3), settings)
    layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    kept = sum(t.numel() * t.element_size() for t in optimizer.state[layer.weight].values())
    assert settings.optimizer_bytes == expected
    assert kept / layer.weight.numel() == pytest.approx(expected, rel=0.02)


def test_settings_that_exclude_each_other_are_refused() -> None:
    recipe = load_recipe("debug", overrides=["train.optimizer=eight_bit"])
    options = {"has_cuda": False, "is_half": True}
    with pytest.raises(RecipeError, match=r"train\.optimizer=eight_bit is for one process"):
        machine_settings(recipe, recipe.stage.instruct, world_size=2, **options)
    short = load_recipe("debug", overrides=["data.pack_length=100"])
    with pytest.raises(RecipeError, match=r"data\.pack_length=100"):
        machine_settings(short, short.stage.instruct, world_size=1, **options)
