"""Where a model can lie: devices, number formats, what is free. Torch alone, no transformers."""

from pathlib import Path

import torch

from medllava.errors import SetupError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(requested: str) -> str:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        SetupError: there is no such device.
    """
    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = requested.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (number and not number.isdecimal()):
        raise SetupError(f"no device {requested!r}. Use --device auto, cpu, cuda, cuda:N or mps.")
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(number or 0) >= count:
        raise SetupError(f"no GPU for --device {requested}. Use --device cpu.")
    return requested


def choose_dtype(requested: str, *, device: str) -> torch.dtype:
    """Return the torch type for `auto`, `bf16`, `fp16` or `fp32`."""
    if requested == "auto":
        half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    if requested not in _DTYPES:
        raise SetupError(f"dtype {requested!r} is not one of auto, {', '.join(_DTYPES)}.")
    return _DTYPES[requested]


def free_bytes(device: str) -> int | None:
    """Return what is free on a device now; None where the system does not say."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    available = _meminfo_available(Path("/proc/meminfo"))
    if available is None:  # not Linux; an Apple GPU shares this memory
        available = _psutil_available()
    limits = [available, _cgroup_free(Path("/sys/fs/cgroup"))]
    return min((limit for limit in limits if limit is not None), default=None)


def _psutil_available() -> int | None:
    try:
        import psutil  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with accelerate
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _meminfo_available(file: Path) -> int | None:
    if not file.exists():
        return None
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_free(folder: Path) -> int | None:
    """Return what a container may still take; None outside one."""
    limit, used = folder / "memory.max", folder / "memory.current"
    if not (limit.exists() and used.exists()):
        return None
    text = limit.read_text(encoding="ascii").strip()
    return int(text) - int(used.read_text(encoding="ascii")) if text.isdigit() else None
