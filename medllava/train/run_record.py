"""What `run.json` says about a run: enough to tell how a checkpoint came to be."""

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from medllava import __version__
from medllava.data.dataset import ExampleIndex
from medllava.data.sources import collect_sources
from medllava.recipe import ModelConfig
from medllava.store import read_json, sha256_of
from medllava.train.checkpoint import RUN_FILE

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "flash-attn",
    "safetensors",
)
_WEIGHTS = "*.safetensors"


def weights_digest(folder: Path) -> str:
    """Return one SHA-256 over all weight files of a model folder, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(_WEIGHTS)):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def describe_parts(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return source and licence of every part that had weights, and what it was made from."""
    return {
        "vision_encoder": {
            "source": model.vision_encoder.source,
            "license": model.vision_encoder.license,
            "sources": collect_sources(Path(model.vision_encoder.source)),
        },
        "language_model": {
            "source": model.language_model.source,
            "license": model.language_model.license,
            "sources": collect_sources(Path(model.language_model.source)),
        },
    }


def describe_data(source: str, index: ExampleIndex) -> dict[str, Any]:
    """Return what was used and what was not."""
    return {
        "source": source,
        "sources": collect_sources(Path(source)),
        "used": len(index),
        "dropped": sum(index.drop_counts.values()),
        "dropped_by_reason": index.drop_counts,
        "shortened": index.shortened,
        "tokens": int(index.lengths.sum()),
        "supervised_tokens": int(index.supervised_counts.sum()),
        "images": len(index.images),
        "fingerprint": index.fingerprint(),
        **{f"by_{name}": counts for name, counts in index.facts.items()},
    }


def describe_init(init: str) -> dict[str, Any]:
    """Return where the weights came from, with that run's own description if it has one."""
    run = Path(init) / RUN_FILE
    return {"source": init, "run": read_json(run) if run.is_file() else None}


def describe_machine() -> dict[str, Any]:
    """Return hardware, packages and our own version."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "medllava": __version__,
        "git_commit": _git_commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the checkout's commit, with a mark if files were changed; None for a wheel."""
    git, folder = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (folder / ".git").exists():
        return None
    command = [
        git,
        "-C",
        str(folder),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
