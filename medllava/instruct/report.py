"""`report.html`: the generated data at a glance, for the person who is about to train on it.

Statistics and the counts of a run go in, one self-contained page comes out beside the records; only
the sample images are read from where they lie.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medllava.instruct.caption_statistics import CaptionStatistics
from medllava.page import render_bars, render_cards, render_page, render_table, render_text
from medllava.records import IMAGE_TOKEN, InstructionRecord
from medllava.store import write_text

_MOST_ROWS = 20
_MOST_SAMPLE_CHARACTERS = 600


def write_report(
    path: Path,
    statistics: CaptionStatistics,
    *,
    title: str,
    image_dir: Path,
    counts: Mapping[str, int],
    reasons: Mapping[str, int],
    usage: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: of the page.
        statistics: of the records.
        title: what was made, in a few words.
        image_dir: folder that the records' images are relative to.
        counts: of records, pairs, rejections.
        reasons: rejections by rule, of figures and of turns.
        usage: tokens and cost, empty where no model was asked.
    """
    sections = [
        ("In numbers", render_table(["", "count"], counts.items())),
        ("Domains", _bars(statistics.modalities)),
        ("Pairs in a conversation", _bars(_by_number(statistics.pairs, ""))),
        ("Words in a question", _bars(_by_number(statistics.question_words, " or more"))),
        ("Words in an answer", _bars(_by_number(statistics.answer_words, " or more"))),
        ("How questions begin", _bars(dict(statistics.openings.most_common(_MOST_ROWS)))),
        ("Verbs and their objects", _bars(dict(statistics.verb_objects.most_common(_MOST_ROWS)))),
        ("Left out, by rule", _bars(reasons) if reasons else render_text("Nothing.")),
        ("Licenses", _bars(dict(statistics.licenses.most_common(_MOST_ROWS)))),
    ]
    if usage:
        sections.insert(1, ("Teacher", render_table(["", "value"], usage.items())))
    cards = [_card(record, path.parent, image_dir) for record in statistics.samples()]
    sections.append(("Samples", render_cards(cards)))
    subtitle = f"{statistics.records:,} conversations"
    write_text(path, render_page(title, subtitle=subtitle, sections=sections))


def _bars(values: Mapping[str, int]) -> str:
    return render_bars({name: int(value) for name, value in values.items()})


def _by_number(values: Counter[int], suffix: str) -> dict[str, int]:
    return {f"{number}{suffix}": values[number] for number in sorted(values)}


def _card(record: InstructionRecord, folder: Path, image_dir: Path) -> tuple[str | None, list[str]]:
    source = None
    if record.images:
        source = quote(os.path.relpath((image_dir / record.images[0]).resolve(), folder.resolve()))
    lines = [f"{record.record_id} ({record.modality or 'unknown'}, {record.license or 'unknown'})"]
    for turn in record.turns:
        text = " ".join(turn.content.replace(IMAGE_TOKEN, "").split())
        speaker = "Q" if turn.role == "user" else "A"
        lines.append(f"{speaker}: {text[:_MOST_SAMPLE_CHARACTERS]}")
    return source, lines
