"""A chat completions server on loopback, with faults on demand and a count of what it was paid for.

Each request counts as paid when its answer has been made, whether or not the answer arrives. With
`honours_keys` a request that comes again under its `Idempotency-Key` gets the answer made before.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "503", "reset", "hang", "cut", "malformed", "no-choices")
BEFORE_ANSWERING = {"429", "500", "503", "reset"}


class LoopbackModel:
    """Answers with `answer(last user text)`; each text in `faults` goes wrong once per fault."""

    def __init__(self, answer: Callable[[str], str] = lambda text: f"You said: {text}") -> None:
        self.answer = answer
        self.faults: dict[str, list[str]] = {}
        self.rejects: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] = lambda _: None
        """Status and error of a body that is refused, or None."""
        self.honours_keys = True
        self.latency = 0.0
        self.retry_after = "0.05"
        self.hang_seconds = 1.0
        self.paid: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self.url = ""
        self.handler_class: type[BaseHTTPRequestHandler] = _Handler
        self._in_flight = 0
        self._answers: dict[str, bytes] = {}

    @contextmanager
    def running(self) -> Iterator["LoopbackModel"]:
        handler = type("Handler", (self.handler_class,), {"model": self})
        server = _QuietServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @contextmanager
    def counted(self, body: dict[str, Any], headers: dict[str, str]) -> Iterator[None]:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.seen[last_text(body)] += 1
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self.lock:
                self._in_flight -= 1

    def take_fault(self, text: str) -> str | None:
        with self.lock:
            pending = self.faults.get(text)
            return pending.pop(0) if pending else None

    def complete(self, body: dict[str, Any], key: str | None) -> bytes:
        """Make an answer and count it as paid, or give the one made under the same key."""
        with self.lock:
            if self.honours_keys and key in self._answers:
                return self._answers[key]
        text = last_text(body)
        reply = self.answer(text)
        made = json.dumps(completion(reply, body)).encode()
        with self.lock:
            self.paid[text] += 1
            if key:
                self._answers[key] = made
        return made


def completion(reply: str, body: dict[str, Any]) -> dict[str, Any]:
    words = sum(len(text_of(m).split()) for m in body["messages"])
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-2025-01-01",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": reply},
            }
        ],
        "usage": {
            "prompt_tokens": words,
            "completion_tokens": len(reply.split()),
            "total_tokens": words + len(reply.split()),
        },
    }


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def last_text(body: dict[str, Any]) -> str:
    return text_of(body["messages"][-1])


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    model: LoopbackModel
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.model.counted(body, headers):
            self._answer(body, headers.get("idempotency-key"))

    def _answer(self, body: dict[str, Any], key: str | None) -> None:
        model = self.model
        if model.latency:
            time.sleep(model.latency)
        if refusal := model.rejects(body):
            status, error = refusal
            self._send(status, json.dumps({"error": error}).encode())
            return
        fault = model.take_fault(last_text(body))
        if fault in BEFORE_ANSWERING:
            self._fail(fault)
            return
        made = model.complete(body, key)
        if body.get("stream"):
            self._stream(json.loads(made), cut=fault == "cut")
            return
        if fault == "hang":
            time.sleep(model.hang_seconds)
        elif fault == "malformed":
            made = made[: len(made) // 2] + b"]"
        elif fault == "no-choices":
            made = b'{"choices": [], "usage": null}'
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(made)))
            self.end_headers()
            self.wfile.write(made[: len(made) // 2])
            self.close_connection = True
            return
        self._send(200, made)

    def _fail(self, fault: str) -> None:
        if fault == "reset":
            self.close_connection = True
            return
        extra = {"Retry-After": self.model.retry_after} if fault == "429" else {}
        self._send(int(fault), b'{"error": {"message": "busy", "code": null}}', extra)

    def _stream(self, made: dict[str, Any], *, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces = made["choices"][0]["message"]["content"].split(" ")
        for number, piece in enumerate([*pieces, None]):
            if cut and number == 1:
                return
            text = piece if number == 0 or piece is None else f" {piece}"
            delta, reason = {"content": text}, "stop" if piece is None else None
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, status: int, data: bytes, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
