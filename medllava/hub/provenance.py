"""Packages and collections that weights and images came from, as the folders name them.

A part's folder holds `SOURCES.json`; an instructions folder names its figures folder, whose
summary names the archive it read, which holds `SOURCES.json` again. The run record's own list comes
first where there is one; this follows the folders for what it leaves out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medllava.data.sources import collect_sources


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
    return tuple(dict.fromkeys(parse_sources(collect_sources(path))))
