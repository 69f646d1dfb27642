"""From one command to one process per GPU, on this machine or on several, by torch's launcher.

`launch_stage` runs torch's elastic agent (what `torchrun` runs) in this process; on several
machines srun or DeepSpeed's ssh starts one agent on each. Every rank is this module again, with the
folder it finds its task in. What they leave there:

    OUT/.ranks/config.json       what every rank is to do
    OUT/.ranks/progress.jsonl    rank 0's progress, drawn by the launching process
    OUT/.ranks/summary-N.json    rank N's outcome
    OUT/.ranks/refusal.json      an error of data or recipe, after which no rank starts again
    OUT/.ranks/failure-NODE.json the first failure on a machine, where there are several
"""

import argparse
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medllava import errors
from medllava.errors import MedllavaError, SetupError
from medllava.progress import Progress, SilentProgress
from medllava.recipe import DataSource, recipe_from_values
from medllava.records import Stage, StepSummary
from medllava.store import JsonlWriter, read_json, write_json
from medllava.train.config import StageRunConfig
from medllava.train.stop import StopRequest

_HOSTFILE = "DLTS_HOSTFILE"
"""DeepSpeed's own variable for where the hostfile is, and its default."""
_DEFAULT_HOSTFILE = "/job/hostfile"
_MODULE = "medllava.train.launch"
_REFUSAL = "refusal.json"
_FOLDER, _CONFIG, _PROGRESS = ".ranks", "config.json", "progress.jsonl"
_PATHS = ("output_dir", "image_dir", "validation_data")
_POLL_SECONDS = 0.2
_SAVING_SECONDS = 600
"""A rank that was asked to stop has this long to save."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ECHOES = ("connection", "peer", "broken pipe", "gloo", "nccl", "socket", "timed out")
"""Words in the error of a rank that only noticed that another one was gone."""
_PORT = 29_400


class RankError(MedllavaError):
    """A rank ended with an error that no user can act on; its traceback is on stderr."""


def launch_stage(
    config: StageRunConfig, *, gpus: int, nodes: int = 1, progress: Progress
) -> StepSummary:
    """Train one stage on `gpus` processes of each of `nodes` machines.

    Raises:
        SetupError: there are fewer GPUs, or no way to reach the other machines; or a rank ended
            without a word.
        MedllavaError: the first rank's error, with its name.
    """
    _check_devices(gpus)
    folder = _open_folder(config)
    progress.note(f"starting {gpus * nodes} ranks")
    with _repeated(folder, progress):
        if nodes == 1:
            failures = _run_agent(folder, gpus=gpus, restarts=config.recipe.train.restarts)
        else:
            failures = _run_nodes(folder, gpus=gpus, nodes=nodes)
    summary = _outcome(folder, failures, world_size=gpus * nodes)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def build_command(
    folder: Path, *, gpus: int, nodes: int, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the command that starts an agent on each of several machines.

    Args:
        folder: of the run's `.ranks`; all machines must see it.
        gpus: ranks per machine.
        nodes: machines.
        environment: tells of a Slurm allocation or a hostfile.

    Raises:
        SetupError: neither is there.
    """
    agent = [str(folder), f"--gpus={gpus}", f"--nodes={nodes}", f"--host={platform.node()}"]
    if "SLURM_JOB_ID" in environment and shutil.which("srun"):
        port = _PORT + int(environment["SLURM_JOB_ID"]) % 1000
        return [
            *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
            *(sys.executable, "-m", _MODULE, *agent, f"--port={port}"),
        ]
    hostfile = Path(environment.get(_HOSTFILE, _DEFAULT_HOSTFILE))
    if not hostfile.is_file():
        raise SetupError(
            f"--nodes {nodes} needs a Slurm allocation or DeepSpeed's hostfile, and there is "
            f"neither: {hostfile}. Set {_HOSTFILE}, or start medllava train with torchrun."
        )
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}"),
        *(f"--num_nodes={nodes}", "--num_gpus=1", "--no_local_rank"),
        *("--module", _MODULE, *agent, f"--port={_PORT}"),
    ]


# The agent: starts the ranks of one machine and watches them.


