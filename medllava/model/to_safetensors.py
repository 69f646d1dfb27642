"""Pickled weights (`.bin`) to safetensors, once, at the user's own word.

medllava never opens a pickle by itself. This module does, with torch's reader that builds tensors
and nothing else, and writes a folder that everything here loads:

    python -m medllava.model.to_safetensors SOURCE FOLDER
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

from medllava.errors import MedllavaError, SetupError
from medllava.model.sources import reading_weights

_KEPT = (".json", ".model", ".txt", ".jinja")
_INDEX = "pytorch_model.bin.index.json"


def convert_to_safetensors(source: str, folder: Path) -> Path:
    """Write the checkpoint at `source` with safetensors weights; one file is in memory at a time.

    Args:
        source: folder or hub id with `pytorch_model*.bin` or `open_clip_pytorch_model.bin`.
        folder: made if absent; its configuration and tokenizer files are copied too.

    Raises:
        SetupError: there are no such weights, or a file holds more than tensors.
    """
    origin = Path(source)
    if not origin.is_dir():
        with reading_weights(source, key="SOURCE"):
            patterns = ["*.bin", *(f"*{suffix}" for suffix in _KEPT)]
            origin = Path(snapshot_download(source, allow_patterns=patterns))
    pickles = sorted(
        {*origin.glob("pytorch_model*.bin"), *origin.glob("open_clip_pytorch_model.bin")}
    )
    if not pickles:
        raise SetupError(f"no pytorch_model.bin to convert: {source}. Check the path or the id.")
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name: _safe_name(path.name) for path in pickles}
    for path in pickles:
        _convert_file(path, folder / names[path.name])
    for path in sorted(origin.iterdir()):
        if path.suffix in _KEPT and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    if (origin / _INDEX).is_file():
        index = json.loads((origin / _INDEX).read_text(encoding="utf-8"))
        index["weight_map"] = {k: names.get(v, v) for k, v in index["weight_map"].items()}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _safe_name(name: str) -> str:
    stem = name.removesuffix(".bin").replace("open_clip_pytorch_model", "open_clip_model")
    return stem.replace("pytorch_model", "model") + ".safetensors"


def _convert_file(path: Path, target: Path) -> None:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for what it refuses
        raise SetupError(
            f"torch's weights-only reader refuses this file "
            f"({str(error).splitlines()[0]:.80}): {path}. Get the weights as safetensors."
        ) from None
    # Tensors that share storage in a pickle (tied embeddings) are written out each.
    save_file({name: t.clone() for name, t in tensors.items()}, target, metadata={"format": "pt"})


def main(arguments: list[str]) -> int:
    """Convert what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medllava.model.to_safetensors")
    parser.add_argument("source", help="folder or hub id with .bin weights")
    parser.add_argument("folder", type=Path, help="where the converted checkpoint goes")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(f"{convert_to_safetensors(options.source, options.folder)}\n")
    except MedllavaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
