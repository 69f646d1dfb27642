"""Figures or instructions to Parquet that `datasets` loads, images inside, license in every row.

A folder of fetch-pmc or generate-instructions enters, rows stream through; what leaves is
`data/SPLIT-NNNNN.parquet`, ATTRIBUTION.md and the counts for the card. A row whose license does not
let us pass it on is left out and counted by reason. Memory holds one row group.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from medllava.data.sources import image_root, iter_instruction_records
from medllava.errors import DataError
from medllava.hub.facts import CAPTIONS
from medllava.hub.licenses import OWN_DATA, parse_license
from medllava.hub.privacy import find_secret, hide_paths
from medllava.layout import ATTRIBUTION_FILE, FIGURES_FILE, INSTRUCTIONS_FILE
from medllava.progress import Progress
from medllava.provenance import trace_sources
from medllava.records import FigureRecord, InstructionRecord, Source, Stage
from medllava.store import contained_path

FIGURES, INSTRUCTIONS = "figures", "instructions"
_GROUP_ROWS = 100
_GROUP_BYTES = 32_000_000
_TEXT, _TEXTS = Value("string"), List(Value("string"))
_FIGURE_FEATURES = Features(
    {
        "figure_id": _TEXT,
        "pmcid": _TEXT,
        "version": Value("int32"),
        "pmid": _TEXT,
        "doi": _TEXT,
        "label": _TEXT,
        "caption": _TEXT,
        "in_text_mentions": _TEXTS,
        "images": List(Image()),
        "modality": _TEXT,
        "context": _TEXT,
        "panel_score": Value("float32"),
        "license": _TEXT,
        "license_url": _TEXT,
        "citation": _TEXT,
        "sha256": _TEXTS,
        "source_md5": _TEXTS,
        "snapshot": _TEXT,
    }
)
_INSTRUCTION_FEATURES = Features(
    {
        "record_id": _TEXT,
        "images": List(Image()),
        "messages": List({"role": _TEXT, "content": _TEXT}),
        "stage": _TEXT,
        "teacher": _TEXT,
        "figure_id": _TEXT,
        "modality": _TEXT,
        "license": _TEXT,
        "license_url": _TEXT,
        "citation": _TEXT,
        "provenance": _TEXT,
    }
)


@dataclass(slots=True, kw_only=True)
class DatasetFacts:
    """Counts of what was written and what was left out."""

    kind: str
    splits: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    teachers: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to number of rows."""
    sources: tuple[Source, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a row owes to the figure it shows."""

    license: str | None
    license_url: str | None
    citation: str
    flag: str | None = None
    is_retracted: bool = False


def dataset_kind(folder: Path) -> str | None:
    """Tell a figures folder from an instructions folder; None: neither."""
    if (folder / FIGURES_FILE).is_file():
        return FIGURES
    return INSTRUCTIONS if (folder / INSTRUCTIONS_FILE).is_file() else None


def stage_figures(
    folder: Path, staged: Path, *, is_private: bool, shard_bytes: int, progress: Progress
) -> DatasetFacts:
    """Write the figures of `folder` that may be passed on.

    Args:
        folder: of fetch-pmc, or of a table that was imported.
        staged: folder to write into.
        is_private: the repository is not for everyone, so data of one's own may go there.
        shard_bytes: of images in one file, about.
        progress: told of every figure.

    Raises:
        DataError: a figure's image is absent, or a row holds a secret; names the figure.
    """
    facts = DatasetFacts(
        kind=FIGURES, sources=trace_sources(folder), columns=tuple(_FIGURE_FEATURES)
    )
    writer = _Writer(
        staged,
        _FIGURE_FEATURES,
        shard_bytes=shard_bytes,
        acknowledgement=_acknowledgement(folder),
    )
    with writer:
        for record, rights in iter_figures(folder, facts.left_out, is_private=is_private):
            progress.advance()
            row = {key: value for key, value in record.to_json().items() if key in _FIGURE_FEATURES}
            row["images"] = _images(folder, record.images, where=record.figure_id)
            writer.write(row, split=record.split.value, owner=record.figure_id, rights=rights)
            _count(facts, record.split.value, record.license or record.license_url, record.modality)
    return facts


def stage_instructions(
    folder: Path, staged: Path, *, is_private: bool, shard_bytes: int, progress: Progress
) -> DatasetFacts:
    """Write the conversations of `folder` whose figures may be passed on.

    Args: as for `stage_figures`.

    Raises:
        DataError: an image is absent, or a row holds a secret; names the record.
    """
    images = image_root(folder / INSTRUCTIONS_FILE, None)
    facts = DatasetFacts(
        kind=INSTRUCTIONS,
        sources=trace_sources(folder),
        columns=tuple(_INSTRUCTION_FEATURES),
    )
    writer = _Writer(
        staged,
        _INSTRUCTION_FEATURES,
        shard_bytes=shard_bytes,
        acknowledgement=_acknowledgement(images),
    )
    with writer:
        for record, rights in iter_records(folder, facts.left_out, is_private=is_private):
            progress.advance()
            row = _instruction_row(record, rights)
            row["images"] = _images(images, record.images, where=record.record_id)
            owner = record.figure_id or record.record_id
            writer.write(row, split=record.split.value, owner=owner, rights=rights)
            _count(facts, record.split.value, rights.license or rights.license_url, record.modality)
            unnamed = CAPTIONS if record.stage is Stage.ALIGN else "unknown"
            facts.teachers[record.teacher or unnamed] += 1
    return facts


def iter_figures(
    folder: Path, left_out: Counter[str], *, is_private: bool
) -> Iterator[tuple[FigureRecord, Rights]]:
    """Yield the figures that may be passed on; count the others by reason."""
    for record in _read_figures(folder):
        rights = _rights_of(record)
        reason = _why_not(rights, is_adapted=False, is_private=is_private)
        if reason:
            left_out[reason] += 1
        else:
            yield record, rights


def iter_records(
    folder: Path, left_out: Counter[str], *, is_private: bool
) -> Iterator[tuple[InstructionRecord, Rights]]:
    """Yield the conversations whose figures may be passed on; count the others by reason."""
    rights_by_figure = _FigureRights(image_root(folder / INSTRUCTIONS_FILE, None))
    for record in iter_instruction_records(folder):
        rights = rights_by_figure.of(record)
        is_adapted = record.stage is not Stage.ALIGN
        reason = _why_not(rights, is_adapted=is_adapted, is_private=is_private)
        if reason:
            left_out[reason] += 1
        else:
            yield record, rights


class _FigureRights:
    """Rights of the figures that records show, from the figures folder where it is at hand."""

    def __init__(self, folder: Path) -> None:
        path = folder / FIGURES_FILE
        self._table: pa.Table | None = None
        self._rows: dict[str, int] = {}
        if path.is_file():
            columns = [
                "figure_id",
                "license",
                "license_url",
                "citation",
                "rights_flag",
                "is_retracted",
            ]
            self._table = pq.read_table(path, columns=columns)
            ids = self._table["figure_id"].to_pylist()
            self._rows = {str(figure_id): i for i, figure_id in enumerate(ids)}

    def of(self, record: InstructionRecord) -> Rights:
        """Return the rights of the record's figure, or what the record itself says."""
        row = self._rows.get(record.figure_id or "")
        if self._table is None or row is None:
            return Rights(license=record.license, license_url=None, citation="")
        values = self._table.slice(row, 1).to_pylist()[0]
        return Rights(
            license=record.license or values["license"],
            license_url=values["license_url"],
            citation=values["citation"] or "",
            flag=values["rights_flag"],
            is_retracted=bool(values["is_retracted"]),
        )


class _Writer:
    """Parquet files by split, closed when they hold `shard_bytes` of images; attribution beside."""

    def __init__(
        self, staged: Path, features: Features, *, shard_bytes: int, acknowledgement: str
    ) -> None:
        self._data = staged / "data"
        self._data.mkdir(parents=True)
        self._schema = features.arrow_schema
        self._shard_bytes = shard_bytes
        self._groups: dict[str, list[dict[str, Any]]] = {}
        self._group_bytes: Counter[str] = Counter()
        self._files: dict[str, pq.ParquetWriter] = {}
        self._file_bytes: Counter[str] = Counter()
        self._num_files: Counter[str] = Counter()
        self._attribution = (staged / ATTRIBUTION_FILE).open("w", encoding="utf-8")
        self._attribution.write(acknowledgement)
        self._credited: set[str] = set()

    def write(self, row: Mapping[str, Any], *, split: str, owner: str, rights: Rights) -> None:
        """Add one row and, once, the line that credits its figure."""
        secret = find_secret(json.dumps({k: v for k, v in row.items() if k != "images"}))
        if secret:
            raise DataError(f"{owner} holds {secret}. Remove it from the record and push again.")
        if owner not in self._credited:
            self._credited.add(owner)
            named = [rights.citation, rights.license or "", rights.license_url or ""]
            self._attribution.write(f"- {owner}: {_escape('; '.join(filter(None, named)))}\n")
        group = self._groups.setdefault(split, [])
        group.append(dict(row))
        self._group_bytes[split] += sum(len(image["bytes"]) for image in row["images"])
        if len(group) >= _GROUP_ROWS or self._group_bytes[split] >= _GROUP_BYTES:
            self._flush(split)

    def _flush(self, split: str) -> None:
        if split not in self._files:
            path = self._data / f"{split}-{self._num_files[split]:05d}.parquet"
            self._files[split] = pq.ParquetWriter(path, self._schema, compression="zstd")
            self._num_files[split] += 1
        rows = self._groups.pop(split)
        self._files[split].write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._file_bytes[split] += self._group_bytes.pop(split)
        if self._file_bytes[split] >= self._shard_bytes:
            self._files.pop(split).close()
            self._file_bytes[split] = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            for split in list(self._groups):
                self._flush(split)
        for file in self._files.values():
            file.close()
        self._attribution.close()


def _acknowledgement(figures: Path) -> str:
    """Return what stands above the entries of the figures folder's own attribution."""
    path = figures / ATTRIBUTION_FILE
    head = path.read_text(encoding="utf-8").split("\n- ", 1)[0].strip() if path.is_file() else ""
    return f"{head or '# Attribution'}\n\n"


def _escape(text: str) -> str:
    """Keep a citation from acting as Markdown."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", text)


def _read_figures(folder: Path) -> Iterator[FigureRecord]:
    path = folder / FIGURES_FILE
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"not a Parquet file ({error}): {path}. Fetch the figures again.") from None
    for batch in file.iter_batches(batch_size=1000):
        for values in batch.to_pylist():
            yield FigureRecord.from_json(values, where=f"{path}, {values.get('figure_id')}")


def _rights_of(record: FigureRecord) -> Rights:
    return Rights(
        license=record.license,
        license_url=record.license_url,
        citation=record.citation,
        flag=record.rights_flag,
        is_retracted=bool(record.is_retracted),
    )


def _why_not(rights: Rights, *, is_adapted: bool, is_private: bool) -> str | None:
    """Return why a row may not be passed on, or None.

    A conversation about a figure adapts it; a figure or a figure with its own caption does not.
    """
    terms = parse_license(rights.license or rights.license_url)
    if rights.is_retracted:
        return "retracted"
    if rights.flag:
        return "the figure has rights of its own"
    if not terms.is_known:
        return "license unknown"
    if terms is OWN_DATA and is_private:
        return None
    if not terms.may_redistribute or (is_adapted and not terms.may_derive):
        return f"license {terms.name} forbids it"
    return None


def _instruction_row(record: InstructionRecord, rights: Rights) -> dict[str, Any]:
    return {
        "record_id": record.record_id,
        "messages": [{"role": turn.role, "content": turn.content} for turn in record.turns],
        "stage": record.stage.value,
        "teacher": record.teacher,
        "figure_id": record.figure_id,
        "modality": record.modality,
        "license": rights.license,
        "license_url": rights.license_url,
        "citation": rights.citation,
        "provenance": json.dumps(hide_paths(record.provenance), ensure_ascii=False, sort_keys=True),
    }


def _images(folder: Path, names: Iterable[str], *, where: str) -> list[dict[str, Any]]:
    images = []
    for name in names:
        path = contained_path(folder, name)
        try:
            images.append({"bytes": path.read_bytes(), "path": path.name})
        except OSError as error:
            raise DataError(
                f"{where} has no image ({error.strerror}): {path}. Make the folder again."
            ) from None
    return images


def _count(facts: DatasetFacts, split: str, license_name: str | None, modality: str | None) -> None:
    facts.splits[split] += 1
    facts.licenses[parse_license(license_name).name] += 1
    facts.modalities[str(modality or "unknown")] += 1
