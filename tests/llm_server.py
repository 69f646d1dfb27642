"""A chat completions server on loopback, with faults on demand and a count of what it was paid for.

Each request counts as paid when its answer has been made, whether or not the answer arrives. With
`honours_keys` a request that comes again under its `Idempotency-Key` gets the answer made before.

`LoopbackBatches` has files and batches endpoints too. A batch runs when it has been polled `polls`
times. `item_faults` maps the last user text of an item to what goes wrong, once each: `500`, `400`,
`expired`, `missing` (not in any output) or `garbled`.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import Handler, serving, take_fault

from medllava.llm.protocol import ChatRequest, Message

FAULTS = ("429", "500", "503", "reset", "hang", "cut", "malformed", "no-choices")
BEFORE_ANSWERING = {"429", "500", "503", "reset"}


def ask(text: str, **more: object) -> ChatRequest:
    message = Message(role="user", content=text)
    return ChatRequest(request_id=text, messages=(message,), **more)  # type: ignore[arg-type]


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
        self.handler_class: type[Handler] = _Handler
        self._in_flight = 0
        self._answers: dict[str, bytes] = {}

    @contextmanager
    def running(self) -> Iterator["LoopbackModel"]:
        with serving(self.handler_class, model=self) as address:
            self.url = f"{address}/v1"
            yield self

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


class _Handler(Handler):
    model: LoopbackModel

    def post(self) -> None:
        body = json.loads(self.body())
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.model.counted(body, headers):
            self._answer(body, headers.get("idempotency-key"))

    def _answer(self, body: dict[str, Any], key: str | None) -> None:
        model = self.model
        if model.latency:
            time.sleep(model.latency)
        if refusal := model.rejects(body):
            status, error = refusal
            self.reply_json(status, {"error": error})
            return
        fault = take_fault(model.faults, last_text(body))
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
        self.reply(200, made, cut_at=len(made) // 2 if fault == "cut" else None)

    def _fail(self, fault: str) -> None:
        if fault == "reset":
            self.close_connection = True
            return
        extra = {"Retry-After": self.model.retry_after} if fault == "429" else {}
        self.reply(int(fault), b'{"error": {"message": "busy", "code": null}}', extra)

    def _stream(self, made: dict[str, Any], *, cut: bool) -> None:
        self.begin_stream()
        pieces = made["choices"][0]["message"]["content"].split(" ")
        for number, piece in enumerate([*pieces, None]):
            if cut and number == 1:
                return
            text = piece if number == 0 or piece is None else f" {piece}"
            delta, reason = {"content": text}, "stop" if piece is None else None
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
            self.send_event(chunk)
        self.send_event("[DONE]")


class LoopbackBatches(LoopbackModel):
    """A `LoopbackModel` that also takes batches."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 2
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.item_faults: dict[str, list[str]] = {}
        self.call_faults: dict[str, list[int]] = {}
        """By `METHOD /path` without ids: statuses to answer with, once each."""
        self.calls: Counter[str] = Counter()
        self.most_items: int | None = None
        """A batch of more fails as a whole, as where a token limit is passed."""
        self.on_call: Any = lambda _: None
        """Called with `METHOD /path` after the call took effect and before it is answered."""
        self.handler_class = _BatchHandler

    def make_file(self, data: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return {
            "id": name,
            "object": "file",
            "bytes": len(data),
            "created_at": 0,
            "filename": name,
            "purpose": "batch",
            "status": "processed",
        }

    def make_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "completion_window": "24h",
            "created_at": 0,
            "input_file_id": asked["input_file_id"],
            "metadata": asked["metadata"],
            "status": "in_progress",
            "polled": 0,
        }
        return self.batches[name]

    def poll(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["polled"] += 1
        if batch["polled"] >= self.polls and batch["status"] == "in_progress":
            self._run(batch)
        return batch

    def _run(self, batch: dict[str, Any]) -> None:
        done, failed = [], []
        expired = False
        lines = self.files[batch["input_file_id"]].splitlines()
        if self.most_items is not None and len(lines) > self.most_items:
            told = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [told]}}
            return
        for line in lines:
            item = json.loads(line)
            text = last_text(item["body"])
            fault = take_fault(self.item_faults, text)
            answer: dict[str, Any] = {"id": "1", "custom_id": item["custom_id"], "error": None}
            if fault in {"500", "400"}:
                code = "content_filter" if fault == "400" else None
                body = {"error": {"message": f"item failed with {fault}", "code": code}}
                failed.append(answer | {"response": {"status_code": int(fault), "body": body}})
            elif fault == "expired":
                expired = True
                error = {"code": "batch_expired", "message": "not run in time"}
                failed.append(answer | {"response": None, "error": error})
            elif fault == "missing":
                continue
            else:
                self.paid[text] += 1
                body = completion(self.answer(text), item["body"])
                done.append(answer | {"response": {"status_code": 200, "body": body}})
            if fault == "garbled":
                done[-1] = None
        batch["status"] = "expired" if expired else "completed"
        for key, lines in (("output_file_id", done), ("error_file_id", failed)):
            if lines:
                text = "\n".join('{"custom' if x is None else json.dumps(x) for x in lines[::-1])
                batch[key] = self.make_file(text.encode())["id"]


class _BatchHandler(_Handler):
    model: LoopbackBatches

    def post(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/v1")
        if path == "/chat/completions":
            super().post()
            return
        data = self.body()
        if self._refuse(f"POST {path}"):
            return
        with self.model.lock:
            if path == "/files":
                made = self.model.make_file(_uploaded(data, self.headers["Content-Type"]))
            else:
                made = self.model.make_batch(json.loads(data))
        self._give(f"POST {path}", made)

    def get(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.removeprefix("/v1/").split("/")
        call = "GET /" + "/".join(p for i, p in enumerate(parts) if i != 1)
        if self._refuse(call if len(parts) == 1 or parts[0] == "files" else "GET /batches/ID"):
            return
        with self.model.lock:
            if parts[0] == "files":
                self.reply(200, self.model.files[parts[1]])
                return
            single = len(parts) == 2
            made = self.model.poll(parts[1]) if single else self._page(parse_qs(url.query))
        self._give("GET /batches" if len(parts) == 1 else "GET /batches/ID", made)

    def _page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Newest first, two to a page whatever was asked, so that paging is needed."""
        names = list(self.model.batches)[::-1]
        start = names.index(query["after"][0]) + 1 if "after" in query else 0
        page = [self.model.batches[name] for name in names[start : start + 2]]
        last = page[-1]["id"] if page else None
        more = start + 2 < len(names)
        return {"object": "list", "data": page, "has_more": more, "last_id": last}

    def _refuse(self, call: str) -> bool:
        with self.model.lock:
            self.model.calls[call] += 1
        status = take_fault(self.model.call_faults, call)
        if status is not None:
            self.reply(status, b'{"error": {"message": "busy"}}')
        return status is not None

    def _give(self, call: str, made: dict[str, Any]) -> None:
        data = json.dumps(made).encode()
        self.model.on_call(call)
        self.reply(200, data)


def _uploaded(data: bytes, content_type: str) -> bytes:
    """Return the file part of a multipart body."""
    boundary = re.search(r"boundary=([^;]+)", content_type)[1].strip('"')
    for part in data.split(b"--" + boundary.encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    raise ValueError("no file in the form")
