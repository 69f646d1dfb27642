"""Shards handed to others: processes of this machine, a Slurm array, a Ray cluster.

A job is a command: the same `fetch-pmc` with `--shard-index`, run by the interpreter that submits.
So nothing is pickled, a job can be started by hand, and any scheduler that runs commands will do.
The last job to finish its shard writes the figures folder.
"""

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medllava.errors import RemoteError, SetupError
from medllava.pmc.config import FetchConfig, to_arguments
from medllava.pmc.selection import work_dir
from medllava.records import StepSummary

_SLURM_NAMES = """
    account chdir comment constraint cpus-per-task dependency exclude gres hold licenses mail-type
    mail-user mem mem-per-cpu nice nodelist partition priority qos reservation time tmp
"""
_SLURM_OPTIONS = frozenset(_SLURM_NAMES.split())
EXECUTOR_OPTIONS = {
    "local": frozenset({"workers"}),
    "slurm": _SLURM_OPTIONS | {"max-running"},
    "ray": frozenset({"address", "num-cpus"}),
}
"""Settings of each executor; those of Slurm are `sbatch`'s long options, but for `max-running`,
the jobs of the array that run at a time."""
_LOGGER = logging.getLogger(__name__)
_FINE = (0, 6)


def check_executor(config: FetchConfig) -> dict[str, str]:
    """Return the executor's settings; name everything that is missing before any work is done.

    Raises:
        ValueError: no such executor, or a setting that it does not have.
        SetupError: what the executor needs is not here.
    """
    options = parse_options(config.executor, config.executor_options)
    if config.executor == "slurm" and not config.dry_run and shutil.which("sbatch") is None:
        raise SetupError(
            "--executor slurm needs sbatch, and it is not on PATH. Run this on a login node of the"
            " cluster, or see the script with --dry-run."
        )
    if config.executor == "ray" and find_spec("ray") is None:
        raise SetupError(
            "--executor ray needs ray. Install it with: pip install 'medllava[cluster]'"
        )
    if str(config.ids) == "-":
        raise SetupError("jobs cannot read ids from stdin. Give --ids a file.")
    return options


def parse_options(executor: str | None, options: Iterable[str]) -> dict[str, str]:
    """Return `key=value` settings of an executor; `_` and `-` in keys are the same.

    Raises:
        ValueError: no such executor, no equals sign, or a key that it does not have.
    """
    if executor not in EXECUTOR_OPTIONS:
        raise ValueError(f"{executor!r} is not one of {', '.join(EXECUTOR_OPTIONS)}")
    known = EXECUTOR_OPTIONS[executor]
    parsed: dict[str, str] = {}
    for option in options:
        name, sign, value = option.partition("=")
        name = name.strip().replace("_", "-")
        if not sign or name not in known:
            raise ValueError(
                f"{option!r} is not a setting of {executor}; expected KEY=VALUE with one of"
                f" {', '.join(sorted(known))}"
            )
        parsed[name] = value.strip()
    for name in ("workers", "max-running", "num-cpus"):
        if not parsed.get(name, "1").isdigit() or parsed.get(name) == "0":
            raise ValueError(f"{name} is a number of at least 1, not {parsed[name]!r}")
    return parsed


def plan_executor(config: FetchConfig) -> StepSummary | None:
    """Return the array script that would be submitted; None for executors without one."""
    if config.executor != "slurm":
        return None
    script = write_script(config, check_executor(config))
    return StepSummary(
        step="fetch-pmc",
        counts={"shards": config.num_shards},
        details={"dry_run": True, "script": script},
        hint="the same without --dry-run.",
    )


def run_executor(config: FetchConfig) -> StepSummary | None:
    """Run all shards on an executor.

    Returns:
        None when the shards were run, a summary when they were only submitted.

    Raises:
        SetupError: what the executor needs is not here.
        RemoteError: the scheduler refuses the jobs.
    """
    options = check_executor(config)
    logs = _logs(config)
    logs.mkdir(parents=True, exist_ok=True)
    if config.executor == "slurm":
        return _submit_slurm(config, options)
    if config.executor == "ray":
        codes = _run_ray(config, options)
    else:
        workers = int(options.get("workers", min(config.num_shards, os.cpu_count() or 1)))
        with ThreadPoolExecutor(workers) as pool:
            codes = list(pool.map(lambda i: _run_job(config, i), range(config.num_shards)))
    for index, code in enumerate(codes):
        if code not in _FINE:
            _LOGGER.warning("shard %d failed (exit %d): %s", index, code, logs / f"{index}.log")
    return None


def job_command(config: FetchConfig, index: int | None) -> list[str]:
    """Return the command of one shard; without an index, all but the last argument."""
    config = replace(config, executor=None, executor_options=(), dry_run=False, shard_index=None)
    command = [sys.executable, "-m", "medllava", "fetch-pmc", *to_arguments(config)]
    return [*command, "--shard-index", *([] if index is None else [str(index)])]


def write_script(config: FetchConfig, options: dict[str, str]) -> str:
    """Return the Slurm script of an array with one job per shard."""
    limit = f"%{options['max-running']}" if "max-running" in options else ""
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=medllava-fetch",
        f"#SBATCH --array=0-{config.num_shards - 1}{limit}",
        f"#SBATCH --output={_logs(config)}/%a.log",
        *(f"#SBATCH --{key}={value}" for key, value in options.items() if key != "max-running"),
        f'exec {shlex.join(job_command(config, None))} "$SLURM_ARRAY_TASK_ID"',
    ]
    return "\n".join(lines) + "\n"


def _submit_slurm(config: FetchConfig, options: dict[str, str]) -> StepSummary:
    script = _logs(config).with_name("array.sbatch")
    script.write_text(write_script(config, options), encoding="utf-8")
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)],  # noqa: S607 - the cluster's own, from PATH
        capture_output=True,
        text=True,
        env=_environment(config),
        check=False,
    )
    if done.returncode:
        raise RemoteError(
            f"sbatch refused the jobs (exit {done.returncode}): {done.stderr.strip()}."
            f" The script is {script}."
        )
    return StepSummary(
        step="fetch-pmc",
        counts={"shards_submitted": config.num_shards},
        details={"job": done.stdout.strip().partition(";")[0]},
        artifacts={"figures": config.output_dir, "script": script},
        hint="squeue --me; the last job writes the figures folder.",
    )


def _run_job(config: FetchConfig, index: int) -> int:
    """Run the job of a shard in a process of this machine; return its exit code."""
    with (_logs(config) / f"{index}.log").open("wb") as log:
        return subprocess.run(
            job_command(config, index),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(config),
            check=False,
        ).returncode


def _run_ray(config: FetchConfig, options: dict[str, str]) -> list[int]:
    """Run the jobs on a Ray cluster, or on one that is started here; return their exit codes."""
    import ray  # noqa: PLC0415 - an extra

    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(address=options.get("address"), log_to_driver=False)
    try:
        run: Any = ray.remote(num_cpus=int(options.get("num-cpus", 1)), max_retries=0)(_run_job)
        codes: list[int] = ray.get([run.remote(config, i) for i in range(config.num_shards)])
    finally:
        if is_ours:
            ray.shutdown()
    return codes


def _environment(config: FetchConfig) -> dict[str, str]:
    """Return the environment of a job; an address with a password travels here, not in a file."""
    environment = dict(os.environ)
    if "@" in config.base_url:
        environment["MEDLLAVA_PMC_URL"] = config.base_url
    return environment


def _logs(config: FetchConfig) -> Path:
    return (work_dir(config) / "logs").resolve()
