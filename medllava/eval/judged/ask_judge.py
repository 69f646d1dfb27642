"""A judge behind a server: whom to ask, how often, for how much, and its replies as they came.

Things to judge enter with a way to ask about one and a way to read the reply; `Judged` replies
leave. What was judged is in a ledger at once, so a run that was killed goes on and nothing is paid
for twice. A reply that cannot be read is asked for again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from medllava.llm.ledger import Ledger
from medllava.llm.prices import price_for
from medllava.llm.protocol import ChatModel, ChatRequest
from medllava.llm.runner import Limits, Outcome, run_requests
from medllava.llm.tokens import estimate_tokens
from medllava.progress import Progress

MAX_ATTEMPTS = 3
"""Requests spent on one judgement whose reply cannot be read."""

T = TypeVar("T")
"""What is judged."""
V = TypeVar("V")
"""What a reply says about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Who judges, how often, for how much."""

    model: str
    """Name as its server knows it, with its date, so that numbers can be repeated."""
    base_url: str | None = None
    """Of a local or other server; None: OpenAI."""
    repeats: int = 1
    """Judgements per question and order."""
    concurrency: int = 8
    max_cost_usd: float | None = None
    max_retries: int = 8
    """Attempts after the first at a request that gets no answer."""
    labels: Path | None = None
    """Answers that people have graded, to measure the judge by."""

    @property
    def temperature(self) -> float:
        """Greedy once; repeats of a greedy judge would say nothing new."""
        return 0.0 if self.repeats == 1 else 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Generic[T, V]):
    """One reply of the judge."""

    item: T
    attempt: int
    outcome: Outcome
    said: V | None
    """None: it cannot be read."""

    def facts(self) -> dict[str, Any]:
        """Return the reply as `judgements.jsonl` has it."""
        assert self.outcome.reply is not None  # noqa: S101 - only replies are kept
        return {
            "text": self.outcome.reply.text,
            "model": self.outcome.reply.model,
            "finish_reason": self.outcome.reply.finish_reason,
            "input_tokens": self.outcome.reply.input_tokens,
            "output_tokens": self.outcome.reply.output_tokens,
            "cost_usd": self.outcome.cost_usd,
        }


def ask_judge(
    judge: JudgeConfig,
    items: Sequence[T],
    *,
    build: Callable[[T, int], ChatRequest],
    read: Callable[[T, str], V | None],
    ledger: Path,
    progress: Progress,
) -> tuple[list[Judged[T, V]], int]:
    """Ask about every item until its reply can be read, three times at most.

    Args:
        judge: whom to ask.
        items: to judge.
        build: the request about an item at an attempt, from 0; with a reminder from 1 on.
        read: what a reply says; None where it cannot be read.
        ledger: file of requests and replies.
        progress: told the price before and each judgement.

    Returns:
        Every reply, in the order of the items and their attempts, and how many items have none.
    """
    from medllava.llm.client import OpenAIModel  # noqa: PLC0415 - scoring alone asks nobody

    model: ChatModel = OpenAIModel(
        judge.model, base_url=judge.base_url, max_retries=judge.max_retries
    )
    price = price_for(judge.model, base_url=judge.base_url, max_cost_usd=judge.max_cost_usd)
    known = "its price is not known"
    if price:
        requests = [build(item, 0) for item in items]
        most = sum(price.cost(estimate_tokens(r, judge.model), r.max_new_tokens) for r in requests)
        known = f"at most ${most:.2f}"
    progress.note(f"{len(items):,} judgements by {judge.model}, {known}.")
    limits = Limits(concurrency=judge.concurrency, max_cost_usd=judge.max_cost_usd)
    found: list[tuple[int, Judged[T, V]]] = []
    missing = 0
    left = list(enumerate(items))
    with Ledger(ledger) as kept:
        for attempt in range(MAX_ATTEMPTS):
            progress.start("unreadable" if attempt else "judgements", total=len(left))
            outcomes = run_requests(
                model,
                [build(item, attempt) for _, item in left],
                ledger=kept,
                limits=limits,
                price=price,
                progress=progress,
            )
            again: list[tuple[int, T]] = []
            for (place, item), outcome in zip(left, outcomes, strict=True):
                if outcome.reply is None:
                    missing += 1
                    progress.note(f"no judgement ({outcome.reason}): {outcome.request.request_id}.")
                    continue
                said = read(item, outcome.reply.text)
                judged = Judged(item=item, attempt=attempt, outcome=outcome, said=said)
                found.append((place, judged))
                if said is None:
                    again.append((place, item))
            left = again
    return [judged for _, judged in sorted(found, key=lambda p: (p[0], p[1].attempt))], missing


def total_cost(lines: Sequence[dict[str, Any]]) -> float | None:
    """Return what all replies cost; None where the price of one is not known."""
    costs = [line["cost_usd"] for line in lines]
    return None if None in costs else round(sum(costs), 6)
