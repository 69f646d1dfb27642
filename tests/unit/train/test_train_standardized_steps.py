"""A folded projector learns what one behind standardized features learns."""

import copy

import pytest
import torch
from torch import Tensor, nn

from medllava.recipe import Optimizer, Precision, StageConfig
from medllava.train.optimizer import build_optimizer
from medllava.train.settings import Settings
from medllava.train.standardized_steps import standardize_steps

STAGE = StageConfig(learning_rate=1e-2, weight_decay=0.1)
WIDTH = 12


def settings(precision: Precision) -> Settings:
    return Settings(
        world_size=1,
        precision=precision,
        optimizer=Optimizer.FP32_MASTERS,
        pack_length=64,
        zero_stage=0,
    )


def folded(plain: nn.Linear, mean: Tensor, deviation: Tensor) -> nn.Linear:
    layer = copy.deepcopy(plain)
    with torch.no_grad():
        layer.weight.copy_(plain.weight / deviation)
        layer.bias.copy_(plain.bias - layer.weight @ mean)
    return layer


@pytest.mark.parametrize(("precision", "off"), [(Precision.FP32, 1e-4), (Precision.BF16, 5e-2)])
def test_steps_on_raw_features_are_those_on_standardized_ones(
    precision: Precision, off: float
) -> None:
    torch.manual_seed(0)
    mean, deviation = torch.randn(WIDTH), torch.logspace(-1, 1, WIDTH)
    z = torch.randn(64, WIDTH)
    wanted = z @ torch.randn(WIDTH, 8) + 1
    plain = nn.Linear(WIDTH, 8)
    ours = folded(plain, mean, deviation)
    if precision is Precision.BF16:
        ours = ours.bfloat16()
    reference = build_optimizer(plain, STAGE, settings(Precision.FP32))
    optimizer = build_optimizer(ours, STAGE, settings(precision))
    standardize_steps(optimizer, ours, (mean, deviation))
    for _ in range(30):
        for layer, given, steps in ((plain, z, reference), (ours, mean + deviation * z, optimizer)):
            loss = (layer(given.to(layer.weight.dtype)).float() - wanted).square().mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
    weight, bias = (optimizer.state[p].get("master", p) for p in (ours.weight, ours.bias))
    torch.testing.assert_close(weight * deviation, plain.weight, atol=off, rtol=0)
    torch.testing.assert_close(bias + weight @ mean, plain.bias, atol=off * 10, rtol=0)
    # Steps as Adam takes them on raw features end somewhere else: by 0.3 and more.


def test_a_run_that_goes_on_keeps_the_statistics_it_began_with() -> None:
    statistics = (torch.zeros(WIDTH), torch.ones(WIDTH))
    layer = nn.Linear(WIDTH, 8)
    optimizer = build_optimizer(layer, STAGE, settings(Precision.FP32))
    standardize_steps(optimizer, layer, statistics)
    again = build_optimizer(layer, STAGE, settings(Precision.FP32))
    standardize_steps(again, layer, (torch.ones(WIDTH), torch.ones(WIDTH)))
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.param_groups[0]["feature_statistics"][0], statistics[0])
