"""The contact sheet of a figures folder: what came in, what was left out, how it looks."""

import hashlib
import heapq
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medllava.layout import FIGURES_FILE, PAGE_FILE
from medllava.page import render_bars, render_cards, render_page, render_table
from medllava.store import write_text

NUM_CARDS = 48


def write_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `report.html` from the manifest and the summary; return its path."""
    cards = [_card(row) for row in sample_figures(folder / FIGURES_FILE, NUM_CARDS)]
    sections = [
        (
            "Funnel",
            render_table(
                ["stage", "in", "left out", "kept"],
                [(s["stage"], s["in"], s["rejected"], s["out"]) for s in summary["funnel"]],
            ),
        ),
        ("Modalities", render_bars(summary["modalities"])),
        ("Licences", render_bars(summary["licenses"])),
        ("Splits by article", render_bars(summary["splits"])),
        ("Why things were left out", render_table(["reason", "count"], summary["reasons"].items())),
        ("A sample of figures", render_cards(cards)),
    ]
    path = folder / PAGE_FILE
    subtitle = f"{summary['counts'].get('kept', 0):,} figures, snapshot {summary['snapshot']}"
    write_text(
        path,
        render_page(
            "Figures of PubMed Central",
            subtitle=subtitle,
            sections=sections,
        ),
    )
    return path


def sample_figures(path: Path, number: int) -> list[dict[str, Any]]:
    """Return figures drawn by a hash of their id: the same ones every time, from everywhere."""
    best: list[tuple[str, str, dict[str, Any]]] = []
    columns = [
        "figure_id",
        "label",
        "caption",
        "images",
        "modality",
        "license",
        "split",
        "citation",
    ]
    for batch in pq.ParquetFile(path).iter_batches(batch_size=2000, columns=columns):
        rows = [(_rank(row["figure_id"]), row["figure_id"], row) for row in batch.to_pylist()]
        best = heapq.nsmallest(number, [*best, *rows])
    return [row for _, _, row in best]


def _rank(figure_id: str) -> str:
    return hashlib.blake2b(figure_id.encode(), digest_size=8).hexdigest()


def _card(row: dict[str, Any]) -> tuple[str | None, list[str]]:
    caption = row["caption"] if len(row["caption"]) <= 400 else row["caption"][:400] + "..."
    facts = f"{row['modality']} - {row['license'] or 'no licence'} - {row['split']}"
    return (row["images"][0] if row["images"] else None), [
        f"{row['figure_id']} {row['label']}",
        caption,
        facts,
    ]
