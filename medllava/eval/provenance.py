"""What a number depends on besides the replies: weights, packages, code."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medllava.store import read_json, sha256_of

_PACKAGES = ("medllava", "torch", "transformers", "tokenizers", "numpy", "sacrebleu", "pillow")


def describe_model(checkpoint: str) -> dict[str, Any]:
    """Return where a model comes from and the hash of its weights.

    A run folder of ours says both; for other folders the weight files are hashed, for a hub id the
    hub's own revision is left to the cache.
    """
    folder = Path(checkpoint)
    facts: dict[str, Any] = {"source": checkpoint, "weights_sha256": None}
    if not folder.is_dir():
        return facts
    run = folder / "run.json"
    if run.is_file():
        values = read_json(run)
        if isinstance(values, dict):
            facts |= {key: values.get(key) for key in ("recipe", "stage", "weights_sha256")}
    if not facts["weights_sha256"]:
        facts["weights_sha256"] = hash_weights(folder)
    return facts


def hash_weights(folder: Path) -> str | None:
    """Return one SHA-256 over the names and contents of the weight files of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of what computed the numbers."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def code_commit() -> str | None:
    """Return the git commit of this checkout, or None for an installed package."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607 - from PATH
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
