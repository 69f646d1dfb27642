"""Small real run folders for the tests of push."""

import json
from pathlib import Path
from typing import Any

from medllava.hub.config import PushConfig
from medllava.model.load import save_model
from medllava.model.parts import build_model
from medllava.provenance import weights_sha256
from medllava.recipe import load_recipe

REPO = "tester/tiny"
SOURCES = [
    {
        "name": "llm-tiny",
        "version": "0.1.2",
        "sha256": "ab" * 32,
        "license": "Apache-2.0",
        "note": "GGUF",
    }
]
IMAGES = [{"name": "pixels", "version": "2.0", "license": "BSD-3-Clause", "note": "slides"}]


def config(folder: Path, **changes: Any) -> PushConfig:
    """Name the test repository; the slow check of loading is left out."""
    return PushConfig(**({"folder": folder, "repo_id": REPO, "load_check": False} | changes))


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_checkpoint(folder: Path, *, parts: dict[str, str] | None = None) -> Path:
    """Save the debug model with the records that train leaves beside it."""
    recipe = load_recipe("debug")
    loaded = build_model(recipe.model, seed=0)
    save_model(loaded, folder)
    values = recipe.to_toml_values()
    for role, source in (parts or {}).items():
        values["model"][role]["source"] = source
    write_json(folder / "recipe.json", values)
    align = run_values("align", {"CC BY": 30, "CC0": 10})
    instruct = run_values("instruct", {"CC BY": 20})
    instruct |= {
        "init": {"source": "/home/alice/runs/stage1", "run": align},
        "weights_sha256": weights_sha256(folder),
    }
    write_json(folder / "run.json", instruct)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "optimizer.pt").write_bytes(b"PK\x03\x04 state")
    return folder


def run_values(stage: str, licenses: dict[str, int]) -> dict[str, Any]:
    return {
        "stage": stage,
        "recipe": "debug",
        "init": {"source": "", "run": None},
        "parts": {
            "language_model": {"license": "Apache-2.0", "sources": SOURCES},
            "vision_encoder": {"license": "Apache-2.0"},
        },
        "data": {
            "used": sum(licenses.values()),
            "dropped": 1,
            "by_license": licenses,
            "by_modality": {"ct": sum(licenses.values())},
            "by_teacher": {"template": sum(licenses.values())},
            "sources": IMAGES,
            "source": "/home/alice/secret project/instructions",
        },
        "seed": 0,
        "steps": 12,
        "tokens": 3456,
        "seconds": 7.5,
        "machine": {
            "device": "CPU x86_64, 1 threads",
            "git_commit": "0123456789abcdef",
            "packages": {"torch": "2.13.0"},
        },
        "output_dir": "/home/alice/runs/stage2",
    }


def write_report(folder: Path, *, weights: str | None) -> Path:
    """Write an evaluation report in the form of `medllava eval`."""
    folder.mkdir(parents=True)

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_questions": 150}

    report = {
        "task": {
            "name": "pathvqa",
            "split": "test",
            "file": "/home/alice/data/test.parquet",
            "file_sha256": "cd" * 32,
            "limit": None,
        },
        "protocol": "strict",
        "num_questions": 150,
        "num_images": 40,
        "conditions": {
            "real": {"exact_match": estimate(0.5), "num_words": estimate(2.0)},
            "permuted": {"exact_match": estimate(0.2)},
        },
        "visual_gain": {"exact_match": estimate(0.3)},
        "model": {"source": "/home/alice/ckpt", "weights_sha256": weights},
        "decoding": {"max_new_tokens": 16},
    }
    write_json(folder / "report.json", report)
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
