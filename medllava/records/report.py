"""`report.json`: what an evaluation found. Written by eval, read by hub and by the quickstart.

Sections that only the page of the report draws (probes, contamination, the judge's groups) stay
plain JSON; what other rooms read has a type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from medllava.records.base import Record, VersionedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Record):
    """A mean with its 95 % interval."""

    value: float | None
    """None: no question counts."""
    low: float | None = None
    high: float | None = None
    """None for both: fewer than two images, so nothing is known about the spread."""
    num_questions: int = 0
    num_images: int | None = None
    """Images that its questions are about; None: not written by files of version 1."""


Estimates = dict[str, Estimate]
"""Metric to estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord(Record):
    """The questions that were asked."""

    name: str = ""
    version: int | None = None
    split: str | None = None
    language: str | None = None
    file: str | None = None
    file_sha256: str | None = None
    rule: str | None = None
    """How open and closed questions were told apart."""
    asked: str | None = None
    notes: tuple[str, ...] = ()
    limit: int | None = None
    """Only the first so many were asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord(Record):
    """Who answered."""

    source: str = ""
    """Folder or hub id, or the file of answers that were made elsewhere."""
    recipe: str | None = None
    stage: str | None = None
    weights_sha256: str | None = None
    predictions_sha256: str | None = None
    server: str | None = None
    served_model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRecord(Record):
    """How answers were decoded."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    seeds: tuple[int, ...] = ()
    backend: str | None = None
    dtype: str | None = None
    choice_by: str | None = None
    """`likelihood`: closed questions were answered by the likeliest option, not in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapRecord(Record):
    """How intervals were made."""

    draws: int
    seed: int
    over: str = "images"
    level: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport(VersionedRecord):
    """One evaluation of one model on one task."""

    VERSION: ClassVar[int] = 2

    schema_version: int = VERSION
    task: TaskRecord = field(default_factory=TaskRecord)
    protocol: str | None = None
    num_questions: int | None = None
    num_images: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Answer type to number of questions."""
    conditions: dict[str, Estimates] = field(default_factory=dict)
    """`real` and the floors it is measured against."""
    visual_gain: Estimates | None = None
    """Real minus permuted images, paired: of the same kind where kinds are known (the condition
    `permuted_within`), else of all images. With several permutations its interval holds their
    choice too."""
    visual_gain_over: str | None = None
    """What the images of `visual_gain` were permuted among, in words."""
    gain_over_all: Estimates | None = None
    """Real minus images permuted among all, where `visual_gain` is the harder one."""
    num_permutations: int | None = None
    by_answer_type: dict[str, Estimates] = field(default_factory=dict)
    by_category: dict[str, Estimates] = field(default_factory=dict)
    seed_deviation: dict[str, float] = field(default_factory=dict)
    """Standard deviation between seeds, where there are several."""
    bootstrap: BootstrapRecord | None = None
    model: ModelRecord = field(default_factory=ModelRecord)
    prompts: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, dict[str, int]] | None = None
    """Condition to reason to how many questions a server's model gave no answer to; they count as
    wrong. None: none."""
    decoding: DecodingRecord | None = None
    """None: the answers were made elsewhere."""
    packages: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    published: tuple[dict[str, Any], ...] = ()
    """Rows of papers on the same task."""
    llava_med: dict[str, Any] | None = None
    """The numbers of the reference's own scripts."""
    probes: dict[str, Any] | None = None
    looking: dict[str, Any] | None = None
    """Visual reliance, image sensitivity, hallucinated visual reasoning; None: no other image was
    shown."""
    verified: dict[str, Any] | None = None
    """What verifiers changed in the real replies; the condition `verified` has the scores."""
    contamination: dict[str, Any] | None = None
    groups: dict[str, Any] | None = None
    """Judged tasks: grades by group."""
    order: dict[str, Any] | None = None
    """Judged tasks: what swapping the answers changed."""
    judge: dict[str, Any] | None = None

    @classmethod
    def _upgraded(cls, values: Mapping[str, Any], *, version: int) -> Mapping[str, Any]:
        """Version 1 wrote `decoding` as an empty object where nothing was decoded."""
        if version >= cls.VERSION:
            return values
        present = {name: value for name, value in values.items() if value is not None}
        return {**present, "decoding": present.get("decoding") or None}
