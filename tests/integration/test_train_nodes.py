"""Two hosts with addresses of their own train one stage: network namespaces, real rendezvous."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORT = 29_517
HOSTS = {f"mlv{os.getpid()}a": "10.77.0.1", f"mlv{os.getpid()}b": "10.77.0.2"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Two namespaces joined by a cable; every process in one of them sees only its own side."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = list(HOSTS)
    made: list[str] = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for name, address in HOSTS.items():
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for device in ("lo", name):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def train(output_dir: Path) -> list[str]:
    return [
        *("medllava", "train", "debug", "--stage", "1", "--max-steps", "2"),
        *("-o", str(output_dir), "--json"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hosts_learn_what_one_process_learns(hosts: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank, name in enumerate(hosts):
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
            *(f"--node-rank={rank}", f"--master-addr={HOSTS[hosts[0]]}", f"--master-port={PORT}"),
            *("-m", *train(tmp_path / "nodes")),
        ]
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *launcher],
                env=environment | {"GLOO_SOCKET_IFNAME": name},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    # Rank 0's host says what came of it; the other keeps stdout empty.
    summary = json.loads(outputs[0][0])["summary"]
    assert outputs[1][0] == ""
    alone = subprocess.run(
        [sys.executable, "-m", *train(tmp_path / "alone")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(alone.stdout)["summary"]
    for name in ("loss_first", "loss_last"):
        assert summary[name] == pytest.approx(expected[name], abs=2e-5)
    run = json.loads((tmp_path / "nodes/run.json").read_text())
    assert run["ranks"] == 2
