"""`browse.html`: made records one by one with their pictures, to strike what is not to be learned.

Records go in one by one, those that the text bears out least are kept, and a page comes out that
works from disk, by keyboard. A page on disk cannot write, so strikes are saved as a download:
`struck.jsonl`, to be put beside the records.
"""

import heapq
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medllava.instruct.alignment import draw
from medllava.layout import STRUCK_FILE
from medllava.page import render_script_page
from medllava.records import IMAGE_TOKEN, InstructionRecord

MOST_RECORDS = 2000
"""On the page: of more, those with the lowest scores, then such as the seed draws."""
_SCORES = ("verified", "grounded")


class BrowseRecords:
    """Remembers the records that are worth a look, in bounded memory."""

    def __init__(self, *, seed: int) -> None:
        """Begin with none."""
        self._seed = seed
        self._worst: list[tuple[float, int, str, InstructionRecord]] = []
        self.total = 0

    def add(self, record: InstructionRecord) -> None:
        """Take a record into account."""
        self.total += 1
        drawn = draw(self._seed, record.record_id)
        # The heap's first is the best of the worst.
        entry = (-_score(record), drawn, record.record_id, record)
        if len(self._worst) < MOST_RECORDS:
            heapq.heappush(self._worst, entry)
        elif entry[:3] > self._worst[0][:3]:
            heapq.heapreplace(self._worst, entry)

    def records(self) -> list[InstructionRecord]:
        """Return them, the lowest score first."""
        return [entry[3] for entry in sorted(self._worst, key=lambda entry: entry[:3])[::-1]]


def render_browse_page(
    records: BrowseRecords, *, folder: Path, image_dir: Path, struck: Iterable[str]
) -> str:
    """Return the page.

    Args:
        records: to look through.
        folder: that the page will lie in.
        image_dir: what the records' images are relative to.
        struck: ids that were struck before; they stay so unless taken back on the page.
    """
    root = os.path.relpath(image_dir.resolve(), folder.resolve())
    data = {
        "total": records.total,
        "file": STRUCK_FILE,
        "struck": sorted(struck),
        "records": [_shown(record, root) for record in records.records()],
    }
    return render_script_page("browse.html", title="Look through the records", data=data)


def _score(record: InstructionRecord) -> float:
    told = [record.provenance.get(name) for name in _SCORES]
    return min((float(value) for value in told if isinstance(value, int | float)), default=1.0)


def _shown(record: InstructionRecord, root: str) -> dict[str, Any]:
    scores = {name: record.provenance[name] for name in _SCORES if name in record.provenance}
    return {
        "id": record.record_id,
        "images": [quote(f"{root}/{image}") for image in record.images],
        "kind": None if record.modality is None else record.modality.value,
        "license": record.license,
        "teacher": record.teacher,
        "scores": json.dumps(scores) if scores else "",
        "turns": [
            [turn.role, turn.content.replace(IMAGE_TOKEN, "").strip()] for turn in record.turns
        ],
    }
