"""Does the model fit? Answered from file headers before a byte of weights is read.

A checkpoint's safetensors headers say how many numbers there are; the device says what is free.
Where the model does not fit, the error lists what would: fewer bits, another device, several GPUs.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from medllava.chat.config import ChatConfig
from medllava.errors import DataError, SetupError
from medllava.model.devices import choose_device, choose_dtype, free_bytes

_MAX_HEADER_BYTES = 100 * 2**20
_WORKING_BYTES = 256 * 2**20
_WORKING_SHARE = 0.1
"""Room for activations, one conversation's cache and fragmentation, on top of the weights."""

_QUANTIZED_BYTES = {"8bit": 1.15, "4bit": 0.65}
"""Bytes per weight of the whole model: embeddings, head and encoder keep 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the weights go."""

    device: str
    is_spread: bool = False
    """Over all GPUs, because one is too small."""


def place_model(config: ChatConfig) -> Placement:
    """Choose where the model goes.

    A hub id that is not in the cache and cannot be asked is not checked; loading will tell.

    Raises:
        SetupError: it does not fit; says how much is needed and free, and what would fit.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device=device)
    num_weights = count_weights(config.checkpoint)
    free = free_bytes(device)
    if num_weights is None or free is None:
        return Placement(device=device)
    needed = needed_bytes(num_weights, dtype=dtype, load=config.load)
    if needed <= free:
        return Placement(device=device)
    all_free = _all_gpus_free() if device == "cuda" and config.load is None else 0
    if needed <= all_free:
        return Placement(device=device, is_spread=True)
    name = config.load or str(dtype).removeprefix("torch.")
    raise SetupError(
        f"the model needs about {_gib(needed)} in {name}, and {_gib(max(free, all_free))} are free"
        f" on {device}: {config.checkpoint}. {_advice(num_weights, device=device, free=free)}"
    )


def count_weights(source: str) -> int | None:
    """Return how many numbers a checkpoint's weights are, or None where that is not known."""
    folder = Path(source)
    if not folder.is_dir():
        found = _cached_snapshot(source)
        if found is None:
            return _count_on_hub(source)
        folder = found
    files = sorted(folder.glob("*.safetensors"))
    return sum(_count_in_file(file) for file in files) if files else None


def needed_bytes(num_weights: int, *, dtype: torch.dtype, load: str | None) -> int:
    """Return the memory to load and talk to a model of that many weights."""
    per_weight = _QUANTIZED_BYTES[load] if load in _QUANTIZED_BYTES else float(dtype.itemsize)
    return int(num_weights * per_weight * (1 + _WORKING_SHARE)) + _WORKING_BYTES


def _advice(num_weights: int, *, device: str, free: int) -> str:
    """Return the settings that would fit, cheapest change first."""
    options = []
    if not device.startswith("cuda"):
        options.append(("--dtype bf16", needed_bytes(num_weights, dtype=torch.bfloat16, load=None)))
    else:
        options += [
            (f"--load {load}", needed_bytes(num_weights, dtype=torch.bfloat16, load=load))
            for load in _QUANTIZED_BYTES
        ]
    fitting = [f"{option} ({_gib(needed)})" for option, needed in options if needed <= free]
    cpu_free = free_bytes("cpu")
    on_cpu = needed_bytes(num_weights, dtype=torch.bfloat16, load=None)
    if device.startswith("cuda") and cpu_free is not None and on_cpu <= cpu_free:
        fitting.append(f"--device cpu --dtype bf16 ({_gib(on_cpu)}, slow)")
    if fitting:
        return f"What would fit: {'; '.join(fitting)}."
    return "Free memory, or let a server answer: --base-url."


def _count_in_file(file: Path) -> int:
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise DataError(f"not a safetensors file: {file}. Get the checkpoint again.")
        raw = handle.read(size)
    try:
        header = json.loads(raw)
        return sum(
            math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"not a safetensors file: {file}. Get the checkpoint again.") from None


def _cached_snapshot(source: str) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a folder needs no hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _count_on_hub(source: str) -> int | None:
    import httpx  # noqa: PLC0415 - a folder needs no hub
    from huggingface_hub import get_safetensors_metadata  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
    )

    try:
        counts: Iterable[int] = get_safetensors_metadata(source).parameter_count.values()
    except (
        HfHubHTTPError,
        HFValidationError,
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
        httpx.HTTPError,
    ):
        return None
    return sum(counts)


def _all_gpus_free() -> int:
    return sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
