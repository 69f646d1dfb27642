"""What every server of the tests is made of: a free port of loopback, an end, faults, records.

A server is a `Handler` with the state it answers from; `serving` runs it until a block ends, and
`serve` in a process of its own. It says nothing when clients hang up: they are killed on purpose.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_lock = threading.Lock()


def take_fault(faults: Mapping[Any, list[Any]], key: object) -> Any:
    """Return the next thing that is to go wrong with what is asked for; each happens once."""
    with _lock:
        waiting = faults.get(key)
        return waiting.pop(0) if waiting else None


class Handler(BaseHTTPRequestHandler):
    """Reads bodies and sends answers, whole, cut or not at all."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def get(self) -> None:
        self.send_error(501)

    post = put = head = get

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post()

    def do_PUT(self) -> None:
        self.put()

    def do_HEAD(self) -> None:
        self.head()

    def log_message(self, *_: object) -> None: ...

    def body(self) -> bytes:
        """What was sent with the request."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "application/json",
        cut_at: int | None = None,
    ) -> None:
        """Answer; with `cut_at` the connection ends after so many bytes of the body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut_at is None else body[:cut_at])
        self.wfile.flush()
        if cut_at is not None:
            self.close_connection = True

    def reply_json(self, status: int, value: Any) -> None:
        self.reply(status, json.dumps(value).encode())

    def begin_stream(self) -> None:
        """Open a stream of events; it ends with the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_event(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def serving(handler: type[Handler], **state: Any) -> Iterator[str]:
    """Serve on loopback until the block ends.

    Args:
        handler: what answers.
        state: set on the handler, by name.

    Yields:
        The address, without a slash at its end.
    """
    server = _Server(("127.0.0.1", 0), type("Bound", (handler,), state))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(handler: type[Handler], *, told: Any, seconds: float, **state: Any) -> None:
    """Serve for a while, as a process of its own; `told` is called with the address."""
    with serving(handler, **state) as address:
        told(address)
        time.sleep(seconds)
