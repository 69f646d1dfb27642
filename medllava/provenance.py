"""Where a number or a model comes from: its weights, the code, the packages, the sources.

One hash names the weights of a model folder: training records it, evaluation writes it into its
report, and push compares the two. One reader says which commit of this project computed something.
Nothing here needs torch.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medllava import __version__
from medllava.errors import DataError
from medllava.layout import (
    GGUF_SUFFIX,
    LEARNED_FILE,
    RUN_FILE,
    SOURCES_FILE,
    SUMMARY_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)
from medllava.records import Source
from medllava.store import read_json, sha256_of

UNKNOWN = "unknown"
"""A commit that exists and could not be read: not the same as none."""

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "flash-attn",
    "numpy",
    "pillow",
    "sacrebleu",
)
"""What computes our numbers; those that are installed are recorded."""
_GIT_SECONDS = 10


def weights_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a model folder, sorted by name.

    They are the shards that the index names, or `model.safetensors`. Only a folder that has neither
    is taken by its other safetensors files. `learned.safetensors` repeats what the merged weights
    hold already, so it is never one of them.

    Returns:
        Existing files; none if the folder holds no safetensors weights.

    Raises:
        DataError: the index is malformed, or a shard that it names is missing.
    """
    index = folder / WEIGHTS_INDEX_FILE
    if index.is_file():
        files = [folder / name for name in _shard_names(index)]
        for file in files:
            if not file.is_file():
                raise DataError(
                    f"shard {file.name} of {index.name} is missing: {folder}. Copy it there, or "
                    "save the model again."
                )
        return files
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    return sorted(file for file in folder.glob("*.safetensors") if file.name != LEARNED_FILE)


def is_gguf(source: str) -> bool:
    """Tell whether a checkpoint is a GGUF file for llama.cpp and not a folder."""
    return source.endswith(GGUF_SUFFIX)


def gguf_files(model: Path) -> list[Path]:
    """Return a GGUF language model and, where there is one, the picture part beside it.

    Of several picture parts `mmproj-KIND` goes with `model-KIND`, else float16.

    Raises:
        DataError: there is no such file, or it is not clear which picture part belongs to it.
    """
    if not model.is_file():
        raise DataError(f"no such file: {model}. Write one with medllava push CKPT --export gguf.")
    kind = model.stem.rpartition("-")[2]
    found = sorted(path for path in model.parent.glob(f"mmproj*{GGUF_SUFFIX}") if path != model)
    for name in (f"mmproj-{kind}", "mmproj-f16"):
        chosen = [path for path in found if path.stem == name]
        if chosen:
            return [model, *chosen]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"several picture parts beside {model}: {names}. Keep the one it needs.")
    return [model, *found]


def weights_sha256(folder: Path) -> str | None:
    """Return the hash that names a model's weights: SHA-256 over `name hash` lines, by name.

    Returns:
        The hash, or None for a folder without safetensors weights.

    Raises:
        DataError: as `weights_files`.
    """
    return _combine(weights_files(folder))


def is_weights_of(recorded: str, folder: Path) -> bool:
    """Tell whether a recorded hash names the weights that lie in `folder`.

    Records of earlier versions counted `learned.safetensors` and stray shards as weights; such a
    hash still names a folder that nobody touched.
    """
    if recorded == weights_sha256(folder):
        return True
    every_file = sorted(folder.glob("*.safetensors"))
    return every_file != weights_files(folder) and recorded == _combine(every_file)


