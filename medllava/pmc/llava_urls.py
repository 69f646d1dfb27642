"""LLaVA-Med's released image list, whose tar links are dead, mapped to objects of the bucket.

A line is `{"pair_id": ..., "pmc_tar_url": ".../PMC123.tar.gz", "image_file_path": "PMC123/x.jpg"}`.
PMCID and file name are all that is needed; the report says for each line whether a figure was kept
and, if not, why: part of the list is author manuscripts, of which the archive serves no images.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medllava.errors import RecordError
from medllava.pmc.config import FetchConfig
from medllava.pmc.state import Outcome, Outcomes
from medllava.store import JsonlWriter, atomic_path, iter_jsonl

_PMCID = re.compile(r"\b(PMC[1-9]\d{0,11})\b")
_GROUP_LINES = 1000
"""Of the list looked up at a time; neighboring lines are often of one article."""


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


def write_hit_report(config: FetchConfig, shards: Sequence[Outcomes], path: Path) -> dict[str, int]:
    """Write one object per line of the list; return hits and misses."""
    if config.image_urls is None:
        raise ValueError("no image list is configured")
    counts = {"hits": 0, "misses": 0}
    with atomic_path(path) as temporary, JsonlWriter(temporary) as lines:
        for row in _iter_rows(iter_wanted(config.image_urls), shards):
            lines.write(row)
            counts["hits" if row["status"] == "hit" else "misses"] += 1
    return counts


def _iter_rows(
    wanted: Iterator[WantedImage], shards: Sequence[Outcomes]
) -> Iterator[dict[str, object]]:
    known: dict[str, list[Outcome]] = {}
    for image in wanted:
        if image.pmcid not in known:
            if len(known) >= _GROUP_LINES:
                known.clear()
            known[image.pmcid] = [
                outcome for shard in shards for outcome in shard.iter_article(image.pmcid)
            ]
        status, reason, figure_id, paths = _look_up(image, known[image.pmcid])
        yield {
            "pair_id": image.pair_id,
            "pmcid": image.pmcid,
            "image": image.name,
            "status": status,
            "reason": reason,
            "figure_id": figure_id,
            "images": paths,
        }


def _look_up(
    image: WantedImage, outcomes: Sequence[Outcome]
) -> tuple[str, str | None, str | None, list[str]]:
    """Return status, reason of a miss, figure id and our paths."""
    if not outcomes:
        return "miss", "not-in-bucket", None, []
    outcome = outcomes[-1]
    figure_id = outcome.sources.get(image.stem)
    for figure in outcome.figures:
        if figure["record"]["figure_id"] == figure_id:
            return "hit", None, figure_id, figure["record"]["images"]
    reasons = {line["key"]: line["reason"] for line in outcome.rejected}
    article = next(iter(outcome.rejected), None) if not outcome.sources else None
    reason = reasons.get(figure_id or "", article["reason"] if article else "no-figure-names-it")
    return "miss", reason, figure_id, []
