"""The files and batches endpoints on loopback, with failures; see `llm_server` for the rest.

A batch runs when it has been polled `polls` times. `item_faults` maps the last user text of an item
to what goes wrong, once each: `500`, `400`, `expired`, `missing` (not in any output) or `garbled`.
"""

import json
import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llm_server import LoopbackModel, _Handler, completion, last_text


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
        for line in self.files[batch["input_file_id"]].splitlines():
            item = json.loads(line)
            text = last_text(item["body"])
            faults = self.item_faults.get(text)
            fault = faults.pop(0) if faults else None
            answer: dict[str, Any] = {"id": "1", "custom_id": item["custom_id"], "error": None}
            if fault in {"500", "400"}:
                body = {"error": {"message": f"item failed with {fault}"}}
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

    def do_POST(self) -> None:  # noqa: N802 - the base class names it
        path = urlsplit(self.path).path.removeprefix("/v1")
        if path == "/chat/completions":
            super().do_POST()
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refuse(f"POST {path}"):
            return
        with self.model.lock:
            if path == "/files":
                made = self.model.make_file(_uploaded(data, self.headers["Content-Type"]))
            else:
                made = self.model.make_batch(json.loads(data))
        self._give(f"POST {path}", made)

    def do_GET(self) -> None:  # noqa: N802 - the base class names it
        url = urlsplit(self.path)
        parts = url.path.removeprefix("/v1/").split("/")
        call = "GET /" + "/".join(p for i, p in enumerate(parts) if i != 1)
        if self._refuse(call if len(parts) == 1 or parts[0] == "files" else "GET /batches/ID"):
            return
        with self.model.lock:
            if parts[0] == "files":
                self._send(200, self.model.files[parts[1]])
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
            faults = self.model.call_faults.get(call)
            status = faults.pop(0) if faults else None
        if status is not None:
            self._send(status, b'{"error": {"message": "busy"}}')
        return status is not None

    def _give(self, call: str, made: dict[str, Any]) -> None:
        data = json.dumps(made).encode()
        self.model.on_call(call)
        self._send(200, data)


def _uploaded(data: bytes, content_type: str) -> bytes:
    """Return the file part of a multipart body."""
    boundary = re.search(r"boundary=([^;]+)", content_type)[1].strip('"')
    for part in data.split(b"--" + boundary.encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    raise ValueError("no file in the form")
