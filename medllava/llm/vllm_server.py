"""vLLM's server for a checkpoint on this machine, started where it is installed.

`vllm serve` runs below a guard, a small process of its own that ends it when our side of a pipe
closes, so it ends with its starter even if that is killed. It listens on the loopback address; its
log goes into a file, the end of which is told where it does not start.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from medllava.errors import SetupError

_START_SECONDS = 1800.0
"""Weights of a large model are read and compiled in this time, or not at all."""
_POLL_SECONDS, _STOP_SECONDS = 0.5, 30.0
_LOG_CHARACTERS = 600


def is_served(base_url: str) -> bool:
    """Tell whether a server answers at an address that ends in `/v1`."""
    try:
        with urlopen(f"{base_url}/models", timeout=2) as reply:  # noqa: S310 - our own address
            return bool(reply.status == 200)
    except (URLError, OSError, ValueError):
        return False


@contextmanager
def vllm_server(checkpoint: str, *, log: Path, gpus: int = 1) -> Iterator[str]:
    """Serve a checkpoint while the `with` lasts.

    Args:
        checkpoint: folder or hub id; also the model's name on the server.
        log: file for what vLLM says.
        gpus: among which each layer is divided.

    Yields:
        The server's address, which ends in `/v1`.

    Raises:
        SetupError: vLLM is not installed, or does not start; says what it said last.
    """
    program = shutil.which("vllm")
    if program is None:
        raise SetupError(
            "--backend vllm starts vLLM's server, which is not installed here. Run pip install "
            f"vllm (Linux with a GPU), or run `vllm serve {checkpoint}` elsewhere and name it: "
            "--backend http://HOST:8000/v1."
        )
    port = _free_port()
    command = [program, "serve", checkpoint, "--host", "127.0.0.1", "--port", str(port)]
    if gpus > 1:
        command += ["--tensor-parallel-size", str(gpus)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        guard = subprocess.Popen(
            [sys.executable, "-P", __file__, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            base_url = f"http://127.0.0.1:{port}/v1"
            _wait(guard, base_url, checkpoint, log)
            yield base_url
        finally:
            assert guard.stdin is not None  # noqa: S101 - it was asked for
            guard.stdin.close()
            try:
                guard.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                guard.kill()
                guard.wait()


def _wait(guard: "subprocess.Popen[bytes]", base_url: str, checkpoint: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        code = guard.poll()
        if code is not None:
            raise SetupError(
                f"vLLM cannot serve {checkpoint} (exit {code}): {_last_words(log)} "
                f"All it said: {log}."
            )
        if is_served(base_url):
            return
        time.sleep(_POLL_SECONDS)
    raise SetupError(
        f"vLLM did not serve {checkpoint} within {_START_SECONDS / 60:.0f} minutes: "
        f"{_last_words(log)} All it said: {log}."
    )


def _last_words(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return " ".join(text.split())[-_LOG_CHARACTERS:] or "it said nothing."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _guard(command: list[str]) -> int:
    """Run a command in a session of its own until it ends or standard input closes."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_input() -> None:
        sys.stdin.buffer.read()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_STOP_SECONDS / 3)
                return

    threading.Thread(target=end_with_input, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(_guard(sys.argv[1:]))  # the thread holds standard input, for which an exit would wait
