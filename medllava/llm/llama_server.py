"""A llama.cpp server for GGUF files on this machine, in a process of its own.

The package `xllamacpp` brings the server; a process of its own keeps its log off our terminal and
lets it die alone. It listens on the loopback address and ends when its starter does.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from medllava.errors import SetupError
from medllava.provenance import gguf_files

_MARK = "medllava-llama-server "
_LOG_CHARACTERS = 600


def check_llama_server() -> None:
    """Raise a `SetupError` with the install line if the server's package is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise SetupError("llama.cpp's server is missing. Install it: pip install 'medllava[gguf]'")


def num_threads() -> int:
    """Return how many threads a server here may take: `OMP_NUM_THREADS`, else every core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def serve_gguf(model: Path, *, context: int = 8192) -> Iterator[str]:
    """Serve a GGUF model, with the picture part beside it, on this machine's cores.

    Args:
        model: of the language model; see `provenance.gguf_files`.
        context: tokens of one conversation, pictures included.

    Yields:
        The server's address, with `/v1`.

    Raises:
        DataError: the file is not there, or several picture parts are.
        SetupError: the package is missing, or llama.cpp cannot load the files.
    """
    file, *vision = gguf_files(model)
    with llama_server(
        file, vision=vision[0] if vision else None, threads=num_threads(), context=context
    ) as address:
        yield f"{address}/v1"


@contextmanager
def llama_server(
    model: Path,
    *,
    vision: Path | None = None,
    threads: int = 1,
    context: int = 2048,
    exact: bool = False,
) -> Iterator[str]:
    """Serve a GGUF model while the `with` lasts.

    Args:
        model: of the language model.
        vision: of the picture part, for a model that sees.
        threads: of the processor.
        context: tokens of one conversation, pictures included.
        exact: keep keys and values in float32; llama.cpp's own choice is float16.

    Yields:
        The server's address, without `/v1`.

    Raises:
        SetupError: the package is missing, or llama.cpp cannot load the files.
    """
    check_llama_server()
    command = [sys.executable, "-P", __file__, str(model), str(vision or ""), str(threads)]
    command += [str(context), str(exact)]
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
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


def _serve(model: str, vision: str, threads: str, context: str, exact: str) -> None:
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
    if exact == str(True):
        values.cache_type_k = values.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Flash attention rounds keys and values of the encoder to float16 as well.
        disabled = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        values.flash_attn_type = disabled
    server = xllamacpp.Server(values)
    sys.stdout.write(f"{_MARK}{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
