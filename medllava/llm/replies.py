"""A server's body as a `ChatReply`, and whether it is of any use.

What a server sends back is untrusted: every field is checked before it is used. A reply that was
paid for and says nothing has a reason of its own, so that nobody takes it for an answer.
"""

import json
import re
from dataclasses import replace
from typing import Any

from medllava.llm.protocol import ESTIMATED, REPORTED, ChatReply, ChatRequest

EMPTY, LENGTH, CONTENT_FILTER = "empty_reply", "length", "content_filter"
REFUSAL, TOOL_CALLS, TOO_LARGE = "refusal", "tool_calls", "too_large"
MOST_ROOM = 4
"""A reply that was cut off is asked for again with up to this many times the room."""
_INPUT_NAMES = ("prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount")
_OUTPUT_NAMES = ("completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount")
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_FILTERED = re.compile(
    r"content[ _-]?(?:filter|management|policy|moderation)|safety (?:system|polic|setting)"
    r"|responsible ?ai|\bmoderation\b|\bflagged\b|usage polic",
    re.IGNORECASE,
)


class MalformedReplyError(ValueError):
    """A server's body is not a chat completion."""


def parse_reply(body: Any, request: ChatRequest) -> ChatReply:  # noqa: ANN401 - JSON is any
    """Read a chat completion.

    The content may be a string or a list of parts, of which those that are text count. Where it is
    empty and the model wrote the JSON that was asked for into its reasoning, that is the reply.
    Tokens that the server does not tell are 0, and `usage` says `estimated`; `charge_at_most` puts
    the estimate there.

    Raises:
        MalformedReplyError: it is none; has the server's own words where there are any.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = _content(message.get("content"))
        reason = choice.get("finish_reason")
        reason = reason if isinstance(reason, str) else ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedReplyError(told_by(body) or f"not a chat completion: {error!r}") from None
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str) and refusal:
        # A model that declines under structured output answers in a field of its own.
        text, reason = refusal, REFUSAL
    if not _THINKING.sub("", text).strip() and request.response_schema is not None:
        text = _json_of_reasoning(message) or text
    if reason in {"max_tokens", "MAX_TOKENS"}:
        reason = LENGTH
    if message.get("tool_calls") and not text:
        reason = TOOL_CALLS
    name = body.get("model")
    reply = ChatReply(
        request_id=request.request_id,
        text=text,
        model=name if isinstance(name, str) else "",
        finish_reason=reason,
    )
    return _with_usage(reply, body.get("usage"))


def useless_reason(reply: ChatReply) -> str | None:
    """Name why a reply is of no use whatever was asked, or None.

    A reply that was cut off (`length`) is of no use only if it is empty; whoever asked knows
    whether the rest is enough.
    """
    if reply.finish_reason in {CONTENT_FILTER, REFUSAL, TOOL_CALLS}:
        return reply.finish_reason
    if not _THINKING.sub("", reply.text).strip():
        return LENGTH if reply.finish_reason == LENGTH else EMPTY
    return None


def ask_again(request: ChatRequest, reason: str) -> ChatRequest:
    """Return a request to ask once more after a reply of no use: with more room or another seed."""
    changed = replace(request, seed=(request.seed or 0) + 1)
    if reason == LENGTH:
        changed = replace(changed, max_new_tokens=request.max_new_tokens * MOST_ROOM)
    return changed


def charge_at_most(reply: ChatReply, *, input_tokens: int, output_tokens: int) -> ChatReply:
    """Put the most that a reply may have taken in place of tokens that the server did not tell."""
    if reply.usage != ESTIMATED:
        return reply
    return replace(
        reply,
        input_tokens=reply.input_tokens or input_tokens,
        output_tokens=reply.output_tokens or output_tokens,
    )


def is_content_filter(code: object, message: str) -> bool:
    """Tell whether a refusal is about content, which asking again does not change."""
    return _FILTERED.search(f"{code if isinstance(code, str) else ''} {message}") is not None


def told_by(body: Any) -> str:  # noqa: ANN401 - JSON is any
    """Return a server's own words about what went wrong; empty where it has none."""
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body.get("message")
        if isinstance(error, dict):
            error = error.get("message") or error.get("code") or error
        if isinstance(error, list) and error and isinstance(error[0], dict):
            error = error[0].get("msg") or error[0]
        if error:
            return " ".join(str(error).split())[:300]
    return ""


def _content(value: Any) -> str:  # noqa: ANN401 - JSON is any
    """Return the text of a message's content; parts that are no text (thoughts, calls) are left."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part if isinstance(part, str) else _part_text(part) for part in value]
        return "".join(texts)
    raise TypeError(f"expected text, got {type(value).__name__}")


def _part_text(part: Any) -> str:  # noqa: ANN401 - JSON is any
    if not isinstance(part, dict) or part.get("type", "text") not in {"text", "output_text"}:
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _json_of_reasoning(message: dict[str, Any]) -> str:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(reasoning, str):
        return ""
    decoder = json.JSONDecoder()
    start = reasoning.rfind("\n{") + 1 if "\n{" in reasoning else reasoning.find("{")
    if start < 0:
        return ""
    try:
        value, end = decoder.raw_decode(reasoning, start)
    except (ValueError, RecursionError):
        return ""
    return reasoning[start:end] if isinstance(value, dict) else ""


def _with_usage(reply: ChatReply, usage: Any) -> ChatReply:  # noqa: ANN401 - JSON is any
    usage = usage if isinstance(usage, dict) else {}
    given, written = _first(usage, _INPUT_NAMES), _first(usage, _OUTPUT_NAMES)
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    # Nothing is read for nothing, and no text is written with no tokens.
    is_told = given > 0 and (written > 0 or not reply.text)
    return replace(
        reply,
        input_tokens=given,
        output_tokens=written,
        cached_tokens=min(cached, given),
        usage=REPORTED if is_told else ESTIMATED,
    )


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    return next((count for name in names if (count := _count(usage.get(name)))), 0)


def _count(value: object) -> int:
    """Return a number of tokens, however it was written; 0 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        number = float(value)
    except ValueError:
        return 0
    return int(number) if 0 <= number < 1e12 else 0
