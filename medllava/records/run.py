"""`run.json`, how a checkpoint came to be, and what any step hands back to whoever called it.

`run.json` is written by train and read by train, eval and hub. The runs that a run started from are
nested under `init`, so a published model tells all its stages. Everything that a file may lack is
None or empty, and whoever prints it says unknown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from medllava.records.base import Record, VersionedRecord
from medllava.records.items import Source, Stage

FROM_PARTS = "parts"
"""`init.source` of a run that built its model from the recipe's own parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord(Record):
    """A pretrained part of the model."""

    source: str | None = None
    """Hub id or folder; `random` for an untrained part."""
    license: str | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRecord(Record):
    """What one of several sources gave to a stage."""

    source: str = ""
    """As it was named."""
    weight: float | None = None
    epochs: float | None = None
    limit: int | None = None
    used: int | None = None
    """Its records that can be used."""
    drawn: int | None = None
    """Records drawn from it over the whole run, repeats counted."""
    share: float | None = None
    """Of all records drawn."""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord(Record):
    """What a stage learned from, in counts."""

    source: str = ""
    """As it was named: a folder, a file or a benchmark."""
    sources: tuple[Source, ...] = ()
    """Packages and collections that its images came from."""
    used: int | None = None
    dropped: int | None = None
    dropped_by_reason: dict[str, int] = field(default_factory=dict)
    shortened: int | None = None
    """Records whose text was cut to the length limit."""
    tokens: int | None = None
    supervised_tokens: int | None = None
    images: int | None = None
    fingerprint: str | None = None
    """Of the records' ids, texts and lengths."""
    by_license: dict[str, int] = field(default_factory=dict)
    by_modality: dict[str, int] = field(default_factory=dict)
    by_teacher: dict[str, int] = field(default_factory=dict)
    by_stage: dict[str, int] = field(default_factory=dict)
    by_rejection: dict[str, int] = field(default_factory=dict)
    """Pairs of stage 4 by how their worse reply was made."""
    repaired: dict[str, int] = field(default_factory=dict)
    """Used records in which something was put right, by what."""
    repeated_ids: int | None = None
    """Used records whose id another one has too."""
    mixture: tuple[MixtureRecord, ...] = ()
    """Of several sources, each with its share; empty where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRecord(Record):
    """What a run started from."""

    source: str = ""
    """A folder, a hub id, or `parts`."""
    run: "RunRecord | None" = None
    """The record of the run that wrote that folder, if one did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRecord(Record):
    """How records were laid into steps."""

    tokens_per_pack: int
    packs_per_step: int
    fill: float
    """Share of the packs' positions that hold a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord(Record):
    """Hardware and software."""

    device: str | None = None
    platform: str | None = None
    python: str | None = None
    medllava: str | None = None
    git_commit: str | None = None
    """Of this project's own checkout; None for an installed package."""
    packages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(VersionedRecord):
    """One stage of training."""

    VERSION: ClassVar[int] = 2

    schema_version: int = VERSION
    stage: Stage | None = None
    recipe: str | None = None
    command: str = ""
    """As it was typed."""
    init: InitRecord = field(default_factory=InitRecord)
    parts: dict[str, PartRecord] = field(default_factory=dict)
    """`vision_encoder` and `language_model`."""
    data: DataRecord = field(default_factory=DataRecord)
    seed: int | None = None
    steps: int | None = None
    ranks: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was computed and spread over memory: precision, optimizer, sharding, kernels."""
    packing: PackingRecord | None = None
    machine: MachineRecord = field(default_factory=MachineRecord)
    complete: bool | None = None
    """False in the record that lies in a checkpoint of an unfinished run."""
    tokens: int | None = None
    supervised_tokens: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    masked_records: int = 0
    """Times a record was passed over because its image could no longer be read."""
    validation_loss: float | None = None
    """Of held-out records, after the last step."""
    measures: dict[str, float] = field(default_factory=dict)
    """What only this stage can tell: share of held-out pairs preferred before and after, rewards
    of its first and last steps."""
    weights_sha256: str | None = None
    """As `provenance.weights_sha256` gives it for the finished folder."""
    carbon_g_co2eq: float | None = None
    """Only where it was measured."""

    def history(self) -> Iterator["RunRecord"]:
        """Yield this run and the runs it started from, newest first."""
        current: RunRecord | None = self
        while current is not None:
            yield current
            current = current.init.run

    @classmethod
    def _upgraded(cls, values: Mapping[str, Any], *, version: int) -> Mapping[str, Any]:
        """Version 1 had no version; `init` could be a bare name and counts could be missing."""
        if version >= cls.VERSION:
            return values
        init = values.get("init")
        init = init if isinstance(init, Mapping) else {"source": init or ""}
        present = {name: value for name, value in values.items() if value is not None}
        return {**present, "init": init}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """What a step did; the `summary` and `artifacts` of `--json`."""

    step: str
    complete: bool = True
    """False: some items are left, and running again goes on (exit 6)."""
    counts: dict[str, int | float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """JSON values that are not counts: metrics, plans, names."""
    artifacts: dict[str, Path] = field(default_factory=dict)
    hint: str | None = None
    """The command to type next."""
