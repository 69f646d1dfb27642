"""AdamW for what learns, whatever its weights are kept in.

fp32 weights take torch's own. bf16 weights are too coarse for small steps: an update below a 256th
of a weight would be lost. Three ways keep it, by bytes per parameter: a master copy in fp32, from
which the bf16 weight is rounded; no copy, but rounding at random, right on average; and that with
Adam's moments in eight bits. All compute in fp32, one parameter at a time.

Sources: mixed precision with masters (Micikevicius et al. 2018, arXiv 1710.03740); stochastic
rounding for bf16 updates (Zamirai et al. 2020, arXiv 2010.06192); 8-bit moments (Dettmers et al.
2022, arXiv 2110.02861), quantized by bitsandbytes.
"""

# mypy: allow-untyped-calls
# bitsandbytes types its functions only in part

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from medllava.errors import SetupError
from medllava.recipe import Optimizer, StageConfig
from medllava.train.freezing import part_of
from medllava.train.settings import Settings
from medllava.train.stages import learning_rate_of

_WEIGHT_DECAY_FROM_RANK = 2
"""Vectors (norms, biases) are never decayed, matrices are."""
_QUANTIZED_FROM = 4096
"""Smaller tensors keep full moments: their blocks would be too few."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BETA1 = 0.9


def build_optimizer(
    model: nn.Module, stage: StageConfig, settings: Settings
) -> torch.optim.Optimizer:
    """Make AdamW with one learning rate per part; vectors are not decayed.

    Raises:
        SetupError: eight-bit moments are asked for and bitsandbytes is not installed.
    """
    groups = parameter_groups(model, stage)
    if not settings.is_half or settings.is_sharded:  # DeepSpeed keeps masters of its own
        return torch.optim.AdamW(groups, lr=stage.learning_rate, fused=True)
    if (
        settings.optimizer is Optimizer.EIGHT_BIT
        and importlib.util.find_spec("bitsandbytes") is None
    ):
        raise SetupError(
            "train.optimizer=eight_bit needs bitsandbytes. Install medllava[quantize]."
        )
    return HalfAdamW(groups, lr=stage.learning_rate, kind=settings.optimizer)


def parameter_groups(model: nn.Module, stage: StageConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: one per part that learns, decayed or not."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty shell
        decayed = len(shape) >= _WEIGHT_DECAY_FROM_RANK
        group = groups.setdefault(
            (part.value, decayed),
            {
                "params": [],
                "lr": learning_rate_of(part, stage),
                "betas": (_BETA1, stage.adam_beta2),
                "weight_decay": stage.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


class HalfAdamW(torch.optim.Optimizer):
    """AdamW over bf16 weights."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, kind: Optimizer) -> None:
        """Take groups as `parameter_groups` makes them; torch's usual betas and epsilon."""
        defaults = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self._kind = kind

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None  # noqa: S101 - the Trainer never gives one
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter] or self._fresh(parameter)
        self.state[parameter] = state
        weight = state.get("master")
        full = parameter.float() if weight is None else weight
        moments = [_unpacked(state, name, parameter) for name in _MOMENTS]
        adamw(
            [full],
            [parameter.grad.float()],  # type: ignore[union-attr]
            [moments[0]],
            [moments[1]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for name, moment in zip(_MOMENTS, moments, strict=True):
            _pack(state, name, moment)
        if weight is None:
            round_at_random(parameter, full)
        else:
            parameter.copy_(full)

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        state = {"step": torch.zeros((), dtype=torch.float32, device=parameter.device)}
        if self._kind is Optimizer.FP32_MASTERS:
            state["master"] = parameter.detach().float().clone()
        quantized = self._kind is Optimizer.EIGHT_BIT and parameter.numel() >= _QUANTIZED_FROM
        for name in _MOMENTS:
            moment = torch.zeros_like(parameter, dtype=torch.float32)
            state[name] = moment
            if quantized:
                state[f"{name}_scale"] = moment.new_zeros(())  # says that it is packed
                _pack(state, name, moment)
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state as it is; torch would cast it to the type of the weights."""
        saved = state_dict["state"]
        super().load_state_dict(state_dict)
        order = [p for group in self.param_groups for p in group["params"]]
        for number, values in saved.items():
            parameter = order[number]
            self.state[parameter] = {
                name: value.to(parameter.device) for name, value in values.items()
            }


def round_at_random(target: Tensor, source: Tensor) -> None:
    """Write fp32 values into a bf16 tensor, up or down with the chance that keeps the mean.

    bf16 is the upper half of fp32: a random number below 2^16 is added and the lower half cut off.
    """
    bits = source.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
    target.copy_(((bits + noise) & -65536).view(torch.float32))


def _unpacked(state: dict[str, Tensor], name: str, parameter: Tensor) -> Tensor:
    """Return a moment in fp32."""
    scale = state.get(f"{name}_scale")
    if scale is None:
        return state[name]
    from bitsandbytes import functional  # noqa: PLC0415 - an extra

    code = _code(name, state[name].device)
    unpacked: Tensor = functional.dequantize_blockwise(state[name], absmax=scale, code=code)
    return unpacked.view(parameter.shape)


def _pack(state: dict[str, Tensor], name: str, moment: Tensor) -> None:
    """Keep a moment as it was kept before."""
    if f"{name}_scale" not in state:
        return
    from bitsandbytes import functional  # noqa: PLC0415 - an extra

    packed, notes = functional.quantize_blockwise(moment, code=_code(name, moment.device))
    state[name], state[f"{name}_scale"] = packed, notes.absmax


def _code(name: str, device: torch.device) -> Tensor:
    """Return the 256 values a moment can take: signed for the mean, unsigned for the square."""
    from bitsandbytes import functional  # noqa: PLC0415 - an extra

    code: Tensor = functional.create_dynamic_map(signed=name == _MOMENTS[0])
    return code.to(device)
