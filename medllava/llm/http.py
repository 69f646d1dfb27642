"""One POST with a deadline that holds, a reply that cannot grow without end, and a way to stop it.

A read time-out begins anew with every byte, so a server that drips never reaches it. Here the
deadline is one moment for the whole attempt, kept by the socket itself, whatever the server sends.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

CONNECT_SECONDS = 5.0
MOST_REPLY_BYTES = 4_000_000
"""Of one reply; the longest that models write, with their reasoning, has a tenth of it."""
_SLICE_SECONDS = 0.5
"""How long a read waits before it looks whether it was stopped."""
_MOST_CONNECTIONS = 1024


class NotSentError(Exception):
    """The server was not reached, so nothing was asked and nothing is paid."""


class MaybePaidError(Exception):
    """The request was sent and no readable reply came: the server may charge for it."""


class TimedOutError(MaybePaidError):
    """The deadline of the attempt passed."""


class DisconnectedError(MaybePaidError):
    """The server closed the connection without a byte of reply."""


class TooLargeError(MaybePaidError):
    """The reply is larger than any that makes sense."""


class StoppedError(MaybePaidError):
    """The run was interrupted."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    data: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON is any
        """Return the parsed body; None if it is not JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            return None


class Sender:
    """Sends bodies from many threads over connections that are kept."""

    def __init__(self, base: str, *, timeout_seconds: float, most_bytes: int) -> None:
        """Prepare to send to addresses under `base`; nothing is sent yet."""
        self._timeout = timeout_seconds
        self._most_bytes = most_bytes
        self.stopped = threading.Event()
        self._local = threading.local()
        transport = httpx.HTTPTransport(
            limits=httpx.Limits(
                max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS
            ),
            proxy=_proxy_of(base),
        )
        # httpx has no public way to say which sockets its pool opens; httpcore below it has.
        transport._pool._network_backend = _DeadlineBackend(self)  # noqa: SLF001
        self._client = httpx.Client(
            transport=transport,
            timeout=httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
            trust_env=False,
        )

    def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], params: Mapping[str, str]
    ) -> Response:
        """Send a body and read the reply.

        Raises:
            NotSentError: the server was not reached.
            MaybePaidError: sent, and no reply that could be read whole.
        """
        self._local.deadline = time.monotonic() + self._timeout
        head = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        request = self._client.build_request(
            "POST", url, content=body, headers=head, params=params or None
        )
        response: httpx.Response | None = None
        try:
            response = self._client.send(request, stream=True)
            try:
                data = self._read(response)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSentError(_told(error)) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.ProxyError) as error:
            raise NotSentError(_told(error)) from None
        except httpx.TimeoutException:
            if self.stopped.is_set():
                raise StoppedError("interrupted") from None
            raise TimedOutError(f"no whole reply within {self._timeout:g} seconds") from None
        except httpx.HTTPError as error:
            kind = DisconnectedError if response is None else MaybePaidError
            raise kind(_told(error)) from None
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, lowered, data)

    def remaining(self) -> float:
        """Return the seconds that this thread's attempt has left."""
        deadline: float = getattr(self._local, "deadline", float("inf"))
        return deadline - time.monotonic()

    def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        chunks: Iterable[bytes] = response.iter_raw()
        for chunk in chunks:
            size += len(chunk)
            if size > self._most_bytes:
                raise TooLargeError(f"the reply is larger than {self._most_bytes:,} bytes")
            parts.append(chunk)
        return b"".join(parts)


class _DeadlineBackend(httpcore.NetworkBackend):
    """Opens sockets that keep their thread's deadline."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._inner = httpcore.SyncBackend()

    def connect_tcp(self, *args: Any, **more: Any) -> httpcore.NetworkStream:  # noqa: ANN401 - as given
        return _DeadlineStream(self._inner.connect_tcp(*args, **more), self._sender)

    def connect_unix_socket(self, *args: Any, **more: Any) -> httpcore.NetworkStream:  # noqa: ANN401 - as given
        return _DeadlineStream(self._inner.connect_unix_socket(*args, **more), self._sender)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _DeadlineStream(httpcore.NetworkStream):
    """A socket whose reads end at the deadline, or soon after the run is stopped."""

    def __init__(self, inner: httpcore.NetworkStream, sender: Sender) -> None:
        self._inner, self._sender = inner, sender

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline holds
        while True:
            left = self._sender.remaining()
            if left <= 0 or self._sender.stopped.is_set():
                raise httpcore.ReadTimeout
            wait = min(left, _SLICE_SECONDS)
            try:
                return self._inner.read(max_bytes, timeout=wait)
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout=max(0.001, min(timeout or 1e9, self._sender.remaining())))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **more: Any) -> httpcore.NetworkStream:  # noqa: ANN401 - as given
        return _DeadlineStream(self._inner.start_tls(*args, **more), self._sender)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - sockets, booleans
        return self._inner.get_extra_info(info)


def _proxy_of(base: str) -> str | None:
    """Return the proxy that the environment names for a server; none for this machine."""
    url = httpx.URL(base)
    if url.host in {"localhost", "127.0.0.1", "::1"} or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
