"""What an optimizer remembers, carried from a checkpoint of some ranks to a run of another number.

A run in one process saves the moments of every weight; DeepSpeed (ZeRO 1 and 2) lays the weights of
a group behind one another and saves each rank's stretch of them. Both are read here as whole
tensors by the name of the weight, and given to either kind of run. The checkpoint is only read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medllava.errors import DataError
from medllava.layout import RUN_FILE
from medllava.records import RunRecord
from medllava.store import read_record
from medllava.train.settings import Settings

MASTER = "master"
"""The weight in fp32, where it is kept beside the one that computes."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "step"
_PLAIN_FILE = "optimizer.pt"
_SHARDS = "global_step*/*zero_pp_rank_*_mp_rank_00_optim_states.pt"
_LAYOUT = ("world_size", "zero_stage", "offload")
"""Settings that decide how a checkpoint spreads what the optimizer remembers."""


_Groups = Sequence[Sequence[tuple[str, Any]]]
"""Names and weights that learn, in the order of the optimizer's groups."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What an optimizer remembers of every weight."""

    step: float
    of: Callable[[str], dict[str, Tensor]]
    """Name of a weight to its moments and, where there is one, its master; any shape."""


def has_other_layout(checkpoint: Path, settings: Settings) -> bool:
    """Tell whether a checkpoint is of another number of ranks, or spread in another way.

    Raises:
        DataError: it is, and its way or that of this run cannot be carried over.
    """
    record = read_record(checkpoint / RUN_FILE, RunRecord)
    before = [record.settings.get(name) for name in _LAYOUT]
    now = [getattr(settings, name) for name in _LAYOUT]
    if before == now or None in before:  # records of earlier versions do not say
        return False
    for world_size, zero_stage, _ in (before, now):
        if zero_stage not in (1, 2) and (world_size != 1 or zero_stage):
            raise DataError(
                f"{checkpoint} is of {before[0]} ranks with ZeRO-{before[1]}, and this run has "
                f"{now[0]} with ZeRO-{now[1]}: only ZeRO-1, ZeRO-2 and a single process can follow "
                f"one another. Go on with --gpus {before[0]}, or start the stage anew from that "
                f"checkpoint with another -o and --init {checkpoint}."
            )
    return True


def restore_optimizer(checkpoint: Path, model: nn.Module, optimizer: Any) -> None:  # noqa: ANN401 - torch's or DeepSpeed's
    """Give an optimizer what one of another layout remembered.

    Args:
        checkpoint: of the other layout.
        model: its weights are those of the checkpoint.
        optimizer: torch's own kind over whole weights, or DeepSpeed's over flat stretches; both
            have their groups of weights in the same order.

    Raises:
        DataError: the checkpoint lacks what is looked for.
    """
    is_sharded = hasattr(optimizer, "single_partition_of_fp32_groups")
    if is_sharded:
        groups = optimizer.bit16_groups
    else:
        groups = [group["params"] for group in optimizer.param_groups]
    by_id = {id(weight): name for name, weight in model.named_parameters()}
    named = [[(by_id[id(weight)], weight) for weight in group] for group in groups]
    try:
        memory = _read(checkpoint, [name for group in named for name, _ in group])
        if is_sharded:
            _give_sharded(optimizer, memory, named)
        else:
            _give_whole(optimizer, memory, named)
    except (KeyError, RuntimeError, FileNotFoundError) as error:
        raise DataError(
            f"the optimizer's state cannot be read as one of another number of ranks ({error}): "
            f"{checkpoint}. Go on with the number it was saved with."
        ) from error


def _read(checkpoint: Path, names: Sequence[str]) -> _Memory:
    shards = sorted(checkpoint.glob(_SHARDS), key=_rank_of)
    return _read_shards(shards) if shards else _read_whole(checkpoint / _PLAIN_FILE, names)


def _read_whole(path: Path, names: Sequence[str]) -> _Memory:
    states = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"]
    numbers = {name: number for number, name in enumerate(names)}
    return _Memory(step=float(states[0][_STEP]), of=lambda name: states[numbers[name]])


def _read_shards(paths: Sequence[Path]) -> _Memory:
    """Read DeepSpeed's files, one per rank; they are this run's own and hold more than tensors."""
    from deepspeed.checkpoint import constants  # noqa: PLC0415 - only sharded runs need it

    shards = [
        torch.load(path, map_location="cpu", weights_only=False, mmap=True)[
            constants.OPTIMIZER_STATE_DICT
        ]
        for path in paths
    ]
    places: dict[str, list[tuple[int, int, Any]]] = {}
    for rank, shard in enumerate(shards):
        for group, mapping in enumerate(shard[constants.PARAM_SLICE_MAPPINGS]):
            for name, fragment in mapping.items():
                places.setdefault(name, []).append((rank, group, fragment))

    def flat(rank: int, group: int, kind: str) -> Tensor:
        if kind == MASTER:
            tensor: Tensor = shards[rank][constants.SINGLE_PARTITION_OF_FP32_GROUPS][group]
            return tensor
        state: Tensor = shards[rank][constants.BASE_OPTIMIZER_STATE]["state"][group][kind]
        return state

    def of(name: str) -> dict[str, Tensor]:
        return {
            kind: torch.cat(
                [
                    flat(rank, group, kind).narrow(0, fragment.start, fragment.numel)
                    for rank, group, fragment in places[name]
                ]
            )
            for kind in (MASTER, *_MOMENTS)
        }

    first = shards[0][constants.BASE_OPTIMIZER_STATE]["state"][0]
    return _Memory(step=float(first[_STEP]), of=of)


def _give_whole(optimizer: torch.optim.Optimizer, memory: _Memory, groups: _Groups) -> None:
    """Fill torch's AdamW over fp32 weights, or our own over bf16 ones, which keeps masters."""
    for name, weight in (pair for group in groups for pair in group):
        kinds = _MOMENTS if weight.dtype is torch.float32 else (*_MOMENTS, MASTER)
        found = memory.of(name)
        optimizer.state[weight] = {
            _STEP: torch.tensor(memory.step, device=weight.device),
            **{kind: _shaped(found[kind], weight) for kind in kinds},
        }


def _shaped(tensor: Tensor, weight: Tensor) -> Tensor:
    return tensor.reshape(weight.shape).to(weight.device, torch.float32, copy=True)


def _give_sharded(optimizer: Any, memory: _Memory, groups: _Groups) -> None:  # noqa: ANN401 - DeepSpeed has no types
    """Fill this rank's flat stretch of every group of a ZeRO-1 or ZeRO-2 optimizer."""
    for group, flat in zip(groups, optimizer.single_partition_of_fp32_groups, strict=True):
        state = {kind: torch.zeros_like(flat) for kind in _MOMENTS}
        for name, weight in group:
            mapping = weight._hp_mapping  # noqa: SLF001 - DeepSpeed keeps there what a rank holds
            if mapping is None:
                continue
            within_weight, within_flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            found = memory.of(name)
            for kind, target in (*state.items(), (MASTER, flat.data)):
                if kind in found:  # fp32 weights are their own masters
                    source = found[kind].reshape(-1)
                    source = source.narrow(0, within_weight.start, within_weight.numel)
                    target.narrow(0, within_flat.start, within_flat.numel).copy_(source)
        optimizer.optimizer.state[flat] = {**state, _STEP: torch.tensor(memory.step)}


def _rank_of(path: Path) -> int:
    return int(path.name.partition("zero_pp_rank_")[2].partition("_")[0])
