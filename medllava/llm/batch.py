"""The Batch API: half the price, an answer within a day, and no run to keep alive meanwhile.

Requests go up as files, batches are polled, replies are collected by id into the same ledger that
single requests use. What happens to each batch is written down before and after it is made; a run
that was killed at any point finds its batches again by the name they carry on the server.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medllava.llm.client import OpenAIModel
from medllava.llm.ledger import Ledger
from medllava.llm.payload import MalformedReplyError, parse_reply, request_key
from medllava.llm.prices import FREE, Price
from medllava.llm.protocol import ChatRequest
from medllava.llm.runner import NO_ANSWER, OVER_BUDGET, Outcome, to_outcome
from medllava.progress import Progress, SilentProgress
from medllava.store import Journal, write_bytes

STATE = "batches.jsonl"
METADATA_NAME = "medllava_batch"
_ENDPOINT: Final = "/v1/chat/completions"
_ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Sizes, patience and budget."""

    most_requests: int = 50_000
    """Of one batch; OpenAI's limit."""
    most_bytes: int = 190_000_000
    """Of one batch file; OpenAI takes 200 MB."""
    max_cost_usd: float | None = None
    poll_seconds: float = 30.0
    rounds: int = 3
    """How often an item that failed or expired is sent."""


def run_batches(
    model: OpenAIModel,
    requests: Iterable[ChatRequest],
    *,
    ledger: Ledger,
    folder: Path,
    limits: BatchLimits | None = None,
    price: Price | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ask through batches; yield an outcome for each request, in the order given.

    Args:
        model: whose server has files and batches endpoints.
        requests: all are held in memory, and so is one batch file.
        ledger: holds every reply before it is yielded, and answers what it already knows.
        folder: holds `batches.jsonl`, which tells a later run what is under way.
        limits: sizes, patience and budget.
        price: of the model's tokens; its batch factor applies.
        progress: told how many replies have come.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: the service failed after retries; run again to go on.
    """
    limits = limits or BatchLimits()
    keyed = [(request_key(model.name, request), request) for request in requests]
    run = _Batches(model, ledger, folder, limits, price or FREE)
    try:
        unanswered = run.ask(dict(keyed), progress or SilentProgress())
    finally:
        run.close()
    for key, request in keyed:
        entry = ledger.find(key)
        if entry is not None:
            yield to_outcome(request, entry, is_new=key in run.collected)
        else:
            reason, detail = unanswered.get(key, (NO_ANSWER, ""))
            yield Outcome(request=request, reply=None, reason=reason, detail=detail)


class _Batches:
    """The batches of one ledger."""

    def __init__(
        self, model: OpenAIModel, ledger: Ledger, folder: Path, limits: BatchLimits, price: Price
    ) -> None:
        self._model, self._ledger, self._limits, self._price = model, ledger, limits, price
        self._folder = folder
        self._journal = Journal(folder / STATE, sync=True)
        self.collected: set[str] = set()

    def close(self) -> None:
        self._journal.close()

    def ask(
        self, requests: dict[str, ChatRequest], progress: Progress
    ) -> dict[str, tuple[str, str]]:
        """Bring every request to an end; return reason and detail of those without an answer."""
        unanswered: dict[str, tuple[str, str]] = {}
        self._finish(self._under_way(), requests, progress, unanswered)
        for _ in range(self._limits.rounds):
            unanswered = {k: why for k, why in unanswered.items() if why[0] == OVER_BUDGET}
            open_keys = [k for k in requests if self._ledger.find(k) is None]
            names = self._submit([k for k in open_keys if k not in unanswered], requests)
            sent = {key for name in names for key in self._facts(name)["keys"]}
            unanswered |= {key: (OVER_BUDGET, "") for key in open_keys if key not in sent}
            if not names:
                break
            self._finish(names, requests, progress, unanswered)
        return unanswered

    def _under_way(self) -> list[str]:
        """Return batches that were begun and not collected, in this run or an earlier one."""
        return [name for name in self._journal if not self._journal[name].get("is_collected")]

    def _submit(self, keys: Sequence[str], requests: dict[str, ChatRequest]) -> list[str]:
        """Write down, then start, the batches for the requests that the budget allows."""
        names = []
        for lines in self._files(keys, requests):
            name = f"medllava-{len(self._journal):05d}-{min(lines)[:12]}"
            self._journal.mark(name, keys=list(lines))
            self._start(name, b"".join(lines.values()))
            names.append(name)
        return names

    def _files(
        self, keys: Sequence[str], requests: dict[str, ChatRequest]
    ) -> Iterator[dict[str, bytes]]:
        lines: dict[str, bytes] = {}
        size = 0
        for key in keys:
            request = requests[key]
            most = self._price.most(request, batch=True)
            limit = self._limits.max_cost_usd
            if limit is not None and self._ledger.committed_usd + most > limit:
                break
            line = self._line(key, request)
            if lines and (
                len(lines) >= self._limits.most_requests
                or size + len(line) > self._limits.most_bytes
            ):
                yield lines
                lines, size = {}, 0
            self._ledger.ask(key, request.request_id, most_usd=most)
            lines[key] = line
            size += len(line)
        if lines:
            yield lines

    def _line(self, key: str, request: ChatRequest) -> bytes:
        body = self._model.body(request)
        line = {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    def _start(self, name: str, data: bytes) -> None:
        """Upload a file and start its batch, which carries `name` so that it can be found again."""
        client = self._model.client
        # Uploading twice costs nothing, so only the batch itself has to be unique.
        file = self._model.retrying(
            lambda: client.files.create(file=(f"{name}.jsonl", data), purpose="batch")
        )
        batch = self._model.retrying(lambda: self._find_or_create(name, file.id))
        self._journal.mark(name, **self._facts(name), batch_id=batch.id)

    def _find_or_create(self, name: str, file_id: str) -> Any:  # noqa: ANN401 - the client's type
        # A request that timed out may have made the batch all the same.
        return self._find(name) or self._model.client.batches.create(
            input_file_id=file_id,
            endpoint=_ENDPOINT,
            completion_window="24h",
            metadata={METADATA_NAME: name},
            extra_headers={"Idempotency-Key": name},
        )

    def _find(self, name: str) -> Any:  # noqa: ANN401 - the client's type
        for batch in self._model.client.batches.list(limit=100):
            if (batch.metadata or {}).get(METADATA_NAME) == name:
                return batch
        return None

    def _finish(
        self,
        names: list[str],
        requests: dict[str, ChatRequest],
        progress: Progress,
        unanswered: dict[str, tuple[str, str]],
    ) -> None:
        """Poll batches until all have ended, collecting each as it does."""
        waiting = list(names)
        while waiting:
            for name in list(waiting):
                batch = self._fetch(name)
                if batch is None or batch.status in _ENDED:
                    self._collect(name, batch, requests, unanswered, progress)
                    waiting.remove(name)
            if waiting:
                time.sleep(self._limits.poll_seconds)

    def _fetch(self, name: str) -> Any:  # noqa: ANN401 - the client's type
        batch_id = self._facts(name).get("batch_id")
        if batch_id is not None:
            return self._model.retrying(lambda: self._model.client.batches.retrieve(batch_id))
        found = self._model.retrying(lambda: self._find(name))
        if found is not None:
            # A kill came between the batch and the note of its id.
            self._journal.mark(name, **self._facts(name), batch_id=found.id)
        return found

    def _collect(
        self,
        name: str,
        batch: Any,  # noqa: ANN401 - the client's type; None: it was never made
        requests: dict[str, ChatRequest],
        unanswered: dict[str, tuple[str, str]],
        progress: Progress,
    ) -> None:
        left = dict.fromkeys(self._facts(name)["keys"], "not in the batch's output")
        why = "the batch was not started" if batch is None else f"batch {batch.status}"
        files = () if batch is None else (batch.output_file_id, batch.error_file_id)
        for file_id in filter(None, files):
            for key, item in self._items(file_id, name):
                if key in left and self._settle(key, item, requests.get(key)):
                    del left[key]
                    self.collected.add(key)
                    progress.advance()
                elif key in left:
                    left[key] = _why(item)
        for key, detail in left.items():
            if self._ledger.find(key) is None:
                self._ledger.fail(key, f"{why}: {detail}")
                unanswered[key] = (NO_ANSWER, f"{why}: {detail}")
        self._ledger.sync()
        self._journal.mark(name, **self._facts(name), is_collected=True)

    def _items(self, file_id: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        content = self._model.retrying(lambda: self._model.client.files.content(file_id).content)
        for line in content.splitlines():
            try:
                item = json.loads(line)
                yield str(item["custom_id"]), item
            except (ValueError, KeyError, TypeError):
                # Which request it was is not known; the request comes back as unanswered.
                write_bytes(self._folder / f"{name}.damaged.jsonl", content)

    def _settle(self, key: str, item: dict[str, Any], request: ChatRequest | None) -> bool:
        """Write down an answer or a refusal; False if the item is to be asked again."""
        if self._ledger.find(key) is not None:
            return True
        response = item.get("response") or {}
        status = response.get("status_code")
        if status in {400, 413, 422}:
            self._ledger.refuse(key, _why(item))
            return True
        # A figure that is no longer asked about was paid for all the same.
        request = request or ChatRequest(request_id=key, messages=())
        try:
            reply = parse_reply(response.get("body"), request)
        except MalformedReplyError:
            return False
        if status != 200:
            return False
        self._ledger.settle(key, reply, cost_usd=self._price.bill(reply, batch=True), sync=False)
        return True

    def _facts(self, name: str) -> dict[str, Any]:
        return {k: v for k, v in self._journal[name].items() if k != "key"}


def _why(item: dict[str, Any]) -> str:
    response = item.get("response") or {}
    body = response.get("body") if isinstance(response, dict) else None
    error = item.get("error") or (body.get("error") if isinstance(body, dict) else None) or {}
    told = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return str(told or f"status {response.get('status_code')}")[:200]
