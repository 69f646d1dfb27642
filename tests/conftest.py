"""Every test runs cut off from the network, without the user's settings, and seeded."""

import gc
import os
import random
import socket
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared"
"""Real articles for tests, beside the checkout; absent on most machines."""


def pytest_collection_finish() -> None:
    """Set aside what the imports made: every full collection would walk all of it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Clear our variables, keep off the user's cache, refuse all addresses but loopback, seed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in list(os.environ):
        if name.startswith("MEDLLAVA_") or name in {"OPENAI_API_KEY", "HF_TOKEN", "NCBI_API_KEY"}:
            monkeypatch.delenv(name)
    random.seed(0)
    connect = socket.socket.connect

    def connect_loopback(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise OSError(f"tests do not use the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect_loopback)
    return


@pytest.fixture
def pmc_samples() -> Path:
    """Real PMC articles, or a skip where they are not at hand."""
    folder = SHARED / "pmc-samples"
    if not folder.is_dir():
        pytest.skip("real PMC samples are not beside this checkout")
    return folder
