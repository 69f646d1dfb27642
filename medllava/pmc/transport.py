"""HTTP that keeps its connections, repeats what may be repeated, and believes no body unchecked.

One `Transport` serves one host through `httpx`, which also knows proxies and passwords in
addresses. Each thread keeps a client of its own, so that thousands of small objects cost one
handshake per worker and nobody waits for a shared pool.

An answer about the connection is no answer about the object: only 404 and 410 say that it is not
there (`ObjectError`). Whatever else goes wrong, a proxy's 403, a portal's page with status 200,
bytes with another md5, is a `RemoteError`, after which a later run asks again.
"""

import hashlib
import logging
import random
import shutil
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import httpx

from medllava import __version__
from medllava.errors import DataError
from medllava.pmc.archive import Check, ObjectError, UnansweredError
from medllava.pmc.images import write_image

_LOGGER = logging.getLogger(__name__)
_REPEATABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Worth all attempts; any other refusal gets `_REFUSED_ATTEMPTS`, because waiting seldom helps."""
_GONE = frozenset({404, 410})
_OK = 200
_REFUSED_ATTEMPTS = 2
_MAX_BODY_BYTES = 512 * 1024 * 1024
_MAX_DELAY_SECONDS = 60.0


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
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why an answer cannot be used, and how often to ask again."""

    problem: str
    reason: str = "no-answer"
    wait_seconds: float = 0.0
    attempts: int | None = None


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
            base_url: http or https, with a path if the objects have one, and `user:password@` if
                the server asks for them.
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
        self._base_url = base_url.rstrip("/")
        self._host = parts.hostname
        contact = f"; {email}" if email else ""
        self._headers = {
            "User-Agent": f"medllava/{__version__} (fetch-pmc{contact})",
            "Accept-Encoding": "identity",  # the md5 is of the object as it is stored
        }
        self._retry = retry or RetryPolicy()
        self._pacer = pacer
        self._budget = budget or ByteBudget(None)
        self._local = threading.local()
        self._tls = ssl.create_default_context()

    def get(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        check: Check | None = None,
        is_object: bool = True,
    ) -> bytes:
        """Return a whole body that passed its check.

        Args:
            path: below the base address.
            params: the query.
            check: looks at the body.
            is_object: something that the archive lists, so that 404 means that it is not there;
                False for services and listings, which are always there.

        Raises:
            ObjectError: it is not there (`object-missing`).
            UnansweredError: no answer that can be used after all attempts, or one without an end.
            BudgetSpentError: the byte limit is reached.
        """
        return self._insist("GET", path, params, check, is_object=is_object).body

    def size(self, path: str) -> int:
        """Return the size of an object in bytes, from its headers.

        Raises:
            ObjectError: it is not there.
            UnansweredError: no answer after all attempts, or one that names no size.
        """
        length = self._insist("HEAD", path, None, None, is_object=True).headers.get(
            "content-length", ""
        )
        if not length.isdecimal():
            raise UnansweredError(f"{self._host} names no size: {path}.", reason="no-answer")
        return int(length)

    def _insist(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        check: Check | None,
        *,
        is_object: bool,
    ) -> _Answer:
        """Send a request until it gives an answer that can be used, or one that is final."""
        url = httpx.URL(f"{self._base_url}/{quote(path.lstrip('/'))}", params=params)
        fault = _Fault("")
        attempts = self._retry.attempts
        attempt = 0
        while attempt < attempts:
            if attempt:
                _LOGGER.debug("%s: %s, attempt %d", path, fault.problem, attempt + 1)
                time.sleep(self._delay(attempt, fault.wait_seconds))
            attempt += 1
            self._budget.check()
            if self._pacer is not None:
                self._pacer.wait()
            try:
                answer = self._request(method, url)
            except httpx.HTTPError as error:
                fault = _Fault(f"{type(error).__name__}: {error}")
                continue
            self._budget.add(len(answer.body))
            found = _find_fault(answer, path, check, is_object=is_object)
            if found is None:
                return answer
            fault = found
            attempts = min(attempts, fault.attempts or attempts)
        raise UnansweredError(
            f"no usable answer from {self._host} after {attempt} attempts"
            f" ({fault.problem}): {path}. Run the same command again later; it goes on.",
            reason=fault.reason,
        )

    def _request(self, method: str, url: httpx.URL) -> _Answer:
        """Send one request on this thread's connection and read the whole answer."""
        deadline = time.monotonic() + self._retry.total_seconds
        # Not `client.stream`, which merges addresses and headers anew for each of the objects.
        request = httpx.Request(method, url, headers=self._headers)
        with closing(self._client().send(request, stream=True)) as response:
            body = bytearray()
            for block in response.iter_raw():
                body += block
                if len(body) > _MAX_BODY_BYTES:
                    raise UnansweredError(
                        f"{self._host} sends more than {_MAX_BODY_BYTES:,} bytes: {url.path}."
                        " Run the same command again later; it goes on.",
                        reason="object-too-large",
                    )
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(
                        f"body not complete after {self._retry.total_seconds:.0f} s"
                    )
            return _Answer(status=response.status_code, headers=response.headers, body=bytes(body))

    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._local, "client", None)
        if client is None:
            client = httpx.Client(timeout=self._retry.timeout_seconds, verify=self._tls)
            self._local.client = client
        return client

    def _delay(self, attempt: int, asked_seconds: float) -> float:
        backoff: float = self._retry.base_seconds * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(max(backoff, asked_seconds), _MAX_DELAY_SECONDS)

    def __enter__(self) -> Self:
        """Return the transport."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close this thread's connection; those of finished threads went with them."""
        client: httpx.Client | None = getattr(self._local, "client", None)
        if client is not None:
            client.close()


