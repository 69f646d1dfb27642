"""A teacher's server with bad manners, in a process of its own; see `MANNERS`.

    python tests/llm_manners.py MANNER FOLDER SECONDS

It listens on loopback, writes its address to FOLDER/url, keeps FOLDER/state.json up to date, and
ends by itself. `paid` counts answers that a provider would charge for, whether they arrive or not.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback import Handler as LoopbackHandler
from loopback import serve

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
USAGE = {"prompt_tokens": 1700, "completion_tokens": 300, "total_tokens": 2000}
JSON = "application/json"


def spell(number: int) -> str:
    return " ".join(DIGITS[int(digit)] for digit in f"{number:04d}")


def conversation(number: int) -> str:
    """A good reply that nobody else gets."""
    words = spell(number)
    turns = [
        {"question": f"What is seen in {words}?", "answer": f"A shape like {words} is in it."},
        {"question": "Is it round?", "answer": f"Yes, as round as {words} and {words} can be."},
    ]
    return json.dumps({"turns": turns})


def completion(
    content: Any, *, usage: Any = USAGE, reason: str = "stop", **message: Any
) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": reason, "message": said}],
    }
    return body | ({} if usage is None else {"usage": usage})


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


@dataclass
class Call:
    """One request, as a manner sees it."""

    number: int
    """Of the figure."""
    nth: int
    """How often that figure was asked about before."""
    body: dict[str, Any]
    key: str
    keys: dict[str, str] = field(default_factory=dict)
    """Idempotency keys and the bodies they came with, of all calls."""


@dataclass
class Answer:
    """What goes back."""

    payload: Any
    status: int = 200
    paid: bool = True
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    """Seconds between two bytes of the body."""
    drip_head: bool = False
    """Drip the head too."""
    cut: bool = False
    """Close the connection half way."""


def free(status: int, payload: Any, **more: Any) -> Answer:
    return Answer(payload, status=status, paid=False, **more)


def stream(call: Call) -> Answer:
    chunks = [
        {"id": "1", "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in conversation(call.number).split(" ")
    ]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return Answer(text.encode(), kind="text/event-stream")


def old_parameters(call: Call) -> Answer:
    if "max_tokens" in call.body:
        told = "Unsupported parameter: 'max_tokens' is not supported with this model."
        return free(400, error(told, param="max_tokens", code="unsupported_parameter"))
    return warm_refused(call)


def warm_refused(call: Call) -> Answer:
    if call.body.get("temperature", 1) != 1:
        told = "Unsupported value: 'temperature' does not support 0.7 with this model."
        return free(400, error(told, param="temperature", code="unsupported_value"))
    return good(call)


def keyed(call: Call) -> Answer:
    body = json.dumps(call.body, sort_keys=True)
    if call.keys.setdefault(call.key, body) != body:
        return free(400, error("Keys can only be used with the same parameters.", code="idem"))
    return warm_refused(call)


def plain_only(call: Call) -> Answer:
    if call.body.get("response_format", {}).get("type") == "json_schema":
        told = "'response_format' of type 'json_schema' is not supported with this model."
        return free(400, error(told, param="response_format"))
    return good(call)


def good(call: Call) -> Answer:
    return Answer(completion(conversation(call.number)))


def good_from(manner: "Manner", times: int) -> "Manner":
    return lambda call: manner(call) if call.nth < times else good(call)


def said(**more: Any) -> "Manner":
    return lambda call: Answer(completion(conversation(call.number), **more))


Manner = Callable[[Call], Answer]
FILTERED = error("The prompt triggered the content management policy.", code="content_filter")
TOO_LONG = error("This model's maximum context length is 1024 tokens.", code="context_length")
NOT_LOADED = error("No models loaded. Please load a model.", code="model_not_found")
THOUGHT = {"prompt_tokens": 1700, "completion_tokens": 1024}
MANNERS: dict[str, Manner] = {
    "good": good,
    "slow": lambda call: Answer(completion(conversation(call.number)), delay=0.05),
    "no_usage": said(usage=None),
    "usage_empty": said(usage={}),
    "usage_null": said(usage={"prompt_tokens": None, "completion_tokens": None}),
    "usage_text": said(usage={"prompt_tokens": "1700", "completion_tokens": 300.0}),
    "usage_names": said(usage={"input_tokens": 1700, "output_tokens": 300}),
    "usage_large": said(usage={"prompt_tokens": 8000, "completion_tokens": 1000}),
    "parts": lambda call: Answer(completion([{"type": "text", "text": conversation(call.number)}])),
    "thought_parts": lambda call: Answer(
        completion(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": conversation(call.number)},
            ]
        )
    ),
    "reasoning": lambda call: Answer(
        completion(None, reasoning_content=f"Let me think. {conversation(call.number)}")
    ),
    "reasoning_only": lambda _: Answer(completion(None, reasoning_content="Let me think.")),
    "empty": lambda _: Answer(completion("")),
    "empty_length": lambda _: Answer(completion("", reason="length", usage=THOUGHT)),
    "cut_length": lambda _: Answer(completion('{"turns": [{"question": "Wh', reason="length")),
    "filter": lambda _: Answer(completion('{"turns": [', reason="content_filter")),
    "refusal": lambda _: Answer(completion(None, refusal="I cannot help with that.")),
    "tools": lambda call: Answer(
        completion(
            None,
            reason="tool_calls",
            tool_calls=[{"id": "1", "function": {"arguments": conversation(call.number)}}],
        )
    ),
    "empty_once": good_from(lambda _: Answer(completion("")), 1),
    "error_200": lambda _: Answer(error("upstream overloaded", code=502), paid=False),
    "null_choices": lambda _: Answer({"choices": None, "usage": USAGE}),
    "stream": stream,
    "html": lambda _: free(200, b"<html>Please log in</html>", kind="text/html"),
    "huge": lambda _: Answer(completion("A" * 20_000_000)),
    "drip": lambda call: Answer(completion(conversation(call.number)), drip=0.2),
    "drip_head": lambda call: Answer(
        completion(conversation(call.number)), drip=0.2, drip_head=True
    ),
    "hang": lambda call: Answer(completion(conversation(call.number)), delay=30.0),
    "cut": lambda call: Answer(completion(conversation(call.number)), cut=True),
    "cut_once": good_from(lambda call: Answer(completion("x" * 99), cut=True), 1),
    "too_long": lambda _: free(400, TOO_LONG),
    "not_loaded": lambda _: free(400, NOT_LOADED),
    "old_parameters": old_parameters,
    "plain_only": plain_only,
    "keyed": keyed,
    "busy": good_from(lambda _: free(429, error("Rate limit")), 2),
    "once_422": lambda call: (
        free(422, error("grammar compile failed"))
        if call.number == 3 and call.nth == 0
        else good(call)
    ),
    "filter_400": lambda call: free(400, FILTERED) if call.number % 2 else good(call),
    "broken": lambda _: free(500, error("CUDA out of memory")),
    "gateway": lambda _: Answer(error("upstream timed out"), status=504),
    "odd": lambda call: (
        Answer(completion("") if call.number % 3 == 0 else None)
        if call.number % 3 < 2 and call.number > 2
        else good(call)
    ),
}


class State:
    """Counts of one server."""

    def __init__(self, manner: str, folder: Path) -> None:
        self.answer = MANNERS[manner]
        self.folder = folder
        self.lock = threading.Lock()
        self.requests = self.paid = 0
        self.seen: Counter[str] = Counter()
        self.keys: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []

    def take(self, body: dict[str, Any], key: str, path: str) -> Answer:
        number = _number(body)
        with self.lock:
            self.requests += 1
            nth = self.seen[str(number)]
            self.seen[str(number)] += 1
            self.bodies.append({k: v for k, v in body.items() if k != "messages"})
            self.paths.append(path)
            call = Call(number=number, nth=nth, body=body, key=key, keys=self.keys)
            answer = self.answer(call)
            self.paid += answer.paid
            self.write()
        return answer

    def write(self) -> None:
        facts = {
            "requests": self.requests,
            "paid": self.paid,
            "seen": self.seen,
            "bodies": self.bodies[:40],
            "paths": self.paths[:3],
        }
        path = self.folder / "state.json"
        path.with_suffix(".new").write_text(json.dumps(facts))
        path.with_suffix(".new").replace(path)


class Handler(LoopbackHandler):
    state: State
    wbufsize = 0

    def post(self) -> None:
        body = json.loads(self.body())
        answer = self.state.take(body, self.headers.get("Idempotency-Key", ""), self.path)
        with suppress(OSError):
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        payload = answer.payload
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        time.sleep(answer.delay)
        head = f"HTTP/1.1 {answer.status} X\r\nContent-Type: {answer.kind}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        lead = f"{head}Content-Length: {len(data)}\r\n\r\n".encode()
        if answer.cut:
            data, self.close_connection = data[: len(data) // 2], True
        if not answer.drip_head:
            self.wfile.write(lead)
        elif answer.drip_head:
            data = lead + data
        if not answer.drip:
            self.wfile.write(data)
            return
        for i in range(len(data)):
            self.wfile.write(data[i : i + 1])
            self.wfile.flush()
            time.sleep(answer.drip)


class Manners:
    """A server process, from a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = (folder / "url").read_text()

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())


@contextmanager
def served(manner: str, folder: Path, *, seconds: float = 60.0) -> Iterator[Manners]:
    """Run a server process; `folder` is its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, manner, str(folder), str(seconds)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "url").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield Manners(folder)
    finally:
        process.kill()
        process.wait()


def _number(body: dict[str, Any]) -> int:
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(p.get("text", "") for p in content)
    return int(text.split("Number ")[1].split()[0]) if "Number " in text else 0


def main() -> None:
    manner, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    state = State(manner, folder)
    state.write()

    def told(address: str) -> None:
        new = folder / "url.new"
        new.write_text(f"{address}/v1")
        new.replace(folder / "url")

    serve(Handler, told=told, seconds=seconds, state=state)


if __name__ == "__main__":
    main()
