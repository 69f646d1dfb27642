"""Tensors of a checkpoint folder or hub repository, without any model class and without pickle.

Safetensors files are mapped, not read. A `.bin` file is a pickle, which can run code while it is
opened: it is refused, and the error says how to convert it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import file_exists
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from medllava.errors import SetupError
from medllava.layout import WEIGHTS_FILE, WEIGHTS_INDEX_FILE

_LAYOUTS = (
    (WEIGHTS_INDEX_FILE, WEIGHTS_FILE),
    ("", "open_clip_model.safetensors"),
)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")


def iter_tensor_files(source: str, *, local_only: bool = False) -> Iterator[Path]:
    """Yield the weight files of `source`, a folder or a hub id, fetching them where needed.

    Raises:
        SetupError: there are none, or only pickles.
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
    if not local_only and has_pickle(source):
        raise pickle_error(source)
    raise SetupError(f"no weights (model.safetensors): {source}. Check the path or the id.")


def has_pickle(source: str) -> bool:
    """Tell whether a folder or hub repository has pickled weights; none is fetched."""
    folder = Path(source)
    if folder.is_dir():
        return any((folder / name).is_file() for name in _PICKLES)
    try:
        return any(file_exists(source, name) for name in _PICKLES)
    except (OSError, ValueError, HfHubHTTPError):  # no network, no such repository
        return False


def pickle_error(source: str) -> SetupError:
    """Return the error for weights that come as pickles only, with the way round."""
    return SetupError(
        f"the weights are pickles (.bin), which can run code when opened: {source}. Convert them "
        f"once: python -m medllava.model.to_safetensors {source} FOLDER, then name FOLDER."
    )


def read_tensors(source: str, *, local_only: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by their names on disk."""
    tensors: dict[str, Tensor] = {}
    for path in iter_tensor_files(source, local_only=local_only):
        tensors |= load_file(path)
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