def _find_fault(
    answer: _Answer, path: str, check: Check | None, *, is_object: bool
) -> _Fault | None:
    """Return what is wrong with an answer, None if it can be used.

    Raises:
        ObjectError: the server says that there is no such object.
    """
    if answer.status in _GONE and is_object:
        raise ObjectError("object-missing", f"{path}: HTTP {answer.status}")
    if answer.status in _REPEATABLE:
        asked = answer.headers.get("retry-after", "")
        wait = float(asked) if asked.isdecimal() else 0.0
        return _Fault(f"HTTP {answer.status}", wait_seconds=wait)
    if answer.status != _OK:
        return _Fault(f"HTTP {answer.status}", reason="refused", attempts=_REFUSED_ATTEMPTS)
    problem = check(answer.body) if check is not None else None
    return None if problem is None else _Fault(problem, reason="checksum")


class HttpStore:
    """Objects of the bucket, each fetched once.

    Objects of an article that is being worked on are kept on disk until its outcome is committed,
    so that a run which is killed fetches none of them again.
    """

    is_remote = True

    def __init__(self, transport: Transport, *, keep_dir: Path) -> None:
        """Fetch through `transport`, keep what belongs to unfinished articles in `keep_dir`."""
        self._transport = transport
        self._keep_dir = keep_dir

    def read(self, key: str, *, check: Check) -> bytes:
        """Return an object that passes its check, from disk if an earlier run had it already."""
        kept = self._kept_path(key)
        try:
            data = kept.read_bytes()
        except FileNotFoundError:
            pass
        else:
            if check(data) is None:
                return data
        data = self._transport.get(key, check=check)
        write_image(kept, data)
        return data

    def size(self, key: str) -> int:
        """Return an object's size in bytes without fetching it."""
        return self._transport.size(key)

    def release(self, prefix: str) -> None:
        """Delete what is kept of an article."""
        shutil.rmtree(self._keep_dir / prefix, ignore_errors=True)

    def _kept_path(self, key: str) -> Path:
        """Return a path in the article's folder; the object's own name is not used on disk."""
        folder = key.removeprefix("metadata/").removesuffix(".json").partition("/")[0]
        return self._keep_dir / folder / hashlib.sha256(key.encode()).hexdigest()[:32]
