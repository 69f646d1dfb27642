"""Shards handed to datatrove's executors: processes of this machine, a Slurm array, a Ray cluster.

Every rank is one shard. The executors keep their own logs and completion files; ours decide, so a
rank that is run again goes on where it was.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from medllava.errors import DataError, SetupError
from medllava.pmc.config import FetchConfig
from medllava.pmc.selection import work_dir
from medllava.pmc.shards import run_shard
from medllava.progress import SilentProgress
from medllava.records import StepSummary

EXECUTORS = ("local", "slurm", "ray")
_LOGGER = logging.getLogger(__name__)


class ShardStep:
    """A datatrove pipeline step: does the shard of its rank, then passes on what came in."""

    name = "medllava fetch-pmc"

    def __init__(self, config: FetchConfig) -> None:
        """Remember the configuration; it travels to the workers with the step."""
        self.config = config

    def __call__(
        self, data: Iterable[Any] | None, rank: int = 0, world_size: int = 1
    ) -> Iterable[Any]:
        """Run one shard.

        Raises:
            RuntimeError: articles are left; the executor then counts the rank as failed.
        """
        if world_size != self.config.num_shards:
            raise ValueError(f"{world_size} ranks for {self.config.num_shards} shards")
        left = run_shard(replace(self.config, shard_index=rank), rank, progress=SilentProgress())
        if left:
            raise RuntimeError(f"{left} articles of shard {rank} are left; run again")
        return data or ()


class FinishStep:
    """A datatrove pipeline step: writes the figures folder after the last shard."""

    name = "medllava fetch-pmc, figures folder"

    def __init__(self, config: FetchConfig) -> None:
        """Remember the configuration."""
        self.config = config

    def __call__(
        self, data: Iterable[Any] | None, rank: int = 0, world_size: int = 1
    ) -> Iterable[Any]:
        """Write the folder."""
        from medllava.pmc.fetch import finish_fetch  # noqa: PLC0415 - fetch imports this module

        del rank, world_size
        finish_fetch(replace(self.config, shard_index=None), progress=SilentProgress())
        return data or ()


def run_executor(config: FetchConfig) -> StepSummary | None:
    """Run all shards on an executor.

    Returns:
        None when the shards were run, a summary when they were only submitted.

    Raises:
        DataError: no such executor, or a setting it needs is missing.
        SetupError: datatrove is not installed.
    """
    if config.executor not in EXECUTORS:
        raise DataError(f"no such executor: {config.executor!r}. Use {', '.join(EXECUTORS)}.")
    options = parse_options(config.executor_options)
    logs = str((work_dir(config) / "logs").resolve())
    step = ShardStep(config)
    try:
        if config.executor == "local":
            from datatrove.executor.local import LocalPipelineExecutor  # noqa: PLC0415 - an extra

            options = {"workers": min(config.num_shards, os.cpu_count() or 1), **options}
            executor = LocalPipelineExecutor(
                [step], tasks=config.num_shards, logging_dir=logs, skip_completed=False, **options
            )
        elif config.executor == "ray":
            from datatrove.executor.ray import RayPipelineExecutor  # noqa: PLC0415 - an extra

            executor = RayPipelineExecutor(
                [step], tasks=config.num_shards, logging_dir=logs, skip_completed=False, **options
            )
        else:
            return _submit_slurm(config, step, logs, options)
    except ImportError as error:
        raise SetupError(
            f"--executor {config.executor} needs {error.name or error}."
            " Install it with: pip install 'medllava[cluster]'"
        ) from None
    try:
        executor.run()
    except RuntimeError as error:
        # Raised by a rank with open articles; the markers tell which shards those are.
        _LOGGER.warning("some shards are incomplete: %s", error)
    return None


def _submit_slurm(
    config: FetchConfig, step: ShardStep, logs: str, options: dict[str, Any]
) -> StepSummary:
    """Submit an array of shards, and a job after it that writes the folder."""
    from datatrove.executor.slurm import SlurmPipelineExecutor  # noqa: PLC0415 - an extra

    missing = [name for name in ("time", "partition") if name not in options]
    if missing:
        raise DataError(f"Slurm needs {missing[0]}. Add --executor-set {missing[0]}=VALUE.")
    array = SlurmPipelineExecutor(
        [step],
        tasks=config.num_shards,
        logging_dir=logs,
        job_name="medllava-fetch",
        skip_completed=False,
        **options,
    )
    finish = SlurmPipelineExecutor(
        [FinishStep(config)],
        tasks=1,
        logging_dir=f"{logs}-finish",
        job_name="medllava-fetch-finish",
        skip_completed=False,
        depends=array,
        **options,
    )
    finish.run()
    return StepSummary(
        step="fetch-pmc",
        counts={"shards_submitted": config.num_shards},
        artifacts={"figures": config.output_dir},
        hint="squeue --me; the last job writes the figures folder.",
    )


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return `key=value` settings, numbers as numbers.

    Raises:
        DataError: no equals sign.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if not sign:
            raise DataError(f"expected KEY=VALUE, got {option!r}. Check --executor-set.")
        parsed[name] = int(value) if value.isdigit() else value
    return parsed
