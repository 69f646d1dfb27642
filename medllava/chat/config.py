"""What a conversation needs to know, without torch: who answers, how, and about which picture."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from medllava.model.sampling import Sampling
from medllava.records import Record

NOTICE = (
    "Research use only. This is not a medical device: answers can be wrong and must not be used "
    "for diagnosis or treatment."
)
"""Told once per session; the model's own words are neither filtered nor extended."""

PASSWORD_VARIABLE = "MEDLLAVA_WEB_PASSWORD"  # noqa: S105 - the variable's name, not its value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one question is asked, where that is not as the conversation began."""

    keep: int | None = None
    """Turns kept before the question: fewer than there are asks again from an earlier place."""
    sampling: Sampling | None = None
    system: str | None = None
    """System prompt; unset leaves the one that the chat template has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """Which picture of a file with several is meant; see `medllava.images.load.load_image`."""

    frame: int | None = None
    plane: str = "axial"
    slice_index: int | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """Whom to talk to and how."""

    checkpoint: str
    """Folder or hub id; with `base_url` the server's name of the model."""
    base_url: str | None = None
    """OpenAI-compatible server that answers instead of a model loaded here."""
    device: str = "auto"
    dtype: str = "auto"
    load: str | None = None
    """`8bit` or `4bit`: quantized weights."""
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def sent_to(self) -> str | None:
        """Name of the server that pictures go to, without a password; None: they stay here."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2] if self.base_url else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Record):
    """Facts about one finished answer."""

    text: str
    finish_reason: str
    """`stop`: the model ended it; `length`: cut at the limit; `interrupted`: by the user. A server
    may have reasons of its own."""
    input_tokens: int = 0
    """Of the whole conversation so far, image tokens included."""
    cached_tokens: int = 0
    """Of these, how many were not computed again."""
    output_tokens: int = 0
    first_token_seconds: float = 0.0
    """From the question to the first token."""
    seconds: float = 0.0
    choices: dict[str, float] = field(default_factory=dict)
    """Of a closed question: each choice with the probability that the answer begins with it."""
