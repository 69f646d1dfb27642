"""What became of every line of an image list: kept as which figure, or missed and why."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from medllava.pmc.config import FetchConfig
from medllava.pmc.llava_urls import WantedImage, iter_wanted, write_hits
from medllava.pmc.state import Outcome, Outcomes

_GROUP_LINES = 1000
"""Of the list looked up at a time; neighbouring lines are often of one article."""


def write_hit_report(config: FetchConfig, shards: Sequence[Outcomes], path: Path) -> dict[str, int]:
    """Write one object per line of the list; return hits and misses."""
    if config.image_urls is None:
        raise ValueError("no image list is configured")
    hits, misses = write_hits(path, _iter_rows(iter_wanted(config.image_urls), shards))
    return {"hits": hits, "misses": misses}


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
