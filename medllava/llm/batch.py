"""The Batch API: half the price, an answer within a day, and no run to keep alive meanwhile.

One request is asked singly first: it shows which parameters the model takes, what a request really
costs, and that an answer is of use, before a day is waited for thousands of the same kind. Then
requests go up as files, batches are polled, replies are collected by id into the same ledger that
single requests use. What happens to each batch is written down before and after it is made; a run
that was killed at any point finds its batches again by the name they carry on the server. A server
that takes fewer requests at once than a batch holds gets smaller ones, one after the other.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medllava.llm.budget import Budget
from medllava.llm.client import OpenAIModel
from medllava.llm.ledger import Ledger
from medllava.llm.payload import request_key
from medllava.llm.prices import Price
from medllava.llm.protocol import ChatRequest
from medllava.llm.replies import (
    CONTENT_FILTER,
    MalformedReplyError,
    ask_again,
    is_content_filter,
    parse_reply,
)
from medllava.llm.runner import (
    NO_ANSWER,
    OVER_BUDGET,
    REFUSED,
    Limits,
    Outcome,
    Useless,
    describe_useless,
    run_requests,
    to_outcome,
)
from medllava.progress import Progress, SilentProgress
from medllava.store import Journal, write_bytes

logger = logging.getLogger(__name__)

STATE = "batches.jsonl"
METADATA_NAME = "medllava_batch"
_ENDPOINT: Final = "/v1/chat/completions"
_TOO_MANY = ("token_limit_exceeded", "enqueued", "request_limit_exceeded", "too_many")
"""What the errors of a batch say that a smaller one would have passed."""
_MOST_REPEATS = 1
"""Of an item that may have been paid for."""
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
    retry_refused: bool = False
    """Ask again what was refused for good."""


def run_batches(  # noqa: PLR0913 - what a run needs
    model: OpenAIModel,
    requests: Iterable[ChatRequest],
    *,
    ledger: Ledger,
    folder: Path,
    limits: BatchLimits | None = None,
    price: Price | None = None,
    useless: Useless | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ask through batches; yield an outcome for each request, in the order given.

    Args:
        model: whose server has files and batches endpoints.
        requests: all are held in memory, and so is one batch file.
        ledger: holds every reply before it is yielded, and answers what it already knows.
        folder: holds `batches.jsonl`, which tells a later run what is under way.
        limits: sizes, patience and budget.
        price: of the model's tokens; its batch factor applies. None: not known.
        useless: names why a reply is of no use; its request is sent again, with more room or
            another seed.
        progress: told how many replies have come.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: the service failed after retries; run again to go on.
    """
    limits = limits or BatchLimits()
    keyed = [(request_key(model.name, request), request) for request in requests]
    run = _Batches(model, ledger, folder, limits, price, useless)
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
        self,
        model: OpenAIModel,
        ledger: Ledger,
        folder: Path,
        limits: BatchLimits,
        price: Price | None,
        useless: Useless | None,
    ) -> None:
        self._model, self._ledger, self._limits = model, ledger, limits
        self._folder, self._price, self._useless = folder, price, useless
        self._budget = Budget(ledger, price, model=model.name, max_cost_usd=limits.max_cost_usd)
        self._journal = Journal(folder / STATE, sync=True)
        self._size = limits.most_requests
        self._is_one_by_one = False
        """A batch waits for the end of the one before it."""
        self._asked: dict[str, ChatRequest] = {}
        """What is sent for a request whose reply was of no use, by key."""
        self._repeats: Counter[str] = Counter()
        """How often an item was of no use or may have been paid for in vain, by key."""
        self._tries: Counter[str] = Counter()
        """How often an item was sent in vain, by key."""
        self.collected: set[str] = set()

    def close(self) -> None:
        self._journal.close()

    def ask(
        self, requests: dict[str, ChatRequest], progress: Progress
    ) -> dict[str, tuple[str, str]]:
        """Bring every request to an end; return reason and detail of those without an answer."""
        unanswered: dict[str, tuple[str, str]] = {}
        self._finish(self._under_way(), requests, progress, unanswered)
        self._ask_one(requests, progress, unanswered)
        while True:
            open_keys = [k for k in requests if self._is_open(k) and self._may_repeat(k)]
            names = self._submit(open_keys, requests)
            sent = {key for name in names for key in self._facts(name)["keys"]}
            if not names:
                over = (OVER_BUDGET, "")
                unanswered |= {k: over for k in open_keys if k not in unanswered}
                break
            for key in sent:
                unanswered.pop(key, None)
            self._finish(names, requests, progress, unanswered)
        return unanswered

    def _ask_one(
        self,
        requests: dict[str, ChatRequest],
        progress: Progress,
        unanswered: dict[str, tuple[str, str]],
    ) -> None:
        """Ask for one answer singly before a batch is made of many."""
        open_keys = [key for key in requests if self._is_open(key)]
        if len(open_keys) < 2:
            return
        outcomes = run_requests(
            self._model,
            (requests[key] for key in open_keys),
            ledger=self._ledger,
            limits=Limits(
                concurrency=1,
                window=1,
                max_cost_usd=self._limits.max_cost_usd,
                retry_refused=self._limits.retry_refused,
            ),
            price=self._price,
            useless=self._useless,
            progress=progress,
        )
        for key, outcome in zip(open_keys, outcomes, strict=False):
            if outcome.reply is not None:
                self.collected.add(key)
                self._budget.bill(requests[key], outcome.reply)  # shows what a request takes
                break
            if not outcome.is_final:
                unanswered[key] = (outcome.reason, outcome.detail)
            if outcome.reason == OVER_BUDGET:
                break

    def _is_open(self, key: str) -> bool:
        known = self._ledger.find(key)
        is_refused = known is not None and known.reply is None
        return known is None or (
            is_refused and self._limits.retry_refused and key not in self.collected
        )

    def _may_repeat(self, key: str) -> bool:
        return self._repeats[key] <= _MOST_REPEATS and self._tries[key] < self._limits.rounds

    def _under_way(self) -> list[str]:
        """Return batches that were begun and not collected, in this run or an earlier one."""
        return [name for name in self._journal if not self._journal[name].get("is_collected")]

    def _submit(self, keys: Sequence[str], requests: dict[str, ChatRequest]) -> list[str]:
        """Write down, then start, the batches for the requests that the budget allows."""
        names: list[str] = []
        for lines in self._files(keys, requests):
            name = f"medllava-{len(self._journal):05d}-{min(lines)[:12]}"
            self._journal.mark(name, keys=list(lines))
            self._start(name, b"".join(lines.values()))
            names.append(name)
            if self._is_one_by_one:
                break
        return names

    def _files(
        self, keys: Sequence[str], requests: dict[str, ChatRequest]
    ) -> Iterator[dict[str, bytes]]:
        lines: dict[str, bytes] = {}
        size = 0
        for key in keys:
            request = self._asked.get(key, requests[key])
            most = self._budget.most_usd(request, batch=True)
            if not self._budget.allows(most):
                break
            line = self._line(key, request)
            if lines and (len(lines) >= self._size or size + len(line) > self._limits.most_bytes):
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
        keys = self._facts(name)["keys"]
        left = dict.fromkeys(keys, "not in the batch's output")
        told = _errors(batch)
        why = "the batch was not started" if batch is None else f"batch {batch.status}{told}"
        files = () if batch is None else (batch.output_file_id, batch.error_file_id)
        useless: dict[str, tuple[str, str]] = {}
        for file_id in filter(None, files):
            for key, item in self._items(file_id, name):
                if key not in left:
                    continue
                ended = self._settle(key, item, requests.get(key), useless)
                if ended:
                    del left[key]
                    self.collected.add(key)
                    progress.advance()
                else:
                    left[key] = _why(item)
        # Of a batch that ran, an item without a line may have been answered all the same.
        ran = batch is not None and batch.status == "completed"
        for key, detail in left.items():
            if key in useless:
                unanswered[key] = useless[key]
            elif self._ledger.find(key) is None:
                lost = ran and detail == "not in the batch's output"
                self._repeats[key] += lost
                self._ledger.fail(key, f"{why}: {detail}", maybe_paid=lost)
                unanswered[key] = (NO_ANSWER, f"{why}: {detail}")
        self._ledger.sync()
        self._journal.mark(name, **self._facts(name), is_collected=True)
        if not self._learn_size(told, len(keys)):
            self._tries.update(left.keys())

    def _learn_size(self, told: str, num_keys: int) -> bool:
        """Make batches smaller after one that was more than the server takes; tell whether so."""
        is_large = num_keys > 1 and any(word in told for word in _TOO_MANY)
        if is_large:
            self._size = max(1, min(self._size, num_keys // 2))
            self._is_one_by_one = True
            logger.warning("a batch of %d was too large%s; trying %d", num_keys, told, self._size)
        return is_large

    def _items(self, file_id: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        content = self._model.retrying(lambda: self._model.client.files.content(file_id).content)
        for line in content.splitlines():
            try:
                item = json.loads(line)
                yield str(item["custom_id"]), item
            except (ValueError, KeyError, TypeError):
                # Which request it was is not known; the request comes back as unanswered.
                write_bytes(self._folder / f"{name}.damaged.jsonl", content)

    def _settle(  # noqa: PLR0911 - one case per kind of item
        self,
        key: str,
        item: dict[str, Any],
        request: ChatRequest | None,
        useless: dict[str, tuple[str, str]],
    ) -> bool:
        """Write down an answer or a final refusal; False if the item is to be asked again."""
        known = self._ledger.find(key)
        if known is not None and known.reply is not None:
            return True
        response = item.get("response") or {}
        status = response.get("status_code")
        told = _why(item)
        if status in {400, 413, 422}:
            if not is_content_filter(_code(item), told):
                self._repeats[key] = _MOST_REPEATS + 1  # nothing changes within this run
                useless[key] = (REFUSED, told)
                self._ledger.fail(key, told)
                return False
            self._ledger.refuse(key, told)
            return True
        if status != 200:
            return False
        # A figure that is no longer asked about was paid for all the same.
        asked = self._asked.get(key) or request or ChatRequest(request_id=key, messages=())
        try:
            reply = parse_reply(response.get("body"), asked)
        except MalformedReplyError as error:
            self._repeats[key] += 1
            useless[key] = (NO_ANSWER, str(error))
            self._ledger.fail(key, str(error), maybe_paid=True)
            return False
        bill = self._budget.bill(asked, reply, batch=True)
        reason = self._useless(bill.reply) if self._useless else None
        if reason is None:
            self._ledger.settle(key, bill.reply, cost_usd=bill.cost_usd, sync=False)
            return True
        self._repeats[key] += 1
        self._ledger.note_useless(key, bill.reply, reason, cost_usd=bill.cost_usd)
        useless[key] = (reason, describe_useless(bill.reply))
        if reason == CONTENT_FILTER and not self._may_repeat(key):
            self._ledger.refuse(key, f"{reason}: {useless[key][1]}")
            return True
        self._asked[key] = ask_again(asked, reason)
        return False

    def _facts(self, name: str) -> dict[str, Any]:
        return {k: v for k, v in self._journal[name].items() if k != "key"}


def _why(item: dict[str, Any]) -> str:
    response = item.get("response") or {}
    body = response.get("body") if isinstance(response, dict) else None
    error = item.get("error") or (body.get("error") if isinstance(body, dict) else None) or {}
    told = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return str(told or f"status {response.get('status_code')}")[:200]


def _code(item: dict[str, Any]) -> object:
    body = (item.get("response") or {}).get("body")
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _errors(batch: Any) -> str:  # noqa: ANN401 - the client's type
    """Return what the server says about a batch as a whole, led by a colon."""
    errors = getattr(getattr(batch, "errors", None), "data", None) or []
    told = [f"{error.code or ''} {error.message or ''}".strip() for error in errors[:3]]
    return f": {'; '.join(told)}"[:300] if told else ""
