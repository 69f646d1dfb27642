"""Nothing private leaves: machine paths are cut out of our own JSON, and every file is searched.

`hide_paths` keeps only the last component of an absolute path, in files we wrote. `find_private`
then reads each file that would be uploaded and names what must not be there: a secret by its shape
or by being one of this user's own, or a path of this machine.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

_TOP_FOLDERS = (
    "home|Users|root|mnt|media|scratch|data|work|workspace|tmp|var|opt|srv|gpfs|lustre|nfs|project|"
    "projects|private|fsx|shared|storage|content|kaggle"
)
_PATH = re.compile(
    rf"(?<![\w.:/~<-])(?:/(?:{_TOP_FOLDERS})(?:/[\w.+@=,-]+)+|~/[\w.+@=,/-]+|[A-Za-z]:\\+Users(?:\\+[\w.+@=,-]+)+)/?"
)
_SENTENCE = re.compile(r"\s-|\n|[;|<>\"']")
"""Tells a command or a text from a single path with spaces in it."""
_SECRETS: dict[str, re.Pattern[str]] = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an AWS key": re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
_SECRET_NAMES = re.compile(r"(?:TOKEN|API_KEY|SECRET|PASSWORD)$")
_VOCABULARY = {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"}
"""Words of a language: they may look like a path of somebody, so only real paths count there."""
_OPAQUE = {".safetensors", ".parquet", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that must not be published."""

    file: str
    what: str
    """What it is, without repeating a secret."""


def hide_paths(value: Any) -> Any:  # noqa: ANN401 - JSON is any
    """Return JSON with every absolute path of a machine cut to its last component."""
    if isinstance(value, str):
        if _PATH.match(value) and not _SENTENCE.search(value):
            return _last_component(value)
        return _PATH.sub(lambda match: _last_component(match[0]), value)
    if isinstance(value, Mapping):
        return {hide_paths(key): hide_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_paths(item) for item in value]
    return value


def find_private(folder: Path, *, roots: tuple[Path, ...] = ()) -> Iterator[Finding]:
    """Search every file under `folder`.

    Args:
        folder: what would be uploaded.
        roots: folders of this machine whose full path must not appear; home is always one.
    """
    literals = _own_paths(roots)
    secrets = _own_secrets()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            for what in _search(path, literals=literals, secrets=secrets):
                yield Finding(file=name, what=what)


def find_secret(text: str) -> str | None:
    """Return what kind of secret a text holds, by its shape, or None."""
    return next((what for what, pattern in _SECRETS.items() if pattern.search(text)), None)


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a safetensors file.

    Raises:
        ValueError: the file is no safetensors file.
    """
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if not 2 <= size <= 100_000_000:
            raise ValueError(f"header of {size} bytes")
        header = json.loads(handle.read(size))
    if not isinstance(header, dict):
        raise ValueError("header is not an object")
    return header


def _search(path: Path, *, literals: list[str], secrets: list[str]) -> Iterator[str]:
    if path.suffix in _OPAQUE:
        if path.suffix != ".safetensors":
            return
        text = json.dumps(read_header(path).get("__metadata__", {}))
    else:
        text = path.read_bytes().decode("utf-8", errors="replace")
    if any(secret in text for secret in secrets):
        yield "a secret from this environment"
    shape = find_secret(text)
    if shape:
        yield shape
    found = [literal for literal in literals if literal in text]
    if not found and path.name not in _VOCABULARY:
        found = [match[0] for match in _PATH.finditer(text)][:1]
    for literal in found[:1]:
        yield f"the path {literal}"


def _own_paths(roots: tuple[Path, ...]) -> list[str]:
    """Return this machine's folders as text; a short one such as / or /root names nobody."""
    folders = {str(folder) for root in (Path.home(), *roots) for folder in (root, root.resolve())}
    return sorted(folder for folder in folders if folder.count("/") > 1 or "\\" in folder)


def _own_secrets() -> list[str]:
    """Return the values of secrets this process could leak, for an exact search."""
    values = [value for name, value in os.environ.items() if _SECRET_NAMES.search(name.upper())]
    return [value for value in (*values, get_token()) if value and len(value) >= 8]


def _last_component(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1]
