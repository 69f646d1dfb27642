"""What travels between rooms: figures, instructions, questions, predictions, summaries.

Rooms on one level never import each other; they meet in these records. Each is a frozen dataclass
with a `to_json` dict and a strict `from_json`. Paths inside records are relative to the folder of
the file that holds the record (or to `--image-dir`). `pmc` writes `FigureRecord`, `instruct` turns
it into `InstructionRecord`, `data` feeds it to training, `eval` joins `Question` and `Prediction`.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self

from medllava.errors import RecordError

IMAGE_TOKEN = "<image>"  # noqa: S105 - a placeholder in text, not a secret
"""Stands in a user turn for one image; the processor expands it to `num_image_tokens`."""


class Modality(StrEnum):
    """Kind of picture; the first five are LLaVA-Med's domains."""

    CHEST_XRAY = "chest_xray"
    CT = "ct"
    MRI = "mri"
    HISTOPATHOLOGY = "histopathology"
    GROSS_PATHOLOGY = "gross_pathology"
    OTHER = "other"


class Stage(StrEnum):
    """A stage of the curriculum, in order 1, 2, 3."""

    ALIGN = "align"
    INSTRUCT = "instruct"
    FINETUNE = "finetune"


class AnswerType(StrEnum):
    """Closed: the answer is one of a stated few (yes/no or choices). Open: free text."""

    CLOSED = "closed"
    OPEN = "open"


class Split(StrEnum):
    """Part of the data; assigned by article, never by figure."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Record:
    """JSON in and out for the dataclasses below, with errors that name the field."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, fields in declaration order."""
        plain: dict[str, Any] = {}
        for name in _layout(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            plain[name] = value if type(value) in _JSON_TYPES else _plain(value)
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Build the record from a JSON object.

        Args:
            values: the parsed object; unknown keys are ignored, so newer files stay readable.
            where: file and line, or id, for the error message.

        Raises:
            RecordError: a required field is absent or a value has the wrong type.
        """
        given: dict[str, Any] = {}
        for name, (shape, is_required) in _layout(cls).items():  # type: ignore[arg-type]
            if name in values:
                value = values[name]
                if type(value) not in shape.as_is:
                    value = _typed(value, shape, f"{where}: {name}")
                given[name] = value
            elif is_required:
                raise RecordError(f"{cls.__name__} has no {name!r}: {where}.")
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRecord(Record):
    """One figure of one article version; a row of `figures.parquet`."""

    figure_id: str
    """`PMCID.version/xml-id`, unique in the manifest."""
    pmcid: str
    version: int
    pmid: str | None = None
    doi: str | None = None
    label: str = ""
    """As printed, for example "Figure 2"."""
    caption: str = ""
    in_text_mentions: tuple[str, ...] = ()
    """Sentences of the body that cite the figure, in reading order."""
    images: tuple[str, ...] = ()
    """Relative image paths; several when the figure is split over files."""
    modality: Modality = Modality.OTHER
    context: str = "body"
    """Where it stood: body, floats, back, abstract, boxed-text, sub-article."""
    panel_score: float = 0.0
    """0 = surely one panel, 1 = surely several."""
    license: str | None = None
    license_url: str | None = None
    rights_flag: str | None = None
    """Why the article's licence may not cover this figure; None when nothing was found."""
    is_retracted: bool | None = None
    """None: the source cannot tell (legacy packages)."""
    citation: str = ""
    sha256: tuple[str, ...] = ()
    """Of the image files we wrote, in the order of `images`."""
    source_md5: tuple[str | None, ...] = ()
    """Of the objects we read, in the order of `images`."""
    split: Split = Split.TRAIN
    snapshot: str = ""
    """Date of the source listing, ISO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Record):
    """One utterance of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """Text; a user turn holds one `<image>` for each image it shows."""
    answer_type: AnswerType | None = None
    """On assistant turns of visual question answering only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionRecord(Record):
    """One training conversation about zero or more images; a line of `instructions.jsonl`."""

    record_id: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]
    stage: Stage
    teacher: str = ""
    figure_id: str | None = None
    modality: Modality | None = None
    license: str | None = None
    split: Split = Split.TRAIN
    provenance: dict[str, Any] = field(default_factory=dict)
    """Prompt version, time, tokens and cost of the teacher's reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Record):
    """One benchmark item; also a line of a user's own task file."""

    id: str
    image: str | None
    """Relative path, or None for a question about text only."""
    question: str
    answer: str
    answer_type: AnswerType
    choices: tuple[str, ...] = ()
    """Of a multiple-choice item, in the order they are shown."""
    category: str | None = None
    """Question type or modality, for the per-type rows of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """A model's answer to the question of the same id."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Record):
    """A package or collection that weights or images came from."""

    name: str
    version: str = ""
    license: str | None = None
    sha256: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """Name and version, as a requirement is written."""
        return f"{self.name} {self.version}".strip()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What values a field takes, resolved from its annotation."""

    hint: Any
    """The annotation without None."""
    as_is: frozenset[type]
    """Types whose values are kept unlooked at; most values are of one."""
    item: "_Shape | None" = None
    """Of the items, if the field is a tuple."""


_JSON_TYPES = frozenset((str, int, float, bool, NoneType, dict))
"""Types that `to_json` passes on."""
_SCALARS = frozenset((str, int, float, bool))
_SEQUENCES = (tuple, list)


@cache
def _layout(record: type[Record]) -> dict[str, tuple[_Shape, bool]]:
    """Return the shape of each field and whether it is required, in declaration order."""
    # Resolving annotations costs more than checking a record; a manifest has millions of them.
    hints = typing.get_type_hints(record)
    return {
        f.name: (
            _shape(hints[f.name]),
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
        )
        for f in dataclasses.fields(record)  # type: ignore[arg-type]
    }


def _shape(hint: Any) -> _Shape:  # noqa: ANN401 - an annotation is any
    as_is: set[type] = set()
    if typing.get_origin(hint) in {UnionType, typing.Union}:
        args = typing.get_args(hint)
        as_is |= {NoneType} & set(args)
        hint = next(arg for arg in args if arg is not NoneType)
    if hint in _SCALARS:
        as_is.add(hint)
    is_tuple = typing.get_origin(hint) is tuple
    item = _shape(typing.get_args(hint)[0]) if is_tuple else None
    return _Shape(hint=hint, as_is=frozenset(as_is), item=item)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON is any
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, _SEQUENCES):
        return [item if type(item) in _JSON_TYPES else _plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _typed(value: Any, shape: _Shape, where: str) -> Any:  # noqa: ANN401, C901, PLR0911 - one case per JSON type
    if type(value) in shape.as_is:
        return value
    hint = shape.hint
    if shape.item is not None and isinstance(value, _SEQUENCES):
        as_is = shape.item.as_is
        if all(type(item) in as_is for item in value):
            return tuple(value)
        return tuple(_typed(item, shape.item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type):
        if issubclass(hint, Record) and isinstance(value, Mapping):
            return hint.from_json(value, where=where)
        if issubclass(hint, StrEnum) and isinstance(value, str):
            try:
                return hint(value.lower())
            except ValueError:
                raise RecordError(f"{value!r} is not one of {', '.join(hint)}: {where}.") from None
        if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
    elif typing.get_origin(hint) is dict and isinstance(value, Mapping):
        return dict(value)
    expected = hint.__name__ if isinstance(hint, type) else str(hint)
    raise RecordError(f"expected {expected}, got {type(value).__name__} {value!r:.60}: {where}.")
