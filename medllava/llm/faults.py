"""What a failed attempt means: whether it may have been paid for, and what to do about it.

Everything that can go wrong, from the socket or from the server, becomes one `Fault`; `judge` says
what follows from it, `refused_parameter` what to leave out of the next attempt.
"""

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

import openai

from medllava.llm.http import DisconnectedError, MaybePaidError, NotSentError, Response
from medllava.llm.replies import is_content_filter, told_by

_TRANSIENT = {408, 409, 425, 429}
_NO_ACCESS = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
_TIMED_OUT_BEHIND = {408, 504, 524}
"""Statuses of a gateway that gave up waiting; who answers behind it may charge all the same."""
_OPTIONAL = ("response_format", "max_completion_tokens", "max_tokens", "temperature", "seed")
"""Parameters that some servers or models refuse, in the order in which they are given up."""
_NOT_ACCEPTED = re.compile(
    r"not? support|unsupported|unknown|unrecognized|unexpected|not permitted|not allowed|extra "
    r"(inputs|fields)|only the default|not implemented|cannot be used",
    re.IGNORECASE,
)
_TRY_AGAIN = re.compile(r"try again|retry|temporar|overloaded|busy", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model_not_found|no models? (?:is |are )?loaded|model .{0,80}(?:does not exist|not found"
    r"|not loaded)|load a model|unknown model|invalid model",
    re.IGNORECASE,
)


class Verdict(Enum):
    """What follows from a fault."""

    RETRY = auto()
    REPEAT_ONCE = auto()
    """Refused, in words or with a status that may be of the moment."""
    REFUSED = auto()
    FILTERED = auto()
    """Refused for its content."""
    NO_ACCESS = auto()


class Fault(Exception):  # noqa: N818 - it becomes one of the errors of `protocol`
    """One failed attempt."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        param: str = "",
        retry_after: float = 0.0,
        cause: Exception | None = None,
    ) -> None:
        """Remember what came back.

        Args:
            message: the server's own words, or what went wrong on the way.
            status: of HTTP; None: no answer came.
            code: the server's name for it.
            param: which parameter it names.
            retry_after: seconds that the server asks to wait.
            cause: what was raised where no answer came.
        """
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param
        self.retry_after, self.cause = retry_after, cause

    @property
    def maybe_paid(self) -> bool:
        """Tell whether the service may charge for the attempt."""
        return isinstance(self.cause, MaybePaidError) or self.status in _TIMED_OUT_BEHIND

    @property
    def is_silent(self) -> bool:
        """Tell whether the connection was closed without a byte of reply."""
        return isinstance(self.cause, DisconnectedError)


def read_fault(error: Exception | Response) -> Fault:
    """Return what went wrong as a fault."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, Response):
        body = error.json()
        text = told_by(body) or error.data[:300].decode("utf-8", "replace")
        return _fault(text, error.status, body, error.headers)
    if isinstance(error, openai.APIStatusError):
        body = {"error": error.body} if isinstance(error.body, dict) else error.body
        return _fault(error.message, error.status_code, body, error.response.headers)
    if isinstance(error, NotSentError | MaybePaidError):
        return Fault(str(error), cause=error)
    if isinstance(error, openai.APITimeoutError | openai.APIConnectionError):
        within = type(error.__cause__).__name__
        sent = "Connect" not in within
        kind = MaybePaidError if sent else NotSentError
        return Fault(str(error), cause=kind(f"{error} ({within})"))
    # A reply of `client`'s that does not parse.
    told = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
    return Fault(told, cause=MaybePaidError(told))


def judge(fault: Fault, *, was_reached: bool) -> Verdict:
    """Say what follows from a fault.

    Args:
        fault: what went wrong.
        was_reached: the server has answered before, so its address is right.
    """
    status = fault.status
    if status is None:
        is_lost = isinstance(fault.cause, NotSentError) and not was_reached
        return Verdict.NO_ACCESS if is_lost else Verdict.RETRY
    if is_content_filter(fault.code, fault.message) and status < 500 and status not in _TRANSIENT:
        return Verdict.FILTERED
    named = f"{fault.code} {fault.message}"
    if (
        status in _NO_ACCESS
        or fault.code in {"insufficient_quota", "invalid_api_key"}
        or (status < 500 and status not in _TRANSIENT and _NO_MODEL.search(named))
    ):
        return Verdict.NO_ACCESS
    if status >= 500 or status in _TRANSIENT:
        return Verdict.RETRY
    if status == 422 or _TRY_AGAIN.search(fault.message):
        return Verdict.REPEAT_ONCE
    return Verdict.REFUSED


def refused_parameter(fault: Fault, sent: Mapping[str, Any], *, was_repeated: bool) -> str | None:
    """Name the parameter that a server would not have, or None if that was not the matter.

    Args:
        fault: what the server said.
        sent: the parameters of the body.
        was_repeated: the same body was refused twice.
    """
    if fault.status not in {400, 422, 501}:
        return None
    told = f"{fault.param} {fault.message}".replace("json_schema", "response_format")
    if _NOT_ACCEPTED.search(told) or fault.code in {"unsupported_parameter", "unsupported_value"}:
        for name in _OPTIONAL:
            if name in sent and name in told:
                return name
    verdict = judge(fault, was_reached=True)
    if verdict is Verdict.REPEAT_ONCE and not was_repeated:
        return None
    if verdict not in {Verdict.REFUSED, Verdict.REPEAT_ONCE} and fault.status != 501:
        return None
    # Servers that do not know structured output rarely say that it is the reason.
    return "response_format" if "response_format" in sent else None


def _fault(text: str, status: int, body: Any, headers: Mapping[str, str]) -> Fault:  # noqa: ANN401 - JSON is any
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    code, param = error.get("code"), error.get("param")
    return Fault(
        text or f"status {status}",
        status=status,
        code=code if isinstance(code, str) else "",
        param=param if isinstance(param, str) else "",
        retry_after=_retry_after(headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks for, 0 where it does not."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        until = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return 0.0
    return max(0.0, until.timestamp() - time.time())
