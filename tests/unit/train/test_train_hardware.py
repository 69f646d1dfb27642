"""What a run computes in: the recipe's word, the GPU's, or a trial of the CPU."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from medllava.model.shapes import ModelShape, read_shape
from medllava.recipe import Precision, load_recipe
from medllava.train import hardware
from medllava.train.hardware import choose_precision, try_bf16


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return replace(read_shape(load_recipe("debug").model), hidden_size=576, intermediate_size=1536)


def found(gain: float) -> Callable[[int, int], float]:
    return lambda width, wide: gain


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(0.03, Precision.FP32), (1.1, Precision.FP32), (4.0, Precision.BF16)],
)
def test_a_cpu_is_tried_and_only_a_clear_gain_counts(
    shape: ModelShape, monkeypatch: pytest.MonkeyPatch, gain: float, expected: Precision
) -> None:
    monkeypatch.setattr(hardware, "try_bf16", found(gain))
    choice = choose_precision(Precision.AUTO, shape, is_sharded=False)
    assert choice.precision is expected
    assert f"{gain:.1f} times" in choice.reason
    assert choose_precision(Precision.AUTO, None, is_sharded=False).precision is expected


def test_what_is_clear_is_not_tried(shape: ModelShape, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(width: int, wide: int) -> float:
        raise AssertionError("tried")

    monkeypatch.setattr(hardware, "try_bf16", refuse)
    small = replace(shape, hidden_size=48)
    assert choose_precision(Precision.AUTO, small, is_sharded=False).precision is Precision.FP32
    assert choose_precision(Precision.AUTO, shape, is_sharded=True).precision is Precision.FP32
    for asked in (Precision.BF16, Precision.FP32):
        assert choose_precision(asked, shape, is_sharded=False).precision is asked


def test_the_trial_runs_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    gain = try_bf16(128, 256)
    assert 0 < gain < 1000
    assert torch.equal(torch.get_rng_state(), before)
