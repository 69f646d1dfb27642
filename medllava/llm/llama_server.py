"""A llama.cpp server for GGUF files on this machine, in a process of its own.

The package `xllamacpp` brings the server; a process of its own keeps its log off our terminal and
lets it die alone. It listens on the loopback address and ends when its starter does.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from medllava.errors import SetupError

_MARK = "medllava-llama-server "
_LOG_CHARACTERS = 600


def check_llama_server() -> None:
    """Raise a `SetupError` with the install line if the server's package is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise SetupError("llama.cpp's server is missing. Install it: pip install 'medllava[gguf]'")


@contextmanager
def llama_server(
    model: Path, *, vision: Path | None = None, threads: int = 1, context: int = 2048
) -> Iterator[str]:
    """Serve a GGUF model while the `with` lasts.

    Args:
        model: of the language model.
        vision: of the picture part, for a model that sees.
        threads: of the processor.
        context: tokens of one conversation, pictures included.

    Yields:
        The server's address, without `/v1`.

    Raises:
        SetupError: the package is missing, or llama.cpp cannot load the files.
    """
    check_llama_server()
    command = [sys.executable, "-P", __file__, str(model), str(vision or ""), str(threads)]
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _wait_for_address(process, model, log)
        finally:
            process.kill()
            process.communicate()


def _wait_for_address(process: "subprocess.Popen[str]", model: Path, log: object) -> str:
    for line in process.stdout or ():
        if line.startswith(_MARK):
            return line.removeprefix(_MARK).strip()
    process.wait()
    log.seek(0)  # type: ignore[attr-defined]
    said = " ".join(log.read().split())[-_LOG_CHARACTERS:]  # type: ignore[attr-defined]
    raise SetupError(f"llama.cpp cannot serve {model} (exit {process.returncode}): {said}")


def _serve(model: str, vision: str, threads: str, context: str) -> None:
    """Run in the process of its own: serve until standard input closes."""
    import xllamacpp  # noqa: PLC0415 - only in this process

    values = xllamacpp.CommonParams()
    values.model.path = model
    values.mmproj.path = vision
    values.mmproj_use_gpu = False
    values.n_ctx = int(context)
    values.n_parallel = 1
    values.warmup = False
    values.cpuparams.n_threads = int(threads)
    values.cpuparams_batch.n_threads = int(threads)
    server = xllamacpp.Server(values)
    sys.stdout.write(f"{_MARK}{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
