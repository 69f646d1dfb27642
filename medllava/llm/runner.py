"""Many requests to one model: in parallel, within budgets, each answer on disk before the next.

Requests go in, an outcome comes out for each, in the order of the requests, so a run that was
killed and run again ends with the same output. What the ledger holds is not asked again.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from medllava.errors import DataError, RemoteError
from medllava.llm.ledger import Ledger, LedgerEntry
from medllava.llm.payload import request_key
from medllava.llm.prices import FREE, Price, estimate_tokens
from medllava.llm.protocol import (
    AccessError,
    ChatModel,
    ChatReply,
    ChatRequest,
    RequestRefusedError,
)
from medllava.progress import Progress, SilentProgress

OVER_BUDGET = "over_budget"
REFUSED = "refused"
NO_ANSWER = "no_answer"

_FAILURES_IN_A_ROW = 20
"""So many requests without an answer, one after the other, mean that the service is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How fast and how far to go."""

    concurrency: int = 16
    """Requests in flight at once."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Input tokens as estimated, plus the most that may be written."""
    max_cost_usd: float | None = None
    """Nothing is sent that could bring the ledger's total above this."""
    window: int | None = None
    """Requests taken from the caller before the first of them is answered; 16 per thread if
    unset. More keeps threads busy behind one slow answer and holds more in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request."""

    request: ChatRequest
    reply: ChatReply | None
    reason: str = ""
    """Without reply: `refused` (for good), `no_answer` or `over_budget` (run again to ask)."""
    detail: str = ""
    """The service's words, where there are any."""
    cost_usd: float = 0.0
    time: str = ""
    """When the answer came, ISO, UTC."""
    is_new: bool = True
    """False: it was in the ledger already."""


def run_requests(
    model: ChatModel,
    requests: Iterable[ChatRequest],
    *,
    ledger: Ledger,
    limits: Limits | None = None,
    price: Price | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ask a model many things; yield an outcome for each request, in the order given.

    Args:
        model: who answers; its `reply` is called from several threads.
        requests: read as needed, so they may be millions; ids are unique.
        ledger: holds every reply before it is yielded, and answers what it already knows.
        limits: concurrency and budgets.
        price: of the model's tokens; None counts as free.
        progress: told of every outcome; the phase is the caller's.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: twenty requests in a row got no answer.
    """
    limits = limits or Limits()
    run = _Run(model, ledger, limits, price or FREE)
    yield from run.outcomes(requests, progress or SilentProgress())


class _Run:
    """The shared state of the threads of one `run_requests`."""

    def __init__(self, model: ChatModel, ledger: Ledger, limits: Limits, price: Price) -> None:
        self._model, self._ledger, self._limits, self._price = model, ledger, limits, price
        self._changed = threading.Condition()
        self._pace = Pace(limits)
        self._failures = self._in_flight = 0
        self._stop: RemoteError | None = None

    def outcomes(self, requests: Iterable[ChatRequest], progress: Progress) -> Iterator[Outcome]:
        source = iter(requests)
        width = self._limits.window or 16 * self._limits.concurrency
        pool = ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="medllava-llm")
        try:
            waiting: deque[Future[Outcome]] = deque(
                pool.submit(self._answer, request) for request in islice(source, width)
            )
            while waiting:
                outcome = waiting.popleft().result()
                waiting.extend(pool.submit(self._answer, r) for r in islice(source, 1))
                progress.advance()
                yield outcome
        finally:
            # Answers on their way are paid for, so they are waited for and written down.
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, request: ChatRequest) -> Outcome:
        key = request_key(self._model.name, request)
        if (known := self._ledger.find(key)) is not None:
            return to_outcome(request, known, is_new=False)
        if not self._reserve(key, request):
            return Outcome(request=request, reply=None, reason=OVER_BUDGET)
        try:
            self._pace.wait(request)
            return self._ask(key, request)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _ask(self, key: str, request: ChatRequest) -> Outcome:
        started = time.monotonic()
        try:
            reply = self._model.reply(request)
        except DataError as error:
            # An image that cannot be read; it may be mended, so nothing is settled.
            self._ledger.fail(key, str(error))
            return Outcome(request=request, reply=None, reason=REFUSED, detail=str(error))
        except RequestRefusedError as error:
            return to_outcome(request, self._ledger.refuse(key, str(error)), is_new=True)
        except RemoteError as error:
            self._ledger.fail(key, str(error))
            self._count_failure(error)
            return Outcome(request=request, reply=None, reason=NO_ANSWER, detail=str(error))
        self._failures = 0
        entry = self._ledger.settle(
            key, reply, cost_usd=self._price.bill(reply), seconds=time.monotonic() - started
        )
        return to_outcome(request, entry, is_new=True)

    def _reserve(self, key: str, request: ChatRequest) -> bool:
        """Note the request as asked; False if it could pass the budget."""
        most = self._price.most(request)
        limit = self._limits.max_cost_usd
        with self._changed:
            # Answers in flight may turn out cheaper than they could have been.
            while limit is not None and self._ledger.committed_usd + most > limit:
                if not self._in_flight:
                    return False
                self._changed.wait()
            if self._stop is not None:
                raise self._stop
            self._in_flight += 1
            self._ledger.ask(key, request.request_id, most_usd=most)
            return True

    def _count_failure(self, error: RemoteError) -> None:
        """Stop the run when the service answers nobody any more."""
        with self._changed:
            self._failures += 1
            if isinstance(error, AccessError) or self._failures >= _FAILURES_IN_A_ROW:
                self._stop = error
                raise error


class Pace:
    """Spaces requests so that neither requests nor tokens pass their rate for a minute."""

    def __init__(self, limits: Limits) -> None:
        """Begin with nothing used."""
        self._rates = (limits.requests_per_minute, limits.tokens_per_minute)
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, request: ChatRequest) -> None:
        """Wait for the turn of a request."""
        requests_rate, tokens_rate = self._rates
        seconds = 60 / requests_rate if requests_rate else 0.0
        if tokens_rate:
            tokens = estimate_tokens(request) + request.max_new_tokens
            seconds = max(seconds, 60 * tokens / tokens_rate)
        if not seconds:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + seconds
        time.sleep(max(0.0, turn - time.monotonic()))


def to_outcome(request: ChatRequest, entry: LedgerEntry, *, is_new: bool) -> Outcome:
    """Return what the ledger knows about a request as its outcome."""
    return Outcome(
        request=request,
        reply=entry.reply,
        reason="" if entry.reply else REFUSED,
        detail=entry.reason,
        cost_usd=entry.cost_usd,
        time=entry.time,
        is_new=is_new,
    )
