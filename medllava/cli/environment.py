"""`medllava env`: what this installation is and can do, for a bug report."""

import os
import platform
import sys
from importlib import metadata, util

from medllava import __version__
from medllava.cli.console import Console
from medllava.cli.options import Json, Quiet, Verbose

_PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "huggingface-hub", "numpy", "pillow",
    "pyarrow", "lxml", "httpx", "openai", "safetensors", "typer",
)  # fmt: skip
_EXTRAS = {
    "dicom": (("pydicom", "pylibjpeg"), "DICOM files cannot be opened"),
    "nifti": (("nibabel",), "NIfTI volumes cannot be opened"),
    "ocr": (("rapidocr", "onnxruntime"), "text burned into pixels cannot be looked for"),
    "web": (("starlette", "uvicorn"), "there is no page (chat --web)"),
    "lora": (("peft",), "adapters can be neither trained nor loaded"),
    "rl": (("trl", "peft"), "stages 4 and 5 cannot be trained"),
    "quantize": (("bitsandbytes",), "weights cannot be quantized to 8 or 4 bits (--load)"),
    "liger": (("liger_kernel",), "training on CUDA takes more memory and time"),
    "float8": (("torchao",), "training on H100 and later cannot use float8"),
    "flash": (("flash_attn",), "attention over packs on CUDA is slower"),
    "cluster": (("ray",), "fetch-pmc cannot hand its shards to Ray (Slurm needs no extra)"),
    "trackers": (("tensorboard",), "training writes no TensorBoard log"),
    "excel": (("openpyxl",), "XLSX files of predictions cannot be read"),
    "reports": (
        ("radgraph", "f1chexbert", "RaTEScore"),
        "reports have no clinical scores (eval --clinical)",
    ),
    "families": (("torchvision",), "models whose processors need torchvision cannot be scored"),
    "gguf": (("gguf", "xllamacpp"), "GGUF files can be neither written, measured nor talked to"),
    "fp8": (("compressed_tensors",), "push --export cannot write 8-bit floats"),
    "quickstart": (("gguf", "onnx", "tifffile"), "the quickstart cannot unpack its small model"),
    "serve": (("fastapi",), "checkpoints cannot be served by `transformers serve`"),
}
"""Extra to (modules it brings, what is missed without it)."""


def run(json_output: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> None:
    """Show versions, devices, free memory and extras, for a bug report."""
    console = Console("env", json_output=json_output, quiet=quiet, verbose=verbose)
    from medllava.records import StepSummary

    facts: dict[str, object] = {
        "medllava": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "extras": {name: _is_there(modules) for name, (modules, _) in _EXTRAS.items()},
        "missing": {
            name: cost for name, (modules, cost) in _EXTRAS.items() if not _is_there(modules)
        },
        "variables": sorted(name for name in os.environ if name.startswith("MEDLLAVA_")),
    }
    for name, value in facts.items():
        _say(console, name, value)
    if quiet and not json_output:
        console.tell("env writes nothing, so there is no path to print.")
    console.finish(StepSummary(step="env", details=facts))


def _say(console: Console, name: str, value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            shown = {True: "yes", False: "no", None: "not installed"}.get(inner, inner)
            console.say(f"{name + ' ' + key:<28} {shown}")
    else:
        console.say(f"{name:<28} {', '.join(value) if isinstance(value, list) else value}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_there(modules: tuple[str, ...]) -> bool:
    return all(util.find_spec(module) is not None for module in modules)


def _devices() -> dict[str, str]:
    """Return each device with what is free on it; a torch that does not load is told, too."""
    try:
        import torch

        from medllava.model.devices import free_bytes
    except (ImportError, OSError) as error:
        return {"torch": f"does not load: {error}"}
    devices = {"cpu": _free(free_bytes("cpu"))}
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        devices[f"cuda:{index}"] = f"{name}, {_free(free_bytes(f'cuda:{index}'))}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU, shares the memory of the cpu"
    return devices


def _free(size: int | None) -> str:
    return "free memory not known" if size is None else f"{size / 2**30:.1f} GiB free"
