"""What an article's reading adds up to: kept figures, what was left out and why, counts."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from medllava.pmc.archive import ArticleFiles


class Rejection(Exception):  # noqa: N818 - a decision, not a fault
    """An article or a figure is left out."""

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        """Say where, under which word it is counted, and what exactly."""
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage, self.reason, self.detail = stage, reason, detail[:300]


@dataclass(slots=True, kw_only=True)
class Draft:
    """An article being worked on."""

    files: ArticleFiles
    key: str
    gives_up: bool = False
    """An image that is not given costs its figure, not the article's turn."""
    figures: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def reject(self, key: str, rejection: Rejection) -> None:
        """Write down that an article, a figure or a panel is left out."""
        self.rejected.append(
            {
                "key": key,
                "stage": rejection.stage,
                "reason": rejection.reason,
                "detail": rejection.detail,
            }
        )

    def image_path(self, number: int, part: int, extension: str) -> str:
        """Return where an image goes: 256 folders, and a name that nobody else chose.

        Two local files may hold the same article; each keeps its own images until one is left out.
        """
        item = self.files.item
        name = self.key if self.key.startswith("PMC") else "article-" + digest(self.key)[:16]
        if item != self.key:
            name += "-" + digest(item)[:8]
        return f"images/{digest(self.key)[:2]}/{name}_f{number:03d}_{part}.{extension}"

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the counts."""
        self.counts[name] = self.counts.get(name, 0) + number


def digest(text: str) -> str:
    """Return 32 hex digits that a text always has."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
