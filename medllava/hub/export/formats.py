"""The formats of `push --export`, and what each needs; torch-free.

gguf, gguf-f32, gguf-f16, gguf-q8_0, gguf-q4_1    llama.cpp, Ollama; `gguf` is gguf-q8_0
adapter                                           what an adapter learned, beside its model
fp8                                               8-bit floats, for vLLM
awq                                               by llm-compressor only, which is told
"""

import importlib.util
from collections.abc import Iterable

from medllava.errors import RecipeError, SetupError

GGUF, ADAPTER, FP8, AWQ = "gguf", "adapter", "fp8", "awq"
_GGUF_KINDS = ("f32", "f16", "q8_0", "q4_1")
FORMATS = (GGUF, *(f"{GGUF}-{kind}" for kind in _GGUF_KINDS), ADAPTER, FP8, AWQ)
_NEEDS = {
    GGUF: (("gguf", "xllamacpp"), "medllava[gguf]"),
    ADAPTER: (("peft",), "medllava[lora]"),
    FP8: (("compressed_tensors",), "medllava[fp8]"),
}
"""Kind of format to its packages and the extra that brings them."""


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
    if name == AWQ:
        raise SetupError(
            "--export awq is not written by medllava: it needs answers on data of yours, and "
            "llm-compressor, which does it, wants other versions of transformers. In an "
            "environment of its own, pip install llmcompressor, give its AWQModifier this folder, "
            "and measure the result with medllava eval TASK --backend URL. "
            "Or export fp8, gguf-q8_0 or gguf-q4_1."
        )
    packages, extra = _NEEDS[GGUF if gguf_kind(name) else name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise SetupError(
            f"--export {name} needs {' and '.join(missing)}. Install: pip install '{extra}'"
        )
