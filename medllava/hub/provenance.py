"""Packages and collections that weights and images came from, as the folders name them.

A part's folder holds `SOURCES.json`; an instructions folder names its figures folder, whose
summary names the archive it read, which holds `SOURCES.json` again. The run record's own list comes
first where there is one; this follows the folders for what it leaves out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.store import read_json

SOURCES_FILE = "SOURCES.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A package or collection that something came from."""

    name: str
    version: str = ""
    license: str | None = None
    sha256: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """Name and version, as a requirement is written."""
        return f"{self.name} {self.version}".strip()


def parse_sources(values: object) -> tuple[Source, ...]:
    """Read a list of sources; entries without a name are skipped, unknown keys ignored."""
    entries = values if isinstance(values, list) else []
    return tuple(
        Source(
            name=str(entry["name"]),
            version=str(entry.get("version") or ""),
            license=entry.get("license"),
            sha256=str(entry.get("sha256") or ""),
            note=str(entry.get("note") or ""),
        )
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("name")
    )


def trace_sources(path: Path) -> tuple[Source, ...]:
    """Follow a part, data file or folder to the sources it names; none are found for a hub id."""
    folder = path.parent if path.is_file() else path
    return tuple(dict.fromkeys(_iter_sources(folder, visited=set())))


def _iter_sources(folder: Path, *, visited: set[Path]) -> Iterator[Source]:
    if folder.resolve() in visited or not folder.is_dir():
        return
    visited.add(folder.resolve())
    yield from parse_sources(_read(folder / SOURCES_FILE))
    summary = _read(folder / "summary.json")
    if not isinstance(summary, Mapping):
        return
    yield from parse_sources(summary.get("sources"))
    for origin in _origins(summary):
        yield from _iter_sources(folder / origin, visited=visited)


def _origins(summary: Mapping[str, Any]) -> list[str]:
    """Return the folders a step read: its figures, or the archives it was given."""
    settings = summary.get("settings")
    inputs = settings.get("inputs") if isinstance(settings, Mapping) else None
    return [str(origin) for origin in (summary.get("image_dir"), *(inputs or ())) if origin]


def _read(path: Path) -> object:
    try:
        return read_json(path) if path.is_file() else None
    except DataError:
        return None