def _run_agent(
    folder: Path, *, gpus: int, restarts: int, nodes: int = 1, endpoint: str = "localhost:0"
) -> list[dict[str, Any]]:
    """Run the ranks of this machine to their end.

    Returns:
        What failed: rank, host, exit code, kind of error, message; empty where nothing did.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    launch = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=gpus,
        run_id="medllava",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        local_addr="127.0.0.1" if nodes == 1 else None,
        max_restarts=restarts,
        shutdown_timeout=_SAVING_SECONDS,
    )
    with _rank_environment(restarts=restarts), _signals_given_back():
        try:
            elastic_launch(launch, sys.executable)("-m", _MODULE, str(folder.resolve()))
        except ChildFailedError as error:
            return [_failure(rank, known) for rank, known in error.failures.items()]
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
    return []


def _failure(rank: int, failure: Any) -> dict[str, Any]:  # noqa: ANN401 - torch has no types here
    told = failure.message
    text = told["message"] if isinstance(told, dict) else ""
    kind, _, message = text.partition(": ")
    return {
        "rank": rank,
        "host": platform.node(),
        "exit_code": failure.exitcode,
        "time": failure.timestamp,
        "kind": kind,
        "message": message or kind,
    }


@contextmanager
def _rank_environment(*, restarts: int) -> Iterator[None]:
    """Set what ranks inherit: one CPU thread unless said otherwise, and who watches them."""
    import torch  # noqa: PLC0415 - heavy

    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    if restarts:
        # torch 2.13 keeps one store for all lives of the ranks, and the dead ones are still in it.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """Undo the agent's signal handlers, which it leaves behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_nodes(folder: Path, *, gpus: int, nodes: int) -> list[dict[str, Any]]:
    """Start an agent on every machine, wait for all, and gather what failed."""
    command = build_command(folder.resolve(), gpus=gpus, nodes=nodes)
    process = subprocess.Popen(command, stdout=sys.stderr.fileno(), start_new_session=True)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
        if process.poll() is None:
            process.terminate()
            process.wait()
    return [entry for path in folder.glob("failure-*.json") for entry in read_json(path)]


def _check_devices(gpus: int) -> None:
    import torch  # noqa: PLC0415 - heavy

    found = torch.cuda.device_count()
    if 0 < found < gpus:
        raise SetupError(f"--gpus {gpus}: this machine has {found}. Ask for fewer.")


# The outcome: what the launching process says of it all.


def _outcome(folder: Path, failures: list[dict[str, Any]], *, world_size: int) -> StepSummary:
    """Return the summary of rank 0, or raise what ended the run first."""
    summaries = [_read_summary(path) for path in sorted(folder.glob("summary-*.json"))]
    if len(summaries) == world_size and all(s.complete for s in summaries):
        return summaries[0]
    early = [summary for summary in summaries if not summary.complete]
    if early:  # asked to stop, or one of them found the disk full
        return early[0]
    failed = sorted(failures, key=lambda values: values["time"])
    for values in failed:
        kind = getattr(errors, values["kind"], None)
        if isinstance(kind, type) and issubclass(kind, MedllavaError):
            raise kind(f"{_name(values)}: {values['message']}")
    told = [v for v in failed if v["kind"]]
    own = [v for v in told if not any(word in v["message"].lower() for word in _ECHOES)]
    if own:
        raise RankError(f"{_name(own[0])}: {own[0]['kind']}: {own[0]['message']}")
    silent = [v for v in failed if not v["kind"]]
    if silent:
        raise SetupError(
            f"{_name(silent[0])} ended without a word (exit code {silent[0]['exit_code']}), as a "
            "process does that is killed or runs out of memory. Run the same command again to go "
            "on from the last checkpoint."
        )
    if told:
        raise RankError(f"{_name(told[0])}: {told[0]['kind']}: {told[0]['message']}")
    raise SetupError(
        f"only {len(summaries)} of {world_size} ranks came to an end. See the messages above, and "
        "run the same command again to go on from the last checkpoint."
    )


def _name(values: dict[str, Any]) -> str:
    return f"rank {values['rank']} on {values['host']}"


# The folder that launching process and ranks share.


def _open_folder(config: StageRunConfig) -> Path:
    """Make an empty folder with the configuration of a run in it; return the folder."""
    folder = config.output_dir / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / _CONFIG, {**asdict(config), "stage": config.stage.value})
    return folder


