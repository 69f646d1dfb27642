"""Many requests to one model: in parallel, within budgets, each answer on disk before the next.

Requests go in, an outcome comes out for each, in the order of the requests, so a run that was
killed and run again ends with the same output. What the ledger holds is not asked again. One
request goes ahead of the others: until a useful answer has come, nothing is risked in parallel.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from medllava.errors import DataError, RemoteError
from medllava.llm.budget import Budget
from medllava.llm.ledger import Ledger, LedgerEntry
from medllava.llm.payload import request_key
from medllava.llm.prices import Price
from medllava.llm.protocol import (
    AccessError,
    ChatModel,
    ChatReply,
    ChatRequest,
    OverBudgetError,
    RequestRefusedError,
)
from medllava.llm.replies import CONTENT_FILTER, ask_again
from medllava.llm.tokens import estimate_tokens
from medllava.progress import Progress, SilentProgress

OVER_BUDGET = "over_budget"
REFUSED = "refused"
NO_ANSWER = "no_answer"

MOST_IN_VAIN = 6
"""So many requests that were refused or brought nothing of use, one after the other, end a run."""
_FAILURES_IN_A_ROW = 20
"""So many requests without an answer, one after the other, mean that the service is gone."""
_FAILURES_AT_FIRST = 3
"""As above, before it has answered at all."""
_MOST_TURNS = 2
"""How often a request is asked whose replies are of no use."""
_GRACE_SECONDS = 3.0
"""How long an interrupted run waits for answers that are on their way."""

Useless = Callable[[ChatReply], str | None]
"""Names why a reply is of no use to whoever asked, or None."""


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
    most_in_vain: int = MOST_IN_VAIN
    """So many requests that came to nothing, one after the other, end the run."""
    retry_refused: bool = False
    """Ask again what was refused for good."""
    window: int | None = None
    """Requests taken from the caller before the first of them is answered; 16 per thread if
    unset. More keeps threads busy behind one slow answer and holds more in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request."""

    request: ChatRequest
    reply: ChatReply | None
    reason: str = ""
    """Without reply: `refused`, `no_answer`, `over_budget`, or why the replies were of no use."""
    detail: str = ""
    """The service's words, where there are any."""
    is_final: bool = False
    """Without reply: its content is filtered, so running again does not ask."""
    cost_usd: float | None = 0.0
    """None: the price is not known."""
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
    useless: Useless | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ask a model many things; yield an outcome for each request, in the order given.

    Args:
        model: who answers; its `reply` is called from several threads.
        requests: read as needed, so they may be millions; ids are unique.
        ledger: holds every reply before it is yielded, and answers what it already knows.
        limits: concurrency and budgets.
        price: of the model's tokens; None: not known, and no cost is told.
        useless: replies that it names are asked for once more, then given up; such a request is
            asked again in the next run. None: every reply will do.
        progress: told of every outcome; the phase is the caller's.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: twenty requests in a row got no answer (three, before there was one), or six
            were refused or brought nothing of use.
        ValueError: there is a limit of cost and no price.
    """
    limits = limits or Limits()
    budget = Budget(ledger, price, model=model.name, max_cost_usd=limits.max_cost_usd)
    run = _Run(model, ledger, limits, budget, useless)
    yield from run.outcomes(requests, progress or SilentProgress())


class _Run:
    """The shared state of the threads of one `run_requests`."""

    def __init__(
        self,
        model: ChatModel,
        ledger: Ledger,
        limits: Limits,
        budget: Budget,
        useless: Useless | None,
    ) -> None:
        self.model, self.ledger, self.budget = model, ledger, budget
        self._limits, self._useless = limits, useless
        self.changed = threading.Condition()
        self._pace = Pace(limits)
        self._failures = self._in_vain = 0
        self._has_answered = False
        self.in_flight = 0
        self.stop: RemoteError | None = None

    def outcomes(self, requests: Iterable[ChatRequest], progress: Progress) -> Iterator[Outcome]:
        source = iter(requests)
        for request in source:
            outcome = self._answer(request)
            progress.advance()
            yield outcome
            if self._has_answered:
                break
        yield from self._fan_out(source, progress)

    def _fan_out(self, source: Iterator[ChatRequest], progress: Progress) -> Iterator[Outcome]:
        width = self._limits.window or 16 * self._limits.concurrency
        pool = ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix="medllava-llm")
        futures: deque[Future[Outcome]] = deque()
        try:
            futures.extend(pool.submit(self._answer, request) for request in islice(source, width))
            while futures:
                outcome = futures.popleft().result()
                futures.extend(pool.submit(self._answer, r) for r in islice(source, 1))
                progress.advance()
                yield outcome
        except KeyboardInterrupt:
            self._end_soon(futures)
            raise
        finally:
            # Answers on their way are paid for, so they are waited for and written down.
            pool.shutdown(wait=True, cancel_futures=True)

    def _end_soon(self, futures: Iterable["Future[Outcome]"]) -> None:
        """Give answers in flight a few seconds, then leave them; the ledger counts them."""
        for future in futures:
            future.cancel()
        deadline = time.monotonic() + _GRACE_SECONDS
        with self.changed:
            self.stop = RemoteError("interrupted")
            self.changed.notify_all()
            while self.in_flight and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)
        if (stop := getattr(self.model, "stop", None)) is not None:
            stop()

    def _answer(self, request: ChatRequest) -> Outcome:
        key = request_key(self.model.name, request)
        known = self.ledger.find(key)
        if known is not None and (known.reply is not None or not self._limits.retry_refused):
            return to_outcome(request, known, is_new=False)
        books = _Books(self, key, request)
        try:
            books.begin()
            self._pace.wait(request)
            return self._ask(books, request)
        except (DataError, RemoteError) as error:
            return self._without_reply(books, request, error)
        finally:
            if books.num_begun:
                with self.changed:
                    self.in_flight -= 1
                    self.changed.notify_all()

    def _without_reply(
        self, books: "_Books", request: ChatRequest, error: DataError | RemoteError
    ) -> Outcome:
        told, reason, is_final = str(error), NO_ANSWER, False
        if isinstance(error, RequestRefusedError) and error.is_final:
            books.is_open = False
            self.ledger.refuse(books.key, told)
        else:
            # The client has noted what it sent; what is still open was not.
            books.fail(told, maybe_paid=False)
        if isinstance(error, OverBudgetError):
            reason, told = OVER_BUDGET, ""
        elif isinstance(error, RequestRefusedError):
            reason, is_final = error.reason, error.is_final
            self._count_in_vain(reason, told)
        elif isinstance(error, DataError):
            reason = REFUSED  # an image that cannot be read; it may be mended
        else:
            self._count_failure(error)
        return Outcome(request=request, reply=None, reason=reason, detail=told, is_final=is_final)

    def _ask(self, books: "_Books", request: ChatRequest) -> Outcome:
        """Ask; once more where the reply is of no use and asking again may help."""
        reason, told = "", ""
        for _ in range(_MOST_TURNS):
            books.begin()
            started = time.monotonic()
            reply = self.model.reply(books.request, attempts=books)
            bill = self.budget.bill(books.request, reply)
            found = self._useless(bill.reply) if self._useless else None
            books.is_open = False
            if found is None:
                entry = self.ledger.settle(
                    books.key,
                    bill.reply,
                    cost_usd=bill.cost_usd,
                    seconds=time.monotonic() - started,
                )
                with self.changed:
                    self._failures = self._in_vain = 0
                    self._has_answered = True
                return to_outcome(request, entry, is_new=True)
            self.ledger.note_useless(books.key, bill.reply, found, cost_usd=bill.cost_usd)
            reason, told = found, describe_useless(bill.reply)
            books.request = ask_again(request, found)
        is_final = reason == CONTENT_FILTER
        if is_final:
            self.ledger.refuse(books.key, f"{reason}: {told}")
        self._count_in_vain(reason, told)
        return Outcome(request=request, reply=None, reason=reason, detail=told, is_final=is_final)

    def _count_in_vain(self, reason: str, told: str) -> None:
        """Stop the run when nothing of use comes any more."""
        with self.changed:
            self._in_vain += 1
            if self._in_vain >= self._limits.most_in_vain:
                self.stop = RemoteError(
                    f"{self._in_vain} requests in a row came to nothing ({reason}): "
                    f"{self.model.name}. The last one: {told or 'an empty reply'}. Mend it, with "
                    "--request KEY=VALUE where it is a parameter, and run again; what was "
                    "answered is kept."
                )
                raise self.stop

    def _count_failure(self, error: RemoteError) -> None:
        """Stop the run when the service answers nobody any more."""
        with self.changed:
            self._failures += 1
            most = _FAILURES_IN_A_ROW if self._has_answered else _FAILURES_AT_FIRST
            if isinstance(error, AccessError) or self._failures >= most:
                self.stop = error
                raise error


class _Books:
    """The attempts at one request, in the ledger and within the budget."""

    def __init__(self, run: _Run, key: str, request: ChatRequest) -> None:
        self.key, self.request = key, request
        self.is_open = False
        self._run = run
        self.num_begun = 0

    def begin(self) -> None:
        """Note an attempt, unless one is noted already that has not been sent.

        Raises:
            OverBudgetError: it could pass the budget.
            RemoteError: the run is being stopped.
        """
        if self.is_open:
            return
        run = self._run
        most = run.budget.most_usd(self.request)
        is_first = self.num_begun == 0
        with run.changed:
            # Answers in flight may turn out cheaper than they could have been.
            while not run.budget.allows(most):
                if not is_first or not run.in_flight:
                    raise OverBudgetError("the budget is spent")
                run.changed.wait()
            if run.stop is not None:
                raise run.stop
            run.in_flight += is_first
            run.ledger.ask(self.key, self.request.request_id, most_usd=most, is_repeat=not is_first)
        self.num_begun += 1
        self.is_open = True

    def fail(self, why: str, *, maybe_paid: bool) -> None:
        """Note the end of an attempt without a reply."""
        if self.is_open:
            self._run.ledger.fail(self.key, why, maybe_paid=maybe_paid)
            self.is_open = False


def describe_useless(reply: ChatReply) -> str:
    """Return in a few words what a reply of no use said."""
    text = " ".join(reply.text.split())[:200]
    parts = [f"finish_reason {reply.finish_reason!r}", f"{reply.output_tokens} tokens written"]
    return ", ".join([*parts, repr(text)] if text else parts)


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
        is_final=entry.reply is None,
        cost_usd=entry.cost_usd,
        time=entry.time,
        is_new=is_new,
    )
