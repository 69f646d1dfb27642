"""Tensors of a checkpoint folder or hub repository, without any model class and without pickle.

Safetensors files are mapped, not read; older `.bin` files are opened with torch's weights-only
reader, which runs nothing from the file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from medllava.errors import SetupError

_LAYOUTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ("", "open_clip_model.safetensors"),
    ("", "open_clip_pytorch_model.bin"),
)


def iter_tensor_files(source: str, *, local_only: bool = False) -> Iterator[Path]:
    """Yield the weight files of `source`, a folder or a hub id, fetching them where needed.

    Raises:
        SetupError: there are none.
    """
    for index, single in _LAYOUTS:
        listing = find_file(source, index, local_only=local_only) if index else None
        if listing is not None:
            names = json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values()
            for name in sorted(set(names)):
                path = find_file(source, name, local_only=local_only)
                if path is None:
                    raise SetupError(
                        f"weight file {name} is missing: {source}. Fetch the checkpoint again."
                    )
                yield path
            return
        path = find_file(source, single, local_only=local_only)
        if path is not None:
            yield path
            return
    raise SetupError(f"no weights (safetensors or .bin): {source}. Check the path or the id.")


def read_tensors(source: str, *, local_only: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by their names on disk."""
    tensors: dict[str, Tensor] = {}
    for path in iter_tensor_files(source, local_only=local_only):
        if path.suffix == ".safetensors":
            tensors |= load_file(path)
        else:
            tensors |= torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return tensors


def find_file(source: str, name: str, *, local_only: bool = False) -> Path | None:
    """Return the local path of a file of `source`, or None if it has no such file.

    Args:
        source: folder or hub id.
        name: of the file.
        local_only: do not ask the hub; what it keeps on this disk is found all the same.
    """
    path = cached_file(
        source,
        name,
        local_files_only=local_only,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if path is None else Path(path)
