"""Reading a part from a folder or the hub, with errors that say what is not there.

Transformers warns about weights that are missing or left over and goes on with random ones; here
either stops the load and is named. No part is ever allowed to bring its own code.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from medllava.errors import SetupError
from medllava.layout import CHECKPOINTS_DIR, MODEL_CONFIG_FILE
from medllava.model.tensors import has_pickle, pickle_error

_SHOWN = 5


@contextmanager
def reading_weights(source: str, *, key: str) -> Iterator[None]:
    """Turn what transformers raises for an unreachable source into one `SetupError`.

    Args:
        source: hub id or folder that is read inside the `with`.
        key: recipe setting or option that names it.
    """
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path and not Path(source).is_dir():
        raise SetupError(
            f"no such folder: {source} ({key}). "
            f"Put the weights there, or name another with {_setting(key)}."
        )
    try:
        with without_bars():
            yield
    except (OSError, ValueError, ImportError) as error:
        if has_pickle(source):
            raise pickle_error(source) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise SetupError(
            f"cannot load {source!r} ({key}): {reason.rstrip('.')}. "
            f"Check the id and the network, or name a local folder with {_setting(key)}."
        ) from error


def _setting(key: str) -> str:
    """Return how a folder is given for an option, or for a setting of the recipe."""
    return f"{key} FOLDER" if key.startswith("-") else f"--set {key}=FOLDER"


def read_config(source: str) -> dict[str, Any]:
    """Return the values of a checkpoint's `config.json`, whatever model type they are of.

    Raises:
        SetupError: the source cannot be reached or has no such file.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / MODEL_CONFIG_FILE).is_file():
        raise SetupError(f"no {MODEL_CONFIG_FILE}: {folder}. {_advice(folder)}")
    with reading_weights(source, key="--ckpt"):
        values = json.loads(
            Path(str(cached_file(source, MODEL_CONFIG_FILE))).read_text(encoding="utf-8")
        )
    if not isinstance(values, dict):
        raise SetupError(f"config.json is not a JSON object: {source}. Check the checkpoint.")
    return values


def _advice(folder: Path) -> str:
    """Say what to do about a folder that holds no model."""
    checkpoints = sorted(folder.glob(f"{CHECKPOINTS_DIR}/step-*"), key=lambda p: p.stat().st_mtime)
    if checkpoints:
        return f"Its training is not finished: repeat that command, or name {checkpoints[-1]}."
    return "Name a folder that `medllava train` or transformers wrote."


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' bars and load reports off stderr, which belongs to the command line."""
    shown = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def check_keys(
    info: Mapping[str, Any], *, source: str, ignored_prefixes: tuple[str, ...] = ()
) -> None:
    """Stop if weights were missing, left over or of the wrong shape.

    Args:
        info: what `from_pretrained(output_loading_info=True)` returned.
        source: named in the error.
        ignored_prefixes: left-over keys of parts that are not wanted.

    Raises:
        SetupError: names the keys.
    """
    unexpected = [k for k in info["unexpected_keys"] if not k.startswith(ignored_prefixes)]
    shapes = [k if isinstance(k, str) else k[0] for k in info["mismatched_keys"]]
    problems = {
        "missing": list(info["missing_keys"]),
        "unexpected": unexpected,
        "misshapen": shapes,
    }
    check_none(problems, source=source)


def check_none(problems: Mapping[str, list[str]], *, source: str) -> None:
    """Raise a `SetupError` that names the keys of every kind of problem there is."""
    told = [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]
    if told:
        raise SetupError(
            f"weights do not fit the model ({'; '.join(told)}): {source}. "
            "Check that the checkpoint is complete and of the type its config.json says."
        )


def _some(keys: list[str]) -> str:
    shown = ", ".join(sorted(keys)[:_SHOWN])
    more = len(keys) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
