"""What must hold before anything is uploaded; each failure says what to do about it.

A staged folder enters. It must hold safetensors only, nothing private, the very weights that were
evaluated, and, for a model, load in a fresh process that does not know this package.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.hub.privacy import find_private, read_header
from medllava.hub.scores import Evaluation
from medllava.layout import MODEL_CONFIG_FILE, WEIGHTS_FILE
from medllava.provenance import is_weights_of, weights_files
from medllava.store import read_json

_PROBE = Path(__file__).with_name("probe.py")
_PROBE_SECONDS = 1800
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""A pickle, or the zip that torch.save puts around one."""
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "TMPDIR",
)


def publishable_weights(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted by name.

    Raises:
        DataError: there are none, only pickled ones, one is malformed, or a shard is missing.
    """
    files = weights_files(folder)
    if not files:
        pickled = sorted(folder.glob("*.bin"))
        found = f" ({pickled[0].name} is a pickle, which is not published)" if pickled else ""
        raise DataError(f"no {WEIGHTS_FILE}{found}: {folder}. Save the model with save_pretrained.")
    for path in files:
        try:
            read_header(path)
        except ValueError as error:
            raise DataError(f"not a safetensors file ({error}): {path}. Save it again.") from None
    return files


def check_weights(
    folder: Path, weights: str, *, trained: str | None, evaluations: Sequence[Evaluation]
) -> None:
    """Check that the run's record and every report are about the weights in `folder`.

    Args:
        folder: of the model.
        weights: their hash.
        trained: as `run.json` recorded it.
        evaluations: whose numbers the card prints.

    Raises:
        DataError: one names other weights; its numbers would be published for the wrong model.
    """
    if trained not in (None, weights) and not is_weights_of(str(trained), folder):
        raise DataError(
            f"run.json was written with weights {str(trained)[:12]}, these are {weights[:12]}. "
            "Push the folder as `medllava train` left it."
        )
    for evaluation in evaluations:
        made_with = evaluation.weights_sha256
        if made_with not in (None, weights) and not is_weights_of(str(made_with), folder):
            raise DataError(
                f"{evaluation.path} was made with weights {str(made_with)[:12]}, "
                f"these are {weights[:12]}. Run `medllava eval {evaluation.task}` on this "
                "checkpoint again, or remove that report."
            )


def check_files(folder: Path, *, roots: tuple[Path, ...]) -> None:
    """Check that no file is a pickle, links elsewhere, or holds a secret or a private path.

    Raises:
        DataError: names the file and what is in it.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise DataError(f"a link would be uploaded: {path}. Copy the file itself.")
        if path.is_file():
            with path.open("rb") as handle:
                if handle.read(4).startswith(_PICKLE_STARTS):
                    raise DataError(f"a pickle would be uploaded: {path}. Remove it.")
    findings = list(find_private(folder, roots=roots))
    if findings:
        named = "; ".join(f"{finding.file} holds {finding.what}" for finding in findings[:5])
        raise DataError(f"private content in {folder}: {named}. Remove it and push again.")


def check_config(folder: Path) -> None:
    """Check that the configuration is native and calls for no code from the repository.

    Raises:
        DataError: names the key.
    """
    config = read_json(folder / MODEL_CONFIG_FILE)
    if config.get("model_type") != "llava":
        raise DataError(
            f"model_type is {config.get('model_type')!r}, not 'llava': {folder / 'config.json'}. "
            "Import the model first: `medllava train --init` writes the native form."
        )
    if _mentions_remote_code(config):
        raise DataError(f"auto_map asks for remote code: {folder / 'config.json'}. Remove it.")


def check_loads(folder: Path) -> dict[str, Any]:
    """Load the folder in a fresh process, without secrets, and return what the model answered.

    Raises:
        DataError: it does not load or does not answer; quotes the last line of its error.
    """
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    command = [sys.executable, "-P", str(_PROBE), str(folder.resolve())]
    try:
        done = subprocess.run(
            command,
            env={**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"no answer from a fresh process after {_PROBE_SECONDS} s: {folder}. Push from a "
            "machine with more memory, or with --no-load-check."
        ) from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(f"does not load in a fresh process ({reason}): {folder}.")
    answer: dict[str, Any] = json.loads(lines[-1])
    if not answer["tokens"]:
        raise DataError(f"loads but answers nothing: {folder}. Check its chat template.")
    return answer


def _mentions_remote_code(value: object) -> bool:
    if isinstance(value, dict):
        return "auto_map" in value or any(_mentions_remote_code(item) for item in value.values())
    return False
