"""One door to every server that speaks OpenAI's chat completions.

OpenAI, Azure, vLLM, SGLang, llama.cpp, `transformers serve` and their like. A `ChatRequest` goes
in, a `ChatReply` comes out, after as many attempts as it takes and no more than may be paid for in
vain. A server tells us what it cannot do by refusing; the parameter it refused (structured output,
a temperature, one name of the token limit) is left out from then on. Keys come from the environment
only.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import openai

from medllava.errors import RemoteError
from medllava.llm.address import Address, parse_address
from medllava.llm.faults import Fault, Verdict, judge, read_fault, refused_parameter
from medllava.llm.http import (
    MOST_REPLY_BYTES,
    MaybePaidError,
    NotSentError,
    Response,
    Sender,
    StoppedError,
    TooLargeError,
)
from medllava.llm.payload import build_messages, request_key
from medllava.llm.protocol import (
    AccessError,
    Attempts,
    ChatReply,
    ChatRequest,
    RequestRefusedError,
    Uncounted,
)
from medllava.llm.replies import TOO_LARGE, MalformedReplyError, parse_reply
from medllava.printable import without_password

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
_MOST_PARAMETERS_REFUSED = 6
_STREAM_CONNECT_SECONDS = 5.0


class OpenAIModel:
    """A `ChatModel` behind an OpenAI-compatible address; safe to share between threads."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        timeout_seconds: float = 300.0,
        max_retries: int = 6,
        retry_seconds: float = 1.0,
        most_reply_bytes: int = MOST_REPLY_BYTES,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            model: name as the server knows it; on Azure the name of the deployment.
            base_url: address of the server, such as `http://localhost:8000/v1`, as `parse_address`
                reads it; None: OpenAI.
            timeout_seconds: of one attempt, from the first byte sent to the last one read.
            max_retries: attempts after the first one, where they cost nothing. After an attempt
                that may have been paid for there is one more, or two where not a byte came back.
            retry_seconds: wait before the first retry; doubled for each further one, with jitter.
                A server's own Retry-After goes before it.
            most_reply_bytes: longer replies are cut off and rejected.

        Raises:
            SetupError: the address is none, or OpenAI or Azure is asked for and its key is not in
                the environment (`OPENAI_API_KEY`, `AZURE_OPENAI_API_KEY`). Other servers need none.
        """
        self.name = model
        self.address = parse_address(base_url, model=model)
        self.host = self.address.host
        self.client = _build_client(self.address, model, timeout=timeout_seconds)
        self._sender = Sender(
            self.address.base, timeout_seconds=timeout_seconds, most_bytes=most_reply_bytes
        )
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        # OpenAI's own address knows the limit by its newer name, most others by the older one.
        self._refused = frozenset({"max_tokens"} if self.address.is_openai else ())
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._was_reached = False
        self._took_schema = False

    def reply(self, request: ChatRequest, *, attempts: Attempts | None = None) -> ChatReply:
        """Answer one request.

        The `Idempotency-Key` belongs to the body: a repeat of the same one carries the same key, so
        a server that honors it charges once.

        Args:
            request: what is asked.
            attempts: told of every attempt.

        Raises:
            RequestRefusedError: this request is not acceptable; another may be.
            AccessError: key, model name, address or quota; no request is.
            RemoteError: no answer after all retries.
            OverBudgetError: `attempts` did not allow another attempt.
            DataError: an image of the request cannot be read.
        """
        messages = build_messages(request.messages)
        name = request_key(self.name, request)

        def ask(without: frozenset[str]) -> ChatReply:
            body = self.body(request, messages=messages, without=without)
            response = self._post(json.dumps(body).encode(), name)
            if response.status != 200:
                raise read_fault(response)
            try:
                return parse_reply(response.json(), request)
            except MalformedReplyError as error:
                raise MaybePaidError(f"{error}{_beginning(response)}") from None

        return self._persist(ask, request, attempts or Uncounted())

    def stream(self, request: ChatRequest) -> Generator[str, None, str]:
        """Answer one request in pieces of text, as the server sends them; return why it ended.

        Raises:
            RemoteError: as in `reply`; or the stream broke off after its first piece, which is
                not asked again.
        """
        messages = build_messages(request.messages)

        def ask(without: frozenset[str]) -> tuple[Generator[str, None, str], str]:
            body = self.body(request, messages=messages, without=without)
            extra = {name: body.pop(name) for name in request.extra if name in body}
            made = self.client.chat.completions.create(**body, stream=True, extra_body=extra)
            pieces = _pieces(made)
            return pieces, next(pieces, "")

        pieces, first = self._persist(ask, request, Uncounted())
        yield first
        try:
            return (yield from pieces)
        except (openai.APIError, MalformedReplyError) as error:
            raise RemoteError(
                f"the answer broke off ({self._clean(str(error))}): {self.host}. Ask again."
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
        body |= request.extra
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
        return self._persist(lambda _: call(), None, Uncounted())

    def stop(self) -> None:
        """End what is in flight within a second; each such attempt may have been paid for."""
        self._sender.stopped.set()

    def _post(self, data: bytes, name: str) -> Response:
        key = hashlib.sha256(name.encode() + data).hexdigest()[:32]
        headers = {"Idempotency-Key": key, **self.address.headers}
        url = f"{self.address.base}/chat/completions"
        return self._sender.post(url, data, headers=headers, params=self.address.query)

    def _persist(
        self, ask: Callable[[frozenset[str]], T], request: ChatRequest | None, attempts: Attempts
    ) -> T:
        """Ask until there is an answer, a refusal, no patience left, or no more to pay in vain."""
        tried = _Tried()
        while True:
            self._wait_turn()
            attempts.begin()
            try:
                answer = ask(tried.without)
            except (
                Fault,
                NotSentError,
                MaybePaidError,
                openai.APIError,
                json.JSONDecodeError,
                MalformedReplyError,
            ) as error:
                fault = read_fault(error)
                attempts.fail(self._clean(fault.message), maybe_paid=fault.maybe_paid)
                self._decide(fault, tried, request)
            else:
                self._accept(tried.without, request)
                return answer

    def _decide(self, fault: Fault, tried: "_Tried", request: ChatRequest | None) -> None:
        """Wait for another attempt, or raise what ends them."""
        told = self._clean(fault.message)
        if fault.status is not None:
            self._was_reached = True
        if isinstance(fault.cause, StoppedError):
            raise RemoteError("interrupted") from None
        if isinstance(fault.cause, TooLargeError):
            raise RequestRefusedError(f"{told}: {self.host}.", reason=TOO_LARGE) from None
        sent = self.body(request, messages=[], without=tried.without) if request else {}
        name = refused_parameter(fault, sent, was_repeated=tried.repeats_of_refusal > 0)
        if name is not None and len(tried.without) < _MOST_PARAMETERS_REFUSED:
            tried.without |= {name}
            return
        verdict = judge(fault, was_reached=self._was_reached)
        if verdict is Verdict.REPEAT_ONCE and tried.repeats_of_refusal == 0:
            tried.repeats_of_refusal += 1
            return
        if verdict is Verdict.NO_ACCESS:
            raise AccessError(self._no_access(fault, told)) from None
        if verdict in {Verdict.REFUSED, Verdict.REPEAT_ONCE, Verdict.FILTERED}:
            raise RequestRefusedError(
                f"request refused (status {fault.status}: {told}): {self.host}.",
                is_final=verdict is Verdict.FILTERED,
            ) from None
        tried.count(fault, is_paid=request is not None)
        if not tried.has_patience(self._max_retries):
            why = "Nothing more is spent on it" if fault.maybe_paid else "Run again later"
            told = told if fault.status is None else f"status {fault.status}: {told}"
            raise RemoteError(
                f"no answer after {tried.attempts} attempts ({told}): "
                f"{self.host}. {why}; what was answered is kept."
            ) from None
        self._delay(fault, tried.attempts - 1)

    def _accept(self, without: frozenset[str], request: ChatRequest | None) -> None:
        """Leave out of all later requests what this one was accepted without."""
        self._was_reached = True
        if (
            request is not None
            and request.response_schema
            and "response_format" not in (without | self._refused)
        ):
            self._took_schema = True
        new = without - self._refused
        if self._took_schema:
            # It has been taken before, so this one request was the matter.
            new -= {"response_format"}
        if new:
            with self._lock:
                self._refused |= new
            logger.warning("%s does not accept %s", self.host, ", ".join(sorted(new)))

    def _wait_turn(self) -> None:
        # One 429 means that all threads are too fast, so all of them wait.
        while (wait := self._not_before - time.monotonic()) > 0:
            self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        if self._sender.stopped.wait(seconds):
            raise RemoteError("interrupted")

    def _delay(self, fault: Fault, attempt: int) -> None:
        wait = min(_LONGEST_WAIT_SECONDS, self._retry_seconds * 2**attempt)
        wait *= random.uniform(0.5, 1.0)
        asked = fault.retry_after
        if asked > _LONGEST_RETRY_AFTER_SECONDS:
            raise RemoteError(
                f"the server asks to wait {asked:.0f} seconds: {self.host}. Run again then; "
                "what was answered is kept."
            ) from None
        if asked:
            wait = asked + random.uniform(0.0, min(1.0, asked / 10))
        if fault.status in {429, 503}:
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + asked)
        logger.info("waiting %.1f s for %s: %s", wait, self.host, self._clean(fault.message))
        self._sleep(wait)

    def _no_access(self, fault: Fault, told: str) -> str:
        if fault.status is None:
            return (
                f"no server there ({told}): {without_password(self.address.base)}. "
                "Check the address, the port and whether the server runs."
            )
        # The server's words may quote the key, so they are left out where it is the matter.
        why = f": {told}" if fault.status not in {401, 403} else ""
        hint = ""
        if fault.status in {404, 405} and not self.address.base.endswith("/v1"):
            hint = f" The address may have to end in /v1: {without_password(self.address.base)}/v1."
        return (
            f"no access to model {self.name!r} (status {fault.status}{why}): {self.host}. "
            f"Check the key in the environment, the model's name, the address and the quota.{hint}"
        )

    def _clean(self, text: str) -> str:
        if self.address.has_key:
            text = text.replace(self.address.key, "***")
        return " ".join(text.split())[:300]


class _Tried:
    """What one request has been through."""

    def __init__(self) -> None:
        self.without: frozenset[str] = frozenset()
        self.attempts = 0
        """Those that count against patience."""
        self.repeats_of_refusal = 0
        self._unread = self._silent = 0

    def count(self, fault: Fault, *, is_paid: bool) -> None:
        self.attempts += 1
        self._silent += is_paid and fault.is_silent
        self._unread += is_paid and fault.maybe_paid and not fault.is_silent

    def has_patience(self, max_retries: int) -> bool:
        # What may have been paid for is asked once more. A connection that closes without a byte
        # is mostly one that was idle too long, so there it may be twice.
        return self.attempts <= max_retries and self._unread <= 1 and self._silent <= 2


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


def _beginning(response: Response) -> str:
    """Return how a body begins, for whoever has to find out what answered there."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    text = " ".join(response.data[:120].decode("utf-8", "replace").split())
    return f" [{kind}: {text}]"


def _build_client(address: Address, model: str, *, timeout: float) -> openai.OpenAI:
    """Return the client for files, batches and streams."""
    # The client would read OPENAI_BASE_URL by itself, so the default is spelt out.
    limits = openai.Timeout(timeout, connect=min(_STREAM_CONNECT_SECONDS, timeout))
    if address.azure_endpoint:
        return openai.AzureOpenAI(
            api_key=address.key,
            azure_endpoint=address.azure_endpoint,
            azure_deployment=address.base.rpartition("/")[2] or model,
            api_version=address.query["api-version"],
            timeout=limits,
            max_retries=0,
        )
    return openai.OpenAI(
        api_key=address.key,
        base_url=address.base,
        default_query=address.query,
        default_headers={k: v for k, v in address.headers.items() if k == "api-key"},
        timeout=limits,
        max_retries=0,
    )
