"""What a language model behind the door looks like to teacher, judge and remote chat.

A `ChatRequest` goes in, a `ChatReply` comes out; who answers (an OpenAI-compatible server, a local
model, a recording) is decided once, where the model is built. Requests carry an id, so that a reply
that was paid for is never asked for again. A request may take several attempts, and each of them
may cost money: whoever keeps the books is told of every one through `Attempts`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from medllava.errors import RemoteError
from medllava.records import Record

REPORTED, ESTIMATED = "reported", "estimated"
"""Whose count the tokens of a reply are: the server's, or ours at the most they could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Record):
    """One message of a request."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    images: tuple[str, ...] = ()
    """Images shown before the text, as local paths or `data:` addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(Record):
    """One question to a language model."""

    request_id: str
    """Unique in its run; the key of the ledger."""
    messages: tuple[Message, ...]
    max_new_tokens: int = 1024
    temperature: float = 0.0
    seed: int | None = None
    response_schema: dict[str, Any] | None = None
    """JSON schema asked for where the server has structured output, ignored elsewhere."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the body, as the server names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply(Record):
    """The answer to the request of the same id."""

    request_id: str
    text: str
    model: str = ""
    """As the server names it, with its date where it has one."""
    finish_reason: str = ""
    """`stop`, `length`, `content_filter`, `tool_calls`; `refusal` where the model declined."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens, those the server had read before and charges less for."""
    usage: str = REPORTED
    """`reported`, or `estimated`: the server told no tokens, so the most they could be stands."""


class Attempts(Protocol):
    """Keeps the books of the attempts at one request."""

    def begin(self) -> None:
        """Note that an attempt is about to be sent.

        Raises:
            OverBudgetError: the budget does not allow it.
        """
        ...

    def fail(self, why: str, *, maybe_paid: bool) -> None:
        """Note that the attempt brought no reply, and whether the service may charge for it."""
        ...


class Uncounted:
    """`Attempts` of a caller that keeps no books."""

    def begin(self) -> None:
        """Do nothing."""

    def fail(self, why: str, *, maybe_paid: bool) -> None:
        """Do nothing."""


class RequestRefusedError(RemoteError):
    """The service will not answer this one request; others may pass."""

    def __init__(self, message: str, *, is_final: bool = False, reason: str = "refused") -> None:
        """Remember what the refusal means.

        Args:
            message: with the service's words.
            is_final: its content is filtered, so it will never be answered; anything else (too
                long, a parameter, a model that is not loaded) may be mended.
            reason: a name for it.
        """
        super().__init__(message)
        self.is_final = is_final
        self.reason = reason


class AccessError(RemoteError):
    """The service will not answer any request: key, model name, address or quota."""


class OverBudgetError(RemoteError):
    """Another attempt could pass the budget."""


class ChatModel(Protocol):
    """Anything that answers chat requests."""

    name: str
    """Model id, for provenance."""

    def reply(self, request: ChatRequest, *, attempts: Attempts | None = None) -> ChatReply:
        """Answer one request.

        Args:
            request: what is asked.
            attempts: told of every attempt; None: nobody counts.

        Raises:
            RequestRefusedError: this request is not acceptable; another may be.
            AccessError: no request is.
            OverBudgetError: `attempts` does not allow another one.
            RemoteError: no answer after retries.
        """
        ...

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """Answer one request in pieces of text."""
        ...
