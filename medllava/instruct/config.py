"""What `generate_instructions` can be told; torch-free and cheap to import."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from medllava.privacy.findings import PrivacyMode
from medllava.records import Split, Stage

TEMPLATE_TEACHER = "template"

Rejection = StrEnum("Rejection", ["RULE", "NOISE", "EXCHANGE", "TEACHER"])
"""How the worse reply of a pair is made: an error planted by rule; what a model says about a noisy
or an exchanged picture; or an error that a teacher writes in."""
ImagePosition = StrEnum("ImagePosition", ["BEFORE", "AFTER", "RANDOM"])
"""Place of the image token: before or after the first instruction, or drawn for each record."""

ClosedReplies = StrEnum("ClosedReplies", ["WORD", "NAMED", "REASONED"])
"""How the template teacher replies to a yes/no question: "no"; "No, it is an X-ray."; "It is an
X-ray, so no."."""

Kind = StrEnum("Kind", ["CONVERSATION", "VQA", "CHOICE"])
"""What a model writes about a figure: a conversation, questions with short answers, or questions
with lettered choices."""

Select = StrEnum("Select", ["TURN", "ENTITIES"])
"""In which order figures are taken: in turn from each modality, or within it from each entity
(subject headings, else findings and organs of the caption) too, so that rare ones are seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """Figures to conversations: what to read, who writes, how much."""

    figures: Path
    """Figures folder, or its `figures.parquet`; of stage `prefer` also an instructions folder; of
    stage `reinforce` questions with answers: a file, a folder that has one, or a benchmark."""
    output_dir: Path
    stage: Stage
    """`align`, `instruct`, `prefer`, or `reinforce`, which adds key steps to questions."""
    teacher: str = TEMPLATE_TEACHER
    """Of stage `instruct`: `template`, `local:FOLDER`, `recorded:FILE` or a server's model name."""
    kind: Kind = Kind.CONVERSATION
    """What a model as teacher writes."""
    rejected: tuple[Rejection, ...] = (Rejection.RULE,)
    """Of stage `prefer`: the ways to make worse replies, one pair per answer and way."""
    split: Split | None = Split.TRAIN
    """Part of the figures to use; None takes all."""
    limit: int | None = None
    """Most figures to use; in stage `instruct` in turn from each modality. Of a preset, the most
    conversations to keep."""
    preset: str | None = None
    """Of a model as teacher: a published data set to make again, by name."""
    select: Select = Select.TURN
    """Of a model as teacher: order of the figures."""
    seed: int = 0
    image_position: ImagePosition | None = None
    """Unset: `random` in stage `align`, `before` in stage `instruct`."""
    questions_per_figure: int = 1
    """Of the template teacher: most questions about one figure."""
    closed_share: float = 0.5
    """Of the template teacher: share of yes/no questions."""
    closed_replies: ClosedReplies = ClosedReplies.WORD
    """Of the template teacher: how a yes/no question is replied to."""
    multi_turn: bool = False
    """Of the template teacher: all questions about a figure in one conversation."""
    columns: tuple[tuple[str, str], ...] = ()
    """Of a table: field to column, where its own names do not say it."""
    image_dir: Path | None = None
    """Of a table: folder of the pictures; None takes the table's."""
    formats: tuple[str, ...] = ()
    """Other layouts to write the records in: `llava`, `messages`, `swift`."""
    llava_json: bool = False
    """Write the records as LLaVA's JSON too."""
    base_url: str | None = None
    """Address of the teacher's server; None: OpenAI."""
    batch: bool = False
    """Ask through the Batch API."""
    batch_size: int | None = None
    """Most requests of one batch; None: what OpenAI takes."""
    inline_mentions: bool = True
    """Show the teacher the sentences of the article that cite the figure."""
    see_image: bool = False
    """Show the teacher the picture too."""
    temperature: float = 0.7
    """Of the teacher's sampling."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further parameters of every request, as the server names them (`reasoning_effort`, `top_p`);
    `max_tokens`, `temperature`, `timeout` and `retries` are read here."""
    language: str | None = None
    """Of the conversations, by its two letters; None: English or the caption's own."""
    min_score: float = 0.0
    """Least share of an answer's words that caption, mentions or question carry, and least score
    of the verifier."""
    verify: str | None = None
    """A second model that judges every pair; it has the teacher's server and ledger."""
    vision_gate: str | None = None
    """A trained checkpoint that drops what it finds likelier with other pictures."""
    retry_refused: bool = False
    """Ask again about figures that the service filtered."""
    max_cost_usd: float | None = None
    """Nothing is sent that could bring the folder's total above this."""
    prices: Path | None = None
    """TOML file of prices, before those of genai-prices."""
    concurrency: int = 16
    """Requests in flight at once."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_seconds: float = 300.0
    """Of one attempt at one request."""
    poll_seconds: float = 30.0
    """Between two looks at a batch."""
    privacy: PrivacyMode = PrivacyMode.AUTO
    """What happens where something private is found: data of one's own are looked at first."""
    check_privacy: bool = False
    """Only look, and write what was found."""
    dry_run: bool = False
    """Count what would be sent; send and write nothing."""
