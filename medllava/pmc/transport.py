"""HTTP that keeps its connections, repeats what may be repeated, and believes no body unchecked.

One `Transport` serves one host. Each thread keeps a connection of its own, so that thousands of
small objects cost one handshake per worker. The standard library's client is used because nothing
else needs as little time per request.
"""

import http.client
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from medllava import __version__
from medllava.errors import DataError, RemoteError
from medllava.pmc.archive import ObjectError

_LOGGER = logging.getLogger(__name__)
_REPEATABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = frozenset({403, 404, 410})
"""The bucket answers 403 where a key does not exist."""
_MAX_BODY_BYTES = 512 * 1024 * 1024
_BLOCK = 256 * 1024
_MAX_DELAY_SECONDS = 60.0

Check = Callable[[bytes], str | None]
"""Looks at a body and says what is wrong with it, None if nothing is."""


class BudgetSpentError(Exception):
    """The run fetched as much as it may; what is left waits for the next one."""


class ByteBudget:
    """Counts fetched bytes of all threads against a limit."""

    def __init__(self, limit: int | None) -> None:
        """Start at zero; None is no limit."""
        self._limit = limit
        self._lock = threading.Lock()
        self.spent = 0

    def check(self) -> None:
        """Refuse to go on once the limit is reached.

        Raises:
            BudgetSpentError: it is.
        """
        if self._limit is not None and self.spent >= self._limit:
            raise BudgetSpentError

    def add(self, count: int) -> None:
        """Count fetched bytes."""
        with self._lock:
            self.spent += count


class Pacer:
    """Keeps the requests of all threads a minimum time apart."""

    def __init__(self, per_second: float) -> None:
        """Allow so many requests per second, evenly."""
        self._gap_seconds = 1 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until it is this request's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self._gap_seconds
        time.sleep(max(0.0, turn - now))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to insist."""

    attempts: int = 6
    base_seconds: float = 0.5
    """First pause; doubles each time, with jitter, up to a minute."""
    timeout_seconds: float = 30.0
    """Without a byte."""
    total_seconds: float = 300.0
    """For a whole body, however slowly it drips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why an answer cannot be used although asking again may help."""

    problem: str
    wait_seconds: float = 0.0
    is_body: bool = False


def _find_fault(answer: _Answer, path: str, check: Check | None) -> _Fault | None:
    """Return what is wrong with an answer, None if it can be used.

    Raises:
        ObjectError: asking again will not help.
    """
    if answer.status in _GONE:
        raise ObjectError("object-missing", f"{path}: HTTP {answer.status}")
    if answer.status in _REPEATABLE:
        asked = answer.headers.get("retry-after", "")
        return _Fault(
            f"HTTP {answer.status}", wait_seconds=float(asked) if asked.isdigit() else 0.0
        )
    if answer.status != http.client.OK:
        raise ObjectError("http-error", f"{path}: HTTP {answer.status}")
    problem = check(answer.body) if check is not None else None
    return None if problem is None else _Fault(problem, is_body=True)


class Transport:
    """Requests to one host."""

    def __init__(
        self,
        base_url: str,
        *,
        email: str = "",
        retry: RetryPolicy | None = None,
        pacer: Pacer | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            base_url: http or https, with a path if the objects have one.
            email: contact, sent in the User-Agent.
            retry: how long to insist.
            pacer: shared limit of requests per second.
            budget: shared limit of bytes.

        Raises:
            DataError: not an http(s) address.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise DataError(f"not an http or https address: {base_url!r}. Check --base-url.")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
        contact = f"; {email}" if email else ""
        self._headers = {"User-Agent": f"medllava/{__version__} (fetch-pmc{contact})"}
        self._retry = retry or RetryPolicy()
        self._pacer = pacer
        self._budget = budget or ByteBudget(None)
        self._local = threading.local()
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    def get(
        self, path: str, *, params: Mapping[str, str] | None = None, check: Check | None = None
    ) -> bytes:
        """Return a whole body that passed its check.

        Raises:
            ObjectError: it is not there (`object-missing`), the server refuses it, or its check
                fails again and again (`checksum`).
            RemoteError: no answer after all attempts.
            BudgetSpentError: the byte limit is reached.
        """
        return self._insist("GET", path, params, check).body

    def size(self, path: str) -> int:
        """Return the size of an object in bytes, from its headers.

        Raises:
            ObjectError: it is not there.
            RemoteError: no answer after all attempts.
        """
        return int(self._insist("HEAD", path, None, None).headers.get("content-length", "0"))

    def _insist(
        self, method: str, path: str, params: Mapping[str, str] | None, check: Check | None
    ) -> _Answer:
        """Send a request until it gives an answer that can be used, or one that is final."""
        target = f"{self._path}/{quote(path.lstrip('/'))}"
        if params:
            target += f"?{urlencode(params)}"
        fault = _Fault("")
        for attempt in range(self._retry.attempts):
            if attempt:
                _LOGGER.debug("%s: %s, attempt %d", target, fault.problem, attempt + 1)
                time.sleep(self._delay(attempt, fault.wait_seconds))
            self._budget.check()
            if self._pacer is not None:
                self._pacer.wait()
            try:
                answer = self._request(method, target)
            except (OSError, http.client.HTTPException) as error:
                self._drop_connection()
                fault = _Fault(f"{type(error).__name__}: {error}")
                continue
            self._budget.add(len(answer.body))
            found = _find_fault(answer, path, check)
            if found is None:
                return answer
            fault = found
        if fault.is_body:
            raise ObjectError("checksum", f"{path}: {fault.problem}")
        raise RemoteError(
            f"no answer from {self._host} after {self._retry.attempts} attempts"
            f" ({fault.problem}): {path}. Run the same command again later; it goes on."
        )

    def _request(self, method: str, target: str) -> _Answer:
        """Send one request on this thread's connection and read the whole answer."""
        connection = self._connect()
        connection.request(method, target, headers=self._headers)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        body = self._read_body(response) if method == "GET" else response.read()
        expected = headers.get("content-length")
        if method == "GET" and expected is not None and len(body) != int(expected):
            raise http.client.IncompleteRead(body, int(expected) - len(body))
        return _Answer(status=response.status, headers=headers, body=body)

    def _read_body(self, response: http.client.HTTPResponse) -> bytes:
        deadline = time.monotonic() + self._retry.total_seconds
        blocks: list[bytes] = []
        total = 0
        while block := response.read1(_BLOCK):
            blocks.append(block)
            total += len(block)
            if total > _MAX_BODY_BYTES:
                self._drop_connection()
                raise ObjectError(
                    "object-too-large", f"body of more than {_MAX_BODY_BYTES:,} bytes"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"body not complete after {self._retry.total_seconds:.0f} s")
        response.close()  # read1 does not notice the end, and the connection would stay taken
        return b"".join(blocks)

    def _connect(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
        return connection

    def _open(self) -> http.client.HTTPConnection:
        proxy = urlsplit(self._proxy) if self._proxy else None
        host = proxy.hostname if proxy and proxy.hostname else self._host
        port = proxy.port if proxy else self._port
        timeout = self._retry.timeout_seconds
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        if proxy:
            connection.set_tunnel(self._host, self._port)
        return connection

    def _drop_connection(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def _delay(self, attempt: int, asked_seconds: float) -> float:
        backoff: float = self._retry.base_seconds * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(max(backoff, asked_seconds), _MAX_DELAY_SECONDS)

    def __enter__(self) -> Self:
        """Return the transport."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close this thread's connection; those of finished threads went with them."""
        self._drop_connection()
