"""LLaVA-Med's released image list, whose tar links are dead, mapped to objects of the bucket.

A line is `{"pair_id": ..., "pmc_tar_url": ".../PMC123.tar.gz", "image_file_path": "PMC123/x.jpg"}`.
PMCID and file name are all that is needed; the report says for each line whether a figure was kept
and, if not, why: part of the list is author manuscripts, of which the archive serves no images.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medllava.errors import RecordError
from medllava.store import JsonlWriter, atomic_path, iter_jsonl

_PMCID = re.compile(r"\b(PMC[1-9]\d{0,11})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImage:
    """One line of the list."""

    pair_id: str
    pmcid: str
    name: str
    """File name without folder."""

    @property
    def stem(self) -> str:
        """Return what a figure's image is matched by."""
        return image_stem(self.name)


def image_stem(name: str) -> str:
    """Return a file name in lower case without its image extension."""
    return re.sub(r"\.(?:jpe?g|png|gif|tiff?|webp)$", "", name.rpartition("/")[2].lower())


def iter_wanted(path: Path) -> Iterator[WantedImage]:
    """Yield the lines of a released list.

    Raises:
        DataError: the file is absent.
        RecordError: a line has another form; names file and line.
    """
    for number, value in iter_jsonl(path):
        match = _PMCID.search(str(value.get("pmc_tar_url", "")))
        name = str(value.get("image_file_path", ""))
        if match is None or not name:
            raise RecordError(
                f"expected pmc_tar_url with a PMCID and image_file_path: {path}, line {number}."
            )
        yield WantedImage(
            pair_id=str(value.get("pair_id", number)),
            pmcid=match[1],
            name=name.rpartition("/")[2],
        )


def write_hits(path: Path, rows: Iterable[dict[str, object]]) -> tuple[int, int]:
    """Write the report, one object per line of the list; return hits and misses."""
    hits = misses = 0
    with atomic_path(path) as temporary, JsonlWriter(temporary) as lines:
        for row in rows:
            lines.write(row)
            hits += row["status"] == "hit"
            misses += row["status"] == "miss"
    return hits, misses
