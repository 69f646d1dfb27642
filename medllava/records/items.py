"""The things on the data's route: figures, instructions, questions, predictions.

Paths inside records are relative to the folder of the file that holds the record (or to
`--image-dir`). `pmc` writes `FigureRecord`, `instruct` turns it into `InstructionRecord`, `data`
feeds it to training, `eval` joins `Question` and `Prediction`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medllava.records.base import Record

IMAGE_TOKEN = "<image>"  # noqa: S105 - a placeholder in text, not a secret
"""Stands in a user turn for one image; the processor expands it to `num_image_tokens`."""

OWN = "own"
"""License of pictures whose owner names no other, and `context` of figures out of a table of one's
own. It travels to the model's card; what is under it is looked through for names, and pushed to a
private repository unless the user says otherwise."""


def is_own(license_name: str | None) -> bool:
    """Tell the license of data of one's own, however it is written: `own`, `own data`."""
    return (license_name or "").strip().lower().replace("-", " ").split(" ")[0] == OWN


class Modality(StrEnum):
    """Kind of picture; the first five are LLaVA-Med's domains."""

    CHEST_XRAY = "chest_xray"
    CT = "ct"
    MRI = "mri"
    HISTOPATHOLOGY = "histopathology"
    GROSS_PATHOLOGY = "gross_pathology"
    OTHER = "other"


class Stage(StrEnum):
    """A stage of the curriculum, in order 1 to 5."""

    ALIGN = "align"
    INSTRUCT = "instruct"
    FINETUNE = "finetune"
    PREFER = "prefer"
    REINFORCE = "reinforce"


class AnswerType(StrEnum):
    """What kind of answer a question has."""

    CLOSED = "closed"
    """One of a stated few: yes or no, or choices."""
    OPEN = "open"
    """Free text."""
    REPORT = "report"
    """A whole report, which no rule counts as right or wrong."""


class Split(StrEnum):
    """Part of the data; assigned by article, never by figure."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


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
    caption_language: str = "und"
    """Two letters; `und` where neither words nor XML tell."""
    other_captions: tuple[str, ...] = ()
    """The same caption in other languages, where it is printed in several."""
    other_caption_languages: tuple[str, ...] = ()
    """Of `other_captions`, in the same order."""
    in_text_mentions: tuple[str, ...] = ()
    """Sentences of the body that cite the figure, in reading order."""
    images: tuple[str, ...] = ()
    """Relative image paths; several when the figure is split over files."""
    modality: Modality = Modality.OTHER
    context: str = "body"
    """Where it stood: body, floats, back, abstract, boxed-text, sub-article."""
    panel_score: float = 0.0
    """0 = surely one panel, 1 = surely several."""
    panel: str = ""
    """Label of the panel that this record was cut out of a figure for; empty for a whole figure."""
    panel_box: tuple[int, ...] = ()
    """Left, top, right, bottom of the panel, in pixels of the whole figure."""
    whole_figure_id: str | None = None
    """`figure_id` of the figure that a panel was cut out of."""
    license: str | None = None
    license_url: str | None = None
    license_basis: str = ""
    """The words that the license rests on, of the article or of the figure's own."""
    rights_flag: str | None = None
    """Why the license may not cover this figure, with the sentence; None when nothing was found."""
    credit: str = ""
    """The figure's credit line, where it stands outside the caption."""
    is_retracted: bool | None = None
    """None: the source cannot tell (legacy packages)."""
    citation: str = ""
    sha256: tuple[str, ...] = ()
    """Of the image files we wrote, in the order of `images`."""
    source_md5: tuple[str | None, ...] = ()
    """Of the objects we read, in the order of `images`."""
    article_language: str = "und"
    article_type: str = ""
    """As the archive writes it: research-article, case-report, ..."""
    journal: str = ""
    published: str = ""
    """ISO date of the first publication, as exact as it is stated: year, month, day."""
    keywords: tuple[str, ...] = ()
    """The authors' own."""
    mesh: tuple[str, ...] = ()
    """Medical subject headings, where the article has them."""
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
class PreferenceRecord(Record):
    """One prompt with a better and a worse reply; a line of `preferences.jsonl`."""

    record_id: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]
    """Up to the user turn that both replies answer."""
    chosen: str
    rejected: str
    rejected_by: str = ""
    """How the worse reply came to be: `rule:side`, `model:noise`, `teacher:organ`, ..."""
    teacher: str = ""
    """Who wrote the better one."""
    figure_id: str | None = None
    modality: Modality | None = None
    license: str | None = None
    split: Split = Split.TRAIN
    provenance: dict[str, Any] = field(default_factory=dict)


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
    answers: tuple[str, ...] = ()
    """All right answers together, where the reference is a set; `answer` joins them."""
    alternatives: tuple[tuple[str, ...], ...] = ()
    """Of an "or" question: the wordings of each answer that it offers."""
    more_images: tuple[str, ...] = ()
    """Shown after `image`, in this order."""
    box: tuple[float, ...] = ()
    """Where the answer is a place: left, top, right, bottom as fractions of width and height."""
    group: str | None = None
    """Questions of one group count as one for `group_accuracy`: right if all are."""

    @property
    def images(self) -> tuple[str, ...]:
        """All its images, in the order in which they are shown."""
        return () if self.image is None else (self.image, *self.more_images)

    category: str | None = None
    """Question type or modality, for the per-type rows of a report."""
    modality: str | None = None
    """Kind of its image: a floor shows another image of the same kind."""
    key_steps: tuple[tuple[str, ...], ...] = ()
    """What a sound line of reasoning passes through, in order, each step in its wordings; for
    rewards by step (R1-VL)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """A model's answer to the question of the same id; a line of `predictions.jsonl`."""

    id: str
    condition: str = "real"
    """What was shown: `real`, a control such as `permuted`, or the variant of a probe."""
    seed: int = 0
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePrediction(Prediction):
    """An answer to an altered question; `id` is that of the question it was made of."""

    question: str
    """As it was asked."""


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