def _read_config(folder: Path) -> StageRunConfig:
    values = read_json(folder / _CONFIG)
    paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    recipe = recipe_from_values(values["recipe"], file=str(folder / _CONFIG))
    mixture = tuple(DataSource(**source) for source in values["mixture"])
    parsed = {"recipe": recipe, "stage": Stage(values["stage"]), "mixture": mixture}
    return StageRunConfig(**{**values, **paths, **parsed})


def _read_summary(path: Path) -> StepSummary:
    values = read_json(path)
    paths = {name: Path(where) for name, where in values["artifacts"].items()}
    return StepSummary(**{**values, "artifacts": paths})


class _ProgressFile(SilentProgress):
    """A `Progress` that is written down for the launching process."""

    def __init__(self, folder: Path) -> None:
        self._writer = JsonlWriter(folder / _PROGRESS)

    def start(self, phase: str, *, total: int | None = None) -> None:
        self._writer.write({"start": phase, "total": total})

    def advance(self, count: int = 1) -> None:
        self._writer.write({"advance": count})

    def note(self, message: str) -> None:
        self._writer.write({"note": message})


@contextmanager
def _repeated(folder: Path, progress: Progress) -> Iterator[None]:
    """Pass on what rank 0 writes down, for as long as the `with` lasts and to the last line."""
    ended = threading.Event()

    def follow() -> None:
        offset = 0
        while True:
            is_last = ended.wait(_POLL_SECONDS)
            offset = _repeat(folder / _PROGRESS, offset, progress)
            if is_last:
                return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()


def _repeat(path: Path, offset: int, progress: Progress) -> int:
    """Pass on the whole lines behind `offset`; return where the next one starts."""
    if not path.exists():
        return offset
    with path.open("rb") as handle:
        handle.seek(offset)
        fresh = handle.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    for line in whole.splitlines():
        values = json.loads(line)
        if "start" in values:
            progress.start(values["start"], total=values["total"])
        elif "advance" in values:
            progress.advance(values["advance"])
        else:
            progress.note(values["note"])
    return offset + len(whole)


# One rank, or one machine's agent.


def main() -> None:
    """Train as the rank that the environment says, or run the agent of one of several machines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", type=int, default=0, help="Be an agent with so many ranks.")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=_PORT)
    options = parser.parse_args()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # results are the launching process's
    _end_with_parent()
    if not options.gpus:
        from torch.distributed.elastic.multiprocessing.errors import record  # noqa: PLC0415

        try:
            with closing(StopRequest()):  # before the imports, which take seconds
                record(_train_as_rank)(options.folder)
        except MedllavaError:  # noted for the launching process, which tells it
            sys.exit(1)
        return
    failures = _run_agent(
        options.folder,
        gpus=options.gpus,
        restarts=_read_config(options.folder).recipe.train.restarts,
        nodes=options.nodes,
        endpoint=f"{options.host}:{options.port}",
    )
    if failures:
        write_json(options.folder / f"failure-{platform.node()}-{os.getpid()}.json", failures)
        sys.exit(1)


def _train_as_rank(folder: Path) -> None:
    # DeepSpeed imports it where it is installed, and each rank would advise on kernels for it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from medllava.train.ranks import find_ranks  # noqa: PLC0415 - after the watch has begun
    from medllava.train.run import train_stage  # noqa: PLC0415

    ranks, config = find_ranks(), _read_config(folder)
    progress = _ProgressFile(folder) if ranks.is_main else SilentProgress()
    refusal = folder / _REFUSAL
    if restart := int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        if refusal.exists():  # the agent starts again after any error; this one would come again
            told = read_json(refusal)
            raise getattr(errors, told["kind"])(told["message"])
        progress.note(f"a rank died; start {restart + 1} goes on from the last checkpoint")
        config = replace(config, resume=True)  # what this run saved must not be cleared
    try:
        summary = train_stage(config, ranks=ranks, progress=progress)
    except MedllavaError as error:
        kind = next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
        write_json(refusal, {"kind": kind, "message": str(error)})
        raise
    write_json(folder / f"summary-{ranks.rank}.json", asdict(summary))


def _end_with_parent() -> None:
    """End this process soon after the one that started it, which may have been killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
