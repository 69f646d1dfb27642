"""What a request costs: list prices, an estimate of tokens before, the bill after.

Prices change; the table is a start, dated, and a user's own TOML file goes before it.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from medllava.errors import DataError
from medllava.llm.protocol import ChatReply, ChatRequest

PRICES_DATE = "2025-11"
"""When the table below was written down, from OpenAI's public list."""

IMAGE_TOKENS = 1100
"""Estimate of one picture at full detail; families differ by a factor of four."""
_CHARACTERS_PER_TOKEN = 3.6
"""English biomedical prose in current vocabularies holds a little more; the estimate errs high."""
_TOKENS_PER_MESSAGE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens of one model."""

    input_per_million: float
    output_per_million: float
    batch_factor: float = 0.5
    """What the Batch API charges, relative to the above."""

    def cost(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the price of so many tokens in US dollars."""
        cost = input_tokens * self.input_per_million + output_tokens * self.output_per_million
        return cost / 1e6 * (self.batch_factor if batch else 1.0)

    def bill(self, reply: ChatReply, *, batch: bool = False) -> float:
        """Return what a reply cost."""
        return self.cost(reply.input_tokens, reply.output_tokens, batch=batch)

    def most(self, request: ChatRequest, *, batch: bool = False) -> float:
        """Return what a request costs if the model writes as much as it may."""
        if not self.input_per_million and not self.output_per_million:
            return 0.0  # without reading the request
        return self.cost(estimate_tokens(request), request.max_new_tokens, batch=batch)


FREE = Price(input_per_million=0.0, output_per_million=0.0)
PRICES = {
    name: Price(input_per_million=given, output_per_million=written)
    for name, given, written in (
        ("gpt-4o", 2.5, 10.0),
        ("gpt-4o-mini", 0.15, 0.6),
        ("gpt-4.1", 2.0, 8.0),
        ("gpt-4.1-mini", 0.4, 1.6),
        ("gpt-4.1-nano", 0.1, 0.4),
        ("gpt-5", 1.25, 10.0),
        ("gpt-5-mini", 0.25, 2.0),
        ("gpt-5-nano", 0.05, 0.4),
        ("o3", 2.0, 8.0),
        ("o4-mini", 1.1, 4.4),
    )
}


def find_price(model: str, *, table: Path | None = None) -> Price | None:
    """Return the price of a model, the user's table first; None if it is not known.

    A dated name such as `gpt-4o-2024-11-20` takes the price of the name it begins with.

    Args:
        model: name as the server knows it.
        table: TOML file with a table for each model: `["NAME"]`, `input_per_million`,
            `output_per_million` and, if wanted, `batch_factor`.

    Raises:
        DataError: the table cannot be used.
    """
    prices = PRICES | (read_prices(table) if table else {})
    starts = [name for name in prices if model == name or model.startswith(f"{name}-20")]
    return prices[max(starts, key=len)] if starts else None


def read_prices(table: Path) -> dict[str, Price]:
    """Read a user's prices.

    Raises:
        DataError: the file is absent, is not TOML or lacks a price; names the file and the model.
    """
    try:
        with table.open("rb") as handle:
            models = tomllib.load(handle)
        return {name: _price(values) for name, values in models.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'not a usable price table ({error}): {table}. Write ["model-name"], '
            "input_per_million = 2.5 and output_per_million = 10.0."
        ) from None


def estimate_tokens(request: ChatRequest) -> int:
    """Estimate the input tokens of a request without its tokenizer."""
    characters = sum(len(message.content) for message in request.messages)
    pictures = sum(len(message.images) for message in request.messages)
    tokens = characters / _CHARACTERS_PER_TOKEN + pictures * IMAGE_TOKENS
    return round(tokens) + _TOKENS_PER_MESSAGE * len(request.messages)


def _price(values: dict[str, float]) -> Price:
    numbers = {name: float(value) for name, value in values.items()}
    if any(number < 0 for number in numbers.values()):
        raise ValueError("a price is negative")
    return Price(**numbers)
