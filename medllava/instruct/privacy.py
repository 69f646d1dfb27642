"""Figures through the privacy gate, before anybody is told of them.

Data of one's own (license `own`, or DICOM files) are looked at; figures of a published archive have
been before the public and are not, unless it is asked for. With `mask` a copy of the figures is
made in which what was found is painted over, and the run goes on with the copy.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.figures import count_figures, figures_image_dir, iter_figures, manifest_path
from medllava.layout import FIGURES_FILE, PRIVACY_DIR, PRIVACY_FILE, PRIVACY_PAGE_FILE
from medllava.privacy.captions import find_in_text, mask_text
from medllava.privacy.findings import Finding, PrivacyMode
from medllava.privacy.gate import GateReport, enforce, look_through, write_masked
from medllava.privacy.own import (
    DICOM_SUFFIXES,
    PUBLISHED,
    Choice,
    figure_item,
    is_own_figure,
)
from medllava.progress import Progress
from medllava.records import StepSummary
from medllava.store import atomic_path, contained_path, sha256_of

_BATCH_ROWS = 256


def check_privacy(config: GenerateConfig, *, progress: Progress) -> StepSummary:
    """Look at the figures of a config, in every split, and write what was found.

    Raises:
        DataError: something was found, and the mode is `stop` or `auto`.
        SetupError: pixels could not be looked at, and the mode is not `report`.
    """
    config = dataclasses.replace(config, split=None)  # what is called clean was looked at whole
    mode = PrivacyMode.STOP if config.privacy is PrivacyMode.AUTO else config.privacy
    report = _look(config, progress)
    masked = _enforce(config, report, mode, progress)
    artifacts = {
        "findings": config.output_dir / PRIVACY_FILE,
        "page": config.output_dir / PRIVACY_PAGE_FILE,
    }
    if masked != config.figures:
        artifacts["masked"] = masked
    return StepSummary(
        step="generate-instructions",
        complete=report.complete,
        counts=dict(report.counts()),
        details={"items_by_kind": dict(report.kinds.most_common())},
        artifacts=artifacts,
    )


def pass_gate(config: GenerateConfig, *, progress: Progress) -> tuple[GenerateConfig, Choice]:
    """Return the config to go on with (the same, or one whose figures are painted over), and why.

    Raises:
        DataError: something was found, and the mode is `stop`.
        SetupError: pixels could not be looked at, and the mode is not `report`.
    """
    is_own = any(
        map(is_own_figure, iter_figures(manifest_path(config.figures), split=config.split))
    )
    mode = config.privacy
    if mode is PrivacyMode.AUTO:
        mode = PrivacyMode.STOP if is_own else PrivacyMode.OFF
        if mode is PrivacyMode.OFF:
            progress.note(PUBLISHED)
    choice = Choice(mode=mode, is_own=is_own)
    if mode is PrivacyMode.OFF:
        return config, choice
    report = _look(config, progress)
    figures = _enforce(config, report, mode, progress)
    return dataclasses.replace(config, figures=figures), choice


def _enforce(
    config: GenerateConfig, report: GateReport, mode: PrivacyMode, progress: Progress
) -> Path:
    """Stop, or return the figures to go on with."""
    if mode is PrivacyMode.OFF:
        return config.figures
    enforce(report, mode, config.output_dir, progress=progress)
    return _mask(config, report) if mode is PrivacyMode.MASK else config.figures


def _look(config: GenerateConfig, progress: Progress) -> GateReport:
    manifest, root = manifest_path(config.figures), figures_image_dir(config.figures)
    return look_through(
        (figure_item(figure, root) for figure in iter_figures(manifest, split=config.split)),
        config.output_dir,
        progress=progress,
        total=count_figures(manifest, split=config.split).total(),
    )


def _mask(config: GenerateConfig, report: GateReport) -> Path:
    """Write a figures folder in which nothing is left of what was found."""
    source, root = manifest_path(config.figures), figures_image_dir(config.figures)
    folder = config.output_dir / PRIVACY_DIR
    found = {
        path: findings for item in report.flagged for path, findings in item.images if findings
    }
    with pq.ParquetFile(source) as opened, atomic_path(folder / FIGURES_FILE) as temporary:
        schema = opened.schema_arrow
        with pq.ParquetWriter(temporary, schema) as writer:
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
                rows = [
                    _masked_row(row, root, folder, found)
                    for row in batch.to_pylist()
                    if config.split is None or row["split"] == config.split.value  # was looked at
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return folder


def _masked_row(
    row: dict[str, Any], root: Path, folder: Path, found: dict[Path, tuple[Finding, ...]]
) -> dict[str, Any]:
    """Return a row whose pictures lie in `folder` and whose words are masked."""
    names = [_copy(name, root, folder, found) for name in row.get("images") or ()]
    row = row | {"images": names}
    if row.get("sha256"):
        row["sha256"] = [sha256_of(folder / name) for name in names]
    for key in ("caption", "in_text_mentions", "other_captions"):
        if row.get(key):
            row[key] = _masked_words(row[key])
    return row


def _masked_words(words: str | list[str]) -> str | list[str]:
    if isinstance(words, str):
        return mask_text(words, find_in_text(words))
    return [mask_text(text, find_in_text(text)) for text in words]


def _copy(name: str, root: Path, folder: Path, found: dict[Path, tuple[Finding, ...]]) -> str:
    """Copy a picture, painted over where something was found; return its name in `folder`."""
    source = contained_path(root, name)
    if source in found or source.suffix.lower() in DICOM_SUFFIXES:
        name = str(Path(name).with_suffix(".png"))
        target = contained_path(folder, name)
        if not target.exists():
            write_masked(source, found.get(source, ()), target)
        return name
    target = contained_path(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise DataError(f"cannot copy the picture ({error}): {source}.") from None
    return name
