"""The projector's steps, taken as if the features it is given were standardized.

Adam moves every weight equally far. Where channels of the features differ 30-fold in size and lie
far from zero (DINOv2 before its last norm), a step of `linear_1` follows the largest of them, which
hardly change from picture to picture, and what tells pictures apart is learned last. With
x = mean + deviation * z, `linear_1` is W x + b = V z + c, V = W * deviation, c = b + W mean: the
optimizer is given the gradients of V and c, and its steps of V and c are carried back to W and b.
The model stays the native one throughout, as do its checkpoints.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medllava.train.optimizer import round_at_random

_KEY = "feature_statistics"
"""In the optimizer's first group, so that a run that goes on takes the steps it took before."""


def standardize_steps(
    optimizer: Optimizer, linear: nn.Linear, statistics: tuple[Tensor, Tensor]
) -> None:
    """Let an optimizer of `linear` see standardized inputs.

    Args:
        optimizer: AdamW of torch or of `train.optimizer`, which holds both parameters of `linear`.
        linear: of in_features E, with a bias.
        statistics: mean and deviation of its inputs, (E,) each.
    """
    optimizer.param_groups[0][_KEY] = statistics
    steps = _Steps(linear)
    optimizer.register_step_pre_hook(steps.before)
    optimizer.register_step_post_hook(steps.after)


class _Steps:
    def __init__(self, linear: nn.Linear) -> None:
        self._weight, self._bias = linear.weight, linear.bias
        self._old = torch.empty(0)

    @torch.no_grad()
    def before(self, optimizer: Optimizer, *_: object) -> None:
        """Replace the gradients of W and b by those of V and c."""
        mean, deviation = _statistics_of(optimizer, self._weight)
        self._old = _full(optimizer, self._weight).clone()
        slope, shift = self._weight.grad, self._bias.grad
        assert slope is not None  # noqa: S101 - both learn, or neither is in the optimizer
        assert shift is not None  # noqa: S101
        slope.copy_((slope.float() - torch.outer(shift.float(), mean)) / deviation)

    @torch.no_grad()
    def after(self, optimizer: Optimizer, *_: object) -> None:
        """Carry the steps of V and c back to W and b."""
        mean, deviation = _statistics_of(optimizer, self._weight)
        decayed = self._old * (1 - _decay(optimizer, self._weight))
        moved = _full(optimizer, self._weight)
        weight = decayed + (moved - decayed) / deviation
        shift = _full(optimizer, self._bias) + (self._old - weight) @ mean
        for parameter, value in ((self._weight, weight), (self._bias, shift)):
            master = optimizer.state[parameter].get("master")
            if master is not None:
                master.copy_(value)
            if master is None and parameter.dtype == torch.bfloat16:
                round_at_random(parameter, value)
            else:
                parameter.copy_(value)


def _full(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """Return a parameter in fp32: its master copy, where the optimizer has one."""
    master: Tensor | None = optimizer.state.get(parameter, {}).get("master")
    return parameter.detach().float() if master is None else master


def _statistics_of(optimizer: Optimizer, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = optimizer.param_groups[0][_KEY]
    return mean.to(like.device), deviation.to(like.device)


def _decay(optimizer: Optimizer, parameter: Tensor) -> float:
    """Return what share of a parameter AdamW takes away in this step."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    (group,) = (g for g in groups if any(p is parameter for p in g["params"]))
    return float(group["lr"] * group["weight_decay"])
