"""Which process of how many this is, and what the processes of a run say to each other.

One process per GPU (or per CPU rank) runs the same code. Who started them is told by the
environment: our own launch, torchrun, or Slurm's srun. Rank 0 writes; the others wait for it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

_PATIENCE = timedelta(hours=2)
"""How long ranks wait for rank 0, which reads and tokenizes all records."""
_PORTS = (20_000, 20_000)
"""First port and how many, one of which follows from a Slurm job's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all of a run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    is_launched: bool = False
    """Whether a launcher started this process, which even one rank can need (DeepSpeed)."""

    @property
    def is_main(self) -> bool:
        """Tell whether this one writes."""
        return self.rank == 0

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Join the others for the time of the `with`; a process of its own does nothing."""
        if not self.is_launched or distributed.is_initialized():
            yield
            return
        is_gpu = torch.cuda.is_available()
        if is_gpu:
            torch.cuda.set_device(self.local_rank)
        else:
            _use_gloo_alone()
        distributed.init_process_group("nccl" if is_gpu else "gloo", timeout=_PATIENCE)
        yield
        distributed.destroy_process_group()  # not after an error: the others may be gone

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            distributed.barrier()

    def total(self, values: list[float]) -> list[float]:
        """Add up numbers over all ranks; every rank gets the sums."""
        if self.world_size == 1:
            return values
        device = "cuda" if torch.cuda.is_available() else "cpu"
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed.tolist()]


def find_ranks(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """Tell from the environment which rank this process is; Slurm's names are made torch's."""
    if "RANK" not in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        job = int(environment.get("SLURM_JOB_ID", "0"))
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
        environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
        environment.setdefault(
            "MASTER_ADDR", _first_host(environment.get("SLURM_STEP_NODELIST", ""))
        )
        environment.setdefault("MASTER_PORT", str(_PORTS[0] + job % _PORTS[1]))
    return Ranks(
        rank=int(environment.get("RANK", "0")),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        world_size=int(environment.get("WORLD_SIZE", "1")),
        is_launched="RANK" in environment,
    )


def _use_gloo_alone() -> None:
    """Keep DeepSpeed from compiling a shared-memory kernel, which takes longer than it saves."""
    from deepspeed import ops  # noqa: PLC0415 - only several ranks need it

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _first_host(hosts: str) -> str:
    """Return the first of Slurm's host list, such as `gpu[03-06]`."""
    scontrol = shutil.which("scontrol")
    if scontrol is None or not hosts:
        return hosts.split(",")[0].split("[")[0] or "127.0.0.1"
    command = [scontrol, "show", "hostnames", hosts]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return shown.stdout.split()[0]
