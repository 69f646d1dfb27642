"""What a request may cost, what a reply did cost, and whether there is money left.

Estimates are held against what the server charges: where it counts more tokens than expected, or
lets a model write more than it may, all that follows is expected to cost as much more.
"""

import threading
from dataclasses import dataclass

from medllava.llm.ledger import Ledger
from medllava.llm.prices import Price
from medllava.llm.protocol import ESTIMATED, ChatReply, ChatRequest
from medllava.llm.replies import charge_at_most
from medllava.llm.tokens import estimate_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A reply with its tokens, as charged."""

    reply: ChatReply
    cost_usd: float | None
    """None: the price is not known."""


class Budget:
    """The money of one run; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, price: Price | None, *, model: str, max_cost_usd: float | None
    ) -> None:
        """Begin with what the ledger says was spent.

        Args:
            ledger: of this folder, with earlier runs.
            price: of the model's tokens; None: not known.
            model: its name, which decides how tokens are counted.
            max_cost_usd: the ledger's total is kept under this; None: no limit.

        Raises:
            ValueError: there is a limit and no price.
        """
        if max_cost_usd is not None and price is None:
            raise ValueError("a limit needs a price")
        self._ledger, self._price, self._model = ledger, price, model
        self._limit = max_cost_usd
        self._input_factor = self._output_factor = 1.0
        self._lock = threading.Lock()

    def most_usd(self, request: ChatRequest, *, batch: bool = False) -> float:
        """Return the most that a request may cost; 0 where the price is not known."""
        if self._price is None or self._price.is_free:
            return 0.0  # without reading the request
        tokens = estimate_tokens(request, self._model) * self._input_factor
        return self._price.cost(tokens, request.max_new_tokens * self._output_factor, batch=batch)

    def allows(self, most_usd: float) -> bool:
        """Tell whether an attempt that may cost so much keeps the total under the limit."""
        # Sums of many prices carry a remainder of rounding.
        return self._limit is None or self._ledger.committed_usd + most_usd <= self._limit + 1e-9

    def bill(self, request: ChatRequest, reply: ChatReply, *, batch: bool = False) -> Bill:
        """Return what a reply cost; one without usage costs the most that it could."""
        if reply.usage == ESTIMATED:
            tokens = round(estimate_tokens(request, self._model) * self._input_factor)
            reply = charge_at_most(reply, input_tokens=tokens, output_tokens=request.max_new_tokens)
        elif self._limit is not None:
            self._calibrate(request, reply)
        cost = None if self._price is None else self._price.bill(reply, batch=batch)
        return Bill(reply=reply, cost_usd=cost)

    def _calibrate(self, request: ChatRequest, reply: ChatReply) -> None:
        expected = max(1, estimate_tokens(request, self._model))
        with self._lock:
            self._input_factor = max(self._input_factor, reply.input_tokens / expected)
            self._output_factor = max(
                self._output_factor, reply.output_tokens / max(1, request.max_new_tokens)
            )
