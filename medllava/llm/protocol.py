"""What a language model behind the door looks like to teacher, judge and remote chat.

A `ChatRequest` goes in, a `ChatReply` comes out; who answers (an OpenAI-compatible server, a local
model, a recording) is decided once, where the model is built. Requests carry an id, so that a reply
that was paid for is never asked for again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from medllava.errors import RemoteError
from medllava.records import Record


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply(Record):
    """The answer to the request of the same id."""

    request_id: str
    text: str
    model: str = ""
    """As the server names it, with its date where it has one."""
    finish_reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class RequestRefusedError(RemoteError):
    """The service will not answer this one request, however often it is asked; others may pass."""


class AccessError(RemoteError):
    """The service will not answer any request: key, model name, address or quota."""


class ChatModel(Protocol):
    """Anything that answers chat requests."""

    name: str
    """Model id, for provenance."""

    def reply(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            RequestRefusedError: this request is not acceptable; another may be.
            AccessError: no request is.
            RemoteError: no answer after retries.
        """
        ...

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """Answer one request in pieces of text."""
        ...
