"""The card of a data set: what is in it, what was left out, and who is owed credit."""

from collections.abc import Mapping

from huggingface_hub import DatasetCardData

from medllava.hub.card import (
    CARD_MARK,
    license_metadata,
    render_license_report,
    render_table,
    source_cells,
)
from medllava.hub.dataset import FIGURES, DatasetFacts
from medllava.hub.license_report import LicenseReport

_LEAD = {
    "figures": "Figures of biomedical articles with their captions, the sentences that cite them, "
    "and the license and citation of each.",
    "instructions": "Conversations about biomedical figures, to train vision-language models on, "
    "with the teacher, license and citation of each.",
}
_NOTICE = (
    "**For research only.** Nothing here is medical advice. Each row keeps the license of its "
    "figure; see `license`, `license_url` and `citation`, and `ATTRIBUTION.md`."
)
_USE = """```python
from datasets import load_dataset

rows = load_dataset("{repo_id}")
```"""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def render_dataset_card(facts: DatasetFacts, licenses: LicenseReport, *, repo_id: str) -> str:
    """Return README.md with its metadata block, for a figures or instructions data set."""
    sections = [
        ("Use", _USE.format(repo_id=repo_id)),
        ("Contents", _contents(facts)),
        ("Left out", _left_out(facts.left_out)),
        ("Sources", _sources(facts)),
        ("License", render_license_report(licenses)),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    title = repo_id.rsplit("/", 1)[-1]
    head = f"{_metadata(facts, licenses)}\n{CARD_MARK}\n\n# {title}"
    return f"{head}\n\n{_LEAD[facts.kind]}\n\n{_NOTICE}\n\n{body}\n"


def _metadata(facts: DatasetFacts, licenses: LicenseReport) -> str:
    total = sum(facts.splits.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    task = "image-to-text" if facts.kind == FIGURES else "visual-question-answering"
    data = DatasetCardData(
        task_categories=[task],
        size_categories=[size],
        tags=["medical", "biomedical", "medllava"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"}
                    for split in sorted(facts.splits)
                ],
            }
        ],
        **license_metadata(licenses),
    )
    return f"---\n{data.to_yaml()}\n---"


def _contents(facts: DatasetFacts) -> str:
    rows = [
        ("split", _counts(facts.splits)),
        ("license", _counts(facts.licenses)),
        ("modality", _counts(facts.modalities)),
    ]
    if facts.teachers:
        rows.append(("teacher", _counts(facts.teachers)))
    columns = ", ".join(f"`{name}`" for name in facts.columns)
    return f"{render_table(('per', 'rows'), rows)}\n\nColumns: {columns}."


def _left_out(counts: Mapping[str, int]) -> str:
    if not counts:
        return "Nothing: every row of the folder may be passed on."
    return render_table(("why", "rows"), [(why, f"{n:,}") for why, n in sorted(counts.items())])


def _sources(facts: DatasetFacts) -> str:
    if not facts.sources:
        return "The articles named in `ATTRIBUTION.md`; no packages are recorded."
    return render_table(("source", "license", "note"), map(source_cells, facts.sources))


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"
