"""The formats of `push --export`, and what each needs; torch-free.

gguf, gguf-f32, gguf-f16, gguf-q8_0, gguf-q4_1    llama.cpp, Ollama; `gguf` is gguf-q8_0
fp8, awq                                          quantized safetensors for vLLM
"""

import importlib.util
from collections.abc import Iterable

from medllava.errors import RecipeError, SetupError

GGUF = "gguf"
_GGUF_KINDS = ("f32", "f16", "q8_0", "q4_1")
_QUANTIZED = {"fp8": "llmcompressor", "awq": "llmcompressor"}
FORMATS = (GGUF, *(f"{GGUF}-{kind}" for kind in _GGUF_KINDS), *_QUANTIZED)


def parse_formats(names: Iterable[str]) -> tuple[str, ...]:
    """Return the formats in full, each once.

    Raises:
        RecipeError: one is unknown; lists all.
        SetupError: one needs a package that is not installed, or that no test here has run.
    """
    formats = []
    for name in names:
        if name not in FORMATS:
            raise RecipeError(f"--export {name!r}: expected one of {', '.join(FORMATS)}.")
        full = f"{GGUF}-q8_0" if name == GGUF else name
        _check(full)
        formats.append(full)
    return tuple(dict.fromkeys(formats))


def gguf_kind(name: str) -> str | None:
    """Return the precision of a GGUF format, None for another format."""
    prefix = f"{GGUF}-"
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def _check(name: str) -> None:
    if gguf_kind(name):
        missing = [p for p in ("gguf", "xllamacpp") if importlib.util.find_spec(p) is None]
        if missing:
            raise SetupError(
                f"--export {name} needs {' and '.join(missing)}. "
                "Install: pip install 'medllava[gguf]'"
            )
    if name in _QUANTIZED:
        raise SetupError(
            f"--export {name} is not written by medllava: push the folder and quantize it with "
            "llm-compressor (pip install llmcompressor), which reads it as it lies; then measure "
            "it with medllava eval TASK --base-url. Or export gguf-q8_0 or gguf-q4_1."
        )
