"""One door to every server that speaks OpenAI's chat completions.

OpenAI, Azure, vLLM, SGLang, llama.cpp, `transformers serve` and their like. A `ChatRequest` goes
in, a `ChatReply` comes out, after as many attempts as it takes. A server tells us what it cannot do
by refusing; the parameter it refused (structured output, a temperature, one name of the token
limit) is left out from then on. Keys come from the environment only.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Generator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from medllava.errors import RemoteError, SetupError
from medllava.llm.payload import (
    MalformedReplyError,
    build_messages,
    parse_reply,
    request_key,
)
from medllava.llm.protocol import AccessError, ChatReply, ChatRequest, RequestRefusedError

logger = logging.getLogger(__name__)

T = TypeVar("T")

AZURE_API_VERSION = "2024-10-21"
_AZURE_DOMAINS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_NO_KEY = "none"
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
_TRANSIENT = {408, 409, 425, 429}
_NO_ACCESS = {401, 402, 403, 404, 405}
_OPTIONAL = ("response_format", "max_completion_tokens", "max_tokens", "temperature", "seed")
"""Parameters that some servers or models refuse, in the order in which they are given up."""
_NOT_ACCEPTED = re.compile(
    r"not? support|unsupported|unknown|unrecognized|unexpected|not permitted|not allowed|extra "
    r"(inputs|fields)|only the default|not implemented|cannot be used",
    re.IGNORECASE,
)


class OpenAIModel:
    """A `ChatModel` behind an OpenAI-compatible address; safe to share between threads."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        timeout_seconds: float = 300.0,
        max_retries: int = 8,
        retry_seconds: float = 1.0,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            model: name as the server knows it; on Azure the name of the deployment.
            base_url: address of the server, such as `http://localhost:8000/v1`; None: OpenAI.
                An Azure address may be the bare resource or end in `/openai/v1`.
            timeout_seconds: of one attempt.
            max_retries: attempts after the first one.
            retry_seconds: wait before the first retry; doubled for each further one, with jitter.
                A server's own Retry-After goes before it.

        Raises:
            SetupError: OpenAI or Azure is asked for and its key is not in the environment
                (`OPENAI_API_KEY`, `AZURE_OPENAI_API_KEY`). Other servers need none.
        """
        self.name = model
        self.host = (urlsplit(base_url).hostname or base_url) if base_url else "api.openai.com"
        self._key = _find_key(self.host, base_url)
        self.client = _build_client(base_url, self.host, key=self._key, timeout=timeout_seconds)
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        # OpenAI's own address knows the limit by its newer name, most others by the older one.
        self._refused = frozenset({"max_tokens"} if base_url is None else ())
        self._lock = threading.Lock()
        self._not_before = 0.0

    def reply(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Every attempt carries the same `Idempotency-Key`, so a server that honours it charges once.

        Raises:
            RequestRefusedError: this request is not acceptable; another may be.
            AccessError: key, model name, address or quota; no request is.
            RemoteError: no answer after all retries.
            DataError: an image of the request cannot be read.
        """
        headers = {"Idempotency-Key": request_key(self.name, request)}
        messages = build_messages(request.messages)

        def ask(without: frozenset[str]) -> ChatReply:
            body = self.body(request, messages=messages, without=without)
            answer = self.client.post(
                "/chat/completions", cast_to=object, body=body, options={"headers": headers}
            )
            return parse_reply(answer, request)

        return self._persist(ask, request)

    def stream(self, request: ChatRequest) -> Generator[str, None, str]:
        """Answer one request in pieces of text, as the server sends them; return why it ended.

        Raises:
            RemoteError: as in `reply`; or the stream broke off after its first piece, which is
                not asked again.
        """
        messages = build_messages(request.messages)

        def ask(without: frozenset[str]) -> tuple[Generator[str, None, str], str]:
            body = self.body(request, messages=messages, without=without)
            pieces = _pieces(self.client.chat.completions.create(**body, stream=True))
            return pieces, next(pieces, "")

        pieces, first = self._persist(ask, request)
        yield first
        try:
            return (yield from pieces)
        except (openai.APIError, MalformedReplyError) as error:
            raise RemoteError(
                f"the answer broke off ({self._clean(error)}): {self.host}. Ask again."
            ) from None

    def body(
        self,
        request: ChatRequest,
        *,
        messages: list[dict[str, Any]] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """Return the JSON body of a request, without what the server has refused so far.

        Args:
            request: what to ask.
            messages: its messages, if they were built already.
            without: parameters to leave out besides.
        """
        body: dict[str, Any] = {
            "model": self.name,
            "messages": build_messages(request.messages) if messages is None else messages,
            "max_tokens": request.max_new_tokens,
            "max_completion_tokens": request.max_new_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            body["seed"] = request.seed
        if request.response_schema is not None:
            schema = {"name": "reply", "schema": request.response_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        for name in self._refused | without:
            body.pop(name, None)
        if "max_tokens" in body:
            del body["max_completion_tokens"]
        return body

    def retrying(self, call: Callable[[], T]) -> T:
        """Call something of `client`'s as patiently as a request; what it takes stays as it is.

        Raises:
            RequestRefusedError, AccessError, RemoteError: as in `reply`.
        """
        return self._persist(lambda _: call(), None)

    def _persist(self, ask: Callable[[frozenset[str]], T], request: ChatRequest | None) -> T:
        """Ask until there is an answer, a refusal, or no patience left."""
        attempt = 0
        without: frozenset[str] = frozenset()
        while True:
            self._wait_turn()
            try:
                answer = ask(without)
            except (openai.APIError, MalformedReplyError, json.JSONDecodeError) as error:
                sent = self.body(request, messages=[], without=without) if request else {}
                if name := _refused_parameter(error, sent):
                    without |= {name}
                    continue
                self._raise_if_final(error)
                if attempt >= self._max_retries:
                    raise RemoteError(
                        f"no answer after {attempt + 1} attempts ({self._clean(error)}): "
                        f"{self.host}. Run again later; what was answered is kept."
                    ) from None
                self._delay(error, attempt)
                attempt += 1
            else:
                self._give_up(without)
                return answer

    def _give_up(self, names: frozenset[str]) -> None:
        """Leave out of all later requests what this one was accepted without."""
        if new := names - self._refused:
            with self._lock:
                self._refused |= new
            logger.warning("%s does not accept %s", self.host, ", ".join(sorted(new)))

    def _wait_turn(self) -> None:
        # One 429 means that all threads are too fast, so all of them wait.
        while (wait := self._not_before - time.monotonic()) > 0:
            time.sleep(wait)

    def _delay(self, error: Exception, attempt: int) -> None:
        wait = min(_LONGEST_WAIT_SECONDS, self._retry_seconds * 2**attempt)
        wait *= random.uniform(0.5, 1.0)
        if isinstance(error, openai.APIStatusError):
            asked = _retry_after(error)
            if asked > _LONGEST_RETRY_AFTER_SECONDS:
                raise RemoteError(
                    f"the server asks to wait {asked:.0f} seconds: {self.host}. Run again then; "
                    "what was answered is kept."
                ) from None
            if asked:
                wait = asked + random.uniform(0.0, min(1.0, asked / 10))
            if error.status_code in {429, 503}:
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + asked)
        logger.info("waiting %.1f s for %s: %s", wait, self.host, self._clean(error))
        time.sleep(wait)

    def _raise_if_final(self, error: Exception) -> None:
        if not isinstance(error, openai.APIStatusError):
            return
        status = error.status_code
        if status in _NO_ACCESS or error.code in {"insufficient_quota", "invalid_api_key"}:
            # The server's words may quote the key, so they are left out where it is the matter.
            why = f": {self._clean(error)}" if status not in {401, 403} else ""
            raise AccessError(
                f"no access to model {self.name!r} (status {status}{why}): {self.host}. "
                "Check the key in the environment, the model's name, the address and the quota."
            ) from None
        if status < 500 and status not in _TRANSIENT:
            raise RequestRefusedError(
                f"request refused (status {status}: {self._clean(error)}): {self.host}."
            ) from None

    def _clean(self, error: Exception) -> str:
        text = error.message if isinstance(error, openai.APIError) else str(error)
        return " ".join(text.replace(self._key, "***").split())[:200] if text else repr(error)


def _refused_parameter(error: Exception, sent: dict[str, Any]) -> str | None:
    """Name the parameter that a server would not have, or None if that was not the matter."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in {400, 422, 501}:
        return None
    told = f"{error.param or ''} {error.message}".replace("json_schema", "response_format")
    if _NOT_ACCEPTED.search(told):
        for name in _OPTIONAL:
            if name in sent and name in told:
                return name
    # Servers that do not know structured output rarely say that it is the reason.
    return "response_format" if "response_format" in sent else None


def _pieces(stream: Any) -> Generator[str, None, str]:  # noqa: ANN401 - a stream of the client's own
    """Yield the text of a stream and return why it ended."""
    reason: str | None = None
    for chunk in stream:
        if chunk.choices:
            reason = reason or chunk.choices[0].finish_reason
            if text := chunk.choices[0].delta.content:
                yield text
    if reason is None:
        # A connection that closes looks like an end; only a stated reason is one.
        raise MalformedReplyError("the stream ended without a reason")
    return reason


def _find_key(host: str, base_url: str | None) -> str:
    is_azure = host.endswith(_AZURE_DOMAINS)
    names = ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY") if is_azure else ("OPENAI_API_KEY",)
    key = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if key is None and (is_azure or base_url is None):
        raise SetupError(
            f"no API key for {host}: {names[0]} is not set. Export it, or give --base-url of a "
            "server that needs none."
        )
    return key or _NO_KEY


def _build_client(base_url: str | None, host: str, *, key: str, timeout: float) -> openai.OpenAI:
    # The client would read OPENAI_BASE_URL by itself, so the default is spelt out.
    if base_url and host.endswith(_AZURE_DOMAINS) and "/openai/v1" not in base_url:
        return openai.AzureOpenAI(
            api_key=key,
            azure_endpoint=base_url,
            api_version=os.environ.get("OPENAI_API_VERSION", AZURE_API_VERSION),
            timeout=timeout,
            max_retries=0,
        )
    address = base_url or "https://api.openai.com/v1"
    return openai.OpenAI(api_key=key, base_url=address, timeout=timeout, max_retries=0)


def _retry_after(error: openai.APIStatusError) -> float:
    """Return the seconds that a server asks for, 0 where it does not."""
    headers = error.response.headers
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