def describe_model(checkpoint: str) -> dict[str, Any]:
    """Return where a model comes from and the hash of the weights that lie there now.

    Args:
        checkpoint: a folder; a GGUF file; `ADAPTER+BASE`; or a hub id, whose revision is left to
            the hub's own cache.

    Raises:
        DataError: as `weights_files` and `gguf_files`, or `run.json` is not a JSON object.
    """
    folder = Path(checkpoint)
    facts: dict[str, Any] = {"source": checkpoint, "weights_sha256": None}
    if is_gguf(checkpoint):
        return {**facts, "weights_sha256": _combine(gguf_files(folder))}
    if not folder.is_dir():
        parts = [Path(part) for part in checkpoint.split("+")]
        if len(parts) > 1 and all(part.is_dir() for part in parts):
            facts["weights_sha256"] = _combine([f for part in parts for f in weights_files(part)])
        return facts
    run = _read_if_there(folder / RUN_FILE)
    if isinstance(run, Mapping):
        facts |= {key: run.get(key) for key in ("recipe", "stage")}
    return {**facts, "weights_sha256": weights_sha256(folder)}


def code_commit() -> str | None:
    """Return the commit of this project's own checkout, `-dirty` behind it if files were changed.

    Returns:
        None for an installed package, also where the environment lies inside a repository of the
        user's; `unknown` for a checkout that git cannot read.
    """
    return commit_of(Path(__file__).parents[1])


def commit_of(root: Path) -> str | None:
    """Return the commit of the checkout whose top folder is `root`, or None if it is none of ours.

    A `.git` beside the package is not enough: a repository that vendors the package has one too.
    """
    if not (root / ".git").exists() or not _is_our_project(root / "pyproject.toml"):
        return None
    git = shutil.which("git")
    if git is None:
        return UNKNOWN
    # Inside a git hook these point at the repository that is being committed to.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = [git, "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return done.stdout.strip() or UNKNOWN


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what computes its numbers."""
    versions = {"python": platform.python_version(), "medllava": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def parse_sources(values: object) -> tuple[Source, ...]:
    """Read a list of sources that anybody wrote.

    Entries without a name are skipped, unknown keys ignored, other values taken as text.
    """
    entries = values if isinstance(values, list) else []
    return tuple(
        Source(
            name=str(entry["name"]),
            version=str(entry.get("version") or ""),
            license=str(entry["license"]) if entry.get("license") else None,
            sha256=str(entry.get("sha256") or ""),
            note=str(entry.get("note") or ""),
        )
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("name")
    )


def trace_sources(path: Path) -> tuple[Source, ...]:
    """Follow a part, a data file or a folder to the packages and collections it came from.

    A part's folder holds `SOURCES.json`; an instructions folder's summary names its figures folder,
    whose summary names the archive it read, which holds `SOURCES.json` again. Folders that are
    gone are passed over, and none are found for a hub id.

    Raises:
        DataError: such a file is there and cannot be read, so that a license may be missing.
    """
    found: dict[Source, None] = {}
    waiting, visited = [path.parent if path.is_file() else path], set[Path]()
    while waiting:
        folder = waiting.pop(0)
        if folder.resolve() in visited or not folder.is_dir():
            continue
        visited.add(folder.resolve())
        summary = _read_if_there(folder / SUMMARY_FILE)
        summary = summary if isinstance(summary, Mapping) else {}
        for entries in (_read_if_there(folder / SOURCES_FILE), summary.get("sources")):
            found |= dict.fromkeys(parse_sources(entries))
        settings = summary.get("settings")
        inputs = settings.get("inputs") if isinstance(settings, Mapping) else None
        origins = (summary.get("image_dir"), *(inputs if isinstance(inputs, list) else ()))
        waiting += [folder / origin for origin in origins if isinstance(origin, str)]
    return tuple(found)


def _shard_names(index: Path) -> list[str]:
    values = read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, Mapping) else None
    names = sorted(set(weight_map.values())) if isinstance(weight_map, Mapping) else []
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise DataError(f"no weight_map of file names: {index}. Save the model again.")
    return names


def _combine(files: Iterable[Path]) -> str | None:
    lines = [f"{file.name} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def _is_our_project(pyproject: Path) -> bool:
    try:
        lines = pyproject.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return 'name = "medllava"' in lines


def _read_if_there(path: Path) -> object:
    return read_json(path) if path.is_file() else None
