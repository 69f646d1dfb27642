"""From one command to one process per GPU, on this machine or on several.

The processes are started by DeepSpeed's launcher (one machine, or those of a hostfile) or by srun
inside a Slurm allocation. They tell through files how they fare (`rank_files`), so that the first
rank that fails is named with its message, and the command line prints one result as always.
"""

import base64
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medllava.errors import MedllavaError, SetupError
from medllava.progress import Progress
from medllava.records import StepSummary
from medllava.train import rank_files
from medllava.train.config import StageRunConfig
from medllava.train.rank import PARENT

_HOSTFILE = "DLTS_HOSTFILE"
"""DeepSpeed's own variable for where the hostfile is, and its default."""
_DEFAULT_HOSTFILE = "/job/hostfile"
_MODULE = "medllava.train.rank"
_POLL_SECONDS = 0.2
_ECHOES = ("connection", "peer", "broken pipe", "gloo", "nccl", "socket", "timed out")
"""Words in the error of a rank that only noticed that another one was gone."""


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
    config.output_dir.mkdir(parents=True, exist_ok=True)
    folder = rank_files.open_folder(config)
    command = build_command(folder.resolve(), gpus=gpus, nodes=nodes)
    progress.note(f"starting {gpus * nodes} ranks")
    process = subprocess.Popen(
        command,
        stdout=sys.stderr.fileno(),  # results are this process's to print
        env=_environment(),
        start_new_session=True,  # signals reach the ranks through this process only
    )
    previous = signal.signal(signal.SIGTERM, lambda *_: _signal_ranks(folder))
    reader = rank_files.ProgressReader(folder, progress)
    try:
        while process.poll() is None:
            reader.repeat()
            time.sleep(_POLL_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, previous)
        if process.poll() is None:
            process.terminate()
            process.wait()
    reader.repeat()
    summary = _outcome(rank_files.read_ranks(folder), world_size=gpus * nodes)
    rank_files.close_folder(config)
    return summary


def build_command(
    folder: Path, *, gpus: int, nodes: int, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the command that starts all ranks.

    Args:
        folder: made by `rank_files.open_folder`; on several machines they all must see it.
        gpus: ranks per machine.
        nodes: machines.
        environment: tells of a Slurm allocation or a hostfile.

    Raises:
        SetupError: several machines are asked for and neither is there.
    """
    if nodes == 1:
        hosts = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(gpus))}).encode())
        return [
            *(sys.executable, "-m", "deepspeed.launcher.launch", "--quiet", "--no_local_rank"),
            f"--world_info={hosts.decode()}",
            "--master_addr=127.0.0.1",
            f"--master_port={_free_port()}",
            *("--module", _MODULE, str(folder)),
        ]
    if "SLURM_JOB_ID" in environment and shutil.which("srun"):
        return [
            *("srun", f"--nodes={nodes}", f"--ntasks={gpus * nodes}", f"--ntasks-per-node={gpus}"),
            *("--kill-on-bad-exit=1", sys.executable, "-m", _MODULE, str(folder)),
        ]
    hostfile = Path(environment.get(_HOSTFILE, _DEFAULT_HOSTFILE))
    if not hostfile.is_file():
        raise SetupError(
            f"--nodes {nodes} needs a Slurm allocation or DeepSpeed's hostfile, and there is "
            f"neither: {hostfile}. Set {_HOSTFILE}, or start medllava train with torchrun."
        )
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}"),
        *(f"--num_nodes={nodes}", f"--num_gpus={gpus}", "--no_local_rank"),
        *("--module", _MODULE, str(folder)),
    ]


def _environment() -> dict[str, str]:
    """Return the ranks' environment: tied to this process, one CPU thread unless said otherwise."""
    import torch  # noqa: PLC0415 - heavy

    environment = {**os.environ, PARENT: f"{platform.node()}:{os.getpid()}"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def _check_devices(gpus: int) -> None:
    import torch  # noqa: PLC0415 - heavy

    found = torch.cuda.device_count()
    if 0 < found < gpus:
        raise SetupError(f"--gpus {gpus}: this machine has {found}. Ask for fewer.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal_ranks(folder: Path) -> None:
    """Hand SIGTERM on to the ranks of this machine, which then save and stop."""
    for values in rank_files.read_ranks(folder):
        if values["host"] == platform.node():
            try:
                os.kill(values["pid"], signal.SIGTERM)
            except ProcessLookupError:
                continue


def _outcome(ranks: list[dict[str, Any]], *, world_size: int) -> StepSummary:
    """Return the summary of rank 0, or raise what ended the run first."""
    if len(ranks) == world_size and all("summary" in values for values in ranks):
        return rank_files.read_summary(ranks[0])
    early = [v for v in ranks if not v.get("summary", {"complete": True})["complete"]]
    if early:  # one of them found the disk full
        return rank_files.read_summary(early[0])
    failed = sorted((v for v in ranks if "error" in v), key=lambda v: v["time"])
    known = [rank_files.read_error(v, where=_name(v)) for v in failed]
    for error in known:
        if error is not None:
            raise error
    own = [v for v in failed if not any(w in v["error"]["message"].lower() for w in _ECHOES)]
    if own:
        raise RankError(f"{_name(own[0])}: {own[0]['error']['type']}: {own[0]['error']['message']}")
    silent = [v for v in ranks if "error" not in v and "summary" not in v]
    if silent:
        raise SetupError(
            f"{_name(silent[0])} ended without a word, as a process does that is killed or runs "
            "out of memory. Run the same command again to go on from the last checkpoint."
        )
    if failed:
        raise RankError(f"{_name(failed[0])}: {failed[0]['error']['message']}")
    raise SetupError(f"only {len(ranks)} of {world_size} ranks started. See the messages above.")


class RankError(MedllavaError):
    """A rank ended with an error that no user can act on; its traceback is on stderr."""


def _name(values: dict[str, Any]) -> str:
    return f"rank {values['rank']} on {values['host']}"
