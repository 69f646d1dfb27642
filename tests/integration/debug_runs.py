"""Runs of the debug recipe, the same for all tests of training."""

import json
from dataclasses import replace
from pathlib import Path

from medllava.train.config import StageRunConfig
from medllava.train.resolve import resolve_config


def debug_config(
    data: Path, output_dir: Path, *overrides: str, max_steps: int, **changes: object
) -> StageRunConfig:
    """Stage 2 from bare parts, with a checkpoint every three steps."""
    config = resolve_config(
        "debug",
        stage="2",
        data=str(data),
        init="parts",
        output_dir=output_dir,
        max_steps=max_steps,
        overrides=["checkpoint.every_steps=3", *overrides],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]
