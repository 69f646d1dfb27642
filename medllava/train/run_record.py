"""What `run.json` says about a run: enough to tell how a checkpoint came to be."""

import platform
from pathlib import Path
from typing import Any

import torch

from medllava import __version__
from medllava.data.dataset import ExampleIndex
from medllava.layout import RUN_FILE
from medllava.provenance import code_commit, package_versions, trace_sources
from medllava.recipe import ModelConfig
from medllava.store import read_json


def describe_parts(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return source and licence of every part that had weights, and what it was made from."""
    return {
        "vision_encoder": {
            "source": model.vision_encoder.source,
            "license": model.vision_encoder.license,
            "sources": _sources(Path(model.vision_encoder.source)),
        },
        "language_model": {
            "source": model.language_model.source,
            "license": model.language_model.license,
            "sources": _sources(Path(model.language_model.source)),
        },
    }


def describe_data(source: str, index: ExampleIndex) -> dict[str, Any]:
    """Return what was used and what was not."""
    return {
        "source": source,
        "sources": _sources(Path(source)),
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
        "git_commit": code_commit(),
        "packages": package_versions(),
    }


def _sources(path: Path) -> list[dict[str, Any]]:
    return [source.to_json() for source in trace_sources(path)]
