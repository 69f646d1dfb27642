"""What a request costs: list prices, the most it may cost before, the bill after.

Prices come from `genai-prices`, whose authors keep them current, and a user's own TOML file goes
before it. A price that nobody knows is None; it is never 0.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from medllava.errors import DataError
from medllava.llm.protocol import ChatReply

_BATCH_FACTOR = 0.5
"""What OpenAI's Batch API charges, relative to single requests; genai-prices does not say."""
_PROBE = 10_000
"""Tokens of the request whose price is looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens of one model."""

    input_per_million: float
    output_per_million: float
    batch_factor: float = _BATCH_FACTOR
    """What the Batch API charges, relative to the above."""
    cached_per_million: float | None = None
    """Of input that the server had read before; None: as any other input."""
    source: str = ""
    """Who says so."""

    @property
    def is_free(self) -> bool:
        """Tell whether nothing is charged."""
        return not self.input_per_million and not self.output_per_million

    def cost(
        self, input_tokens: float, output_tokens: float, *, cached: int = 0, batch: bool = False
    ) -> float:
        """Return the price of so many tokens in US dollars; `cached` is part of the input."""
        old = self.input_per_million if self.cached_per_million is None else self.cached_per_million
        cost = (input_tokens - cached) * self.input_per_million + cached * old
        cost += output_tokens * self.output_per_million
        return cost / 1e6 * (self.batch_factor if batch else 1.0)

    def bill(self, reply: ChatReply, *, batch: bool = False) -> float:
        """Return what a reply cost."""
        return self.cost(
            reply.input_tokens, reply.output_tokens, cached=reply.cached_tokens, batch=batch
        )


FREE = Price(input_per_million=0.0, output_per_million=0.0, source="runs here")


def find_price(
    model: str, *, base_url: str | None = None, table: Path | None = None
) -> Price | None:
    """Return the price of a model, the user's table first; None if it is not known.

    Args:
        model: name as the server knows it. A dated name such as `gpt-4o-2024-11-20` takes the price
            of the name it begins with.
        base_url: address of the server; None: OpenAI. Where its provider is not known (a proxy,
            Azure), OpenAI's price of a model of that name stands.
        table: TOML file with a table for each model: `["NAME"]`, `input_per_million`,
            `output_per_million` and, if wanted, `cached_per_million` and `batch_factor`.

    Raises:
        DataError: the table cannot be used.
    """
    if table is not None:
        prices = read_prices(table)
        starts = [name for name in prices if model == name or model.startswith(f"{name}-20")]
        if starts:
            return prices[max(starts, key=len)]
    return _listed(model, base_url)


def price_for(
    model: str,
    *,
    base_url: str | None = None,
    table: Path | None = None,
    max_cost_usd: float | None = None,
) -> Price | None:
    """Return the price of a model as `find_price` does, with a word where a limit depends on it.

    Raises:
        DataError: the price is not known and there is a limit of cost; or the table is none.
    """
    price = find_price(model, base_url=base_url, table=table)
    if price is None and max_cost_usd is not None:
        raise DataError(
            f"no price for {model!r}, so --max-cost cannot be kept. Give --prices FILE."
        )
    return price


def read_prices(table: Path) -> dict[str, Price]:
    """Read a user's prices.

    Raises:
        DataError: the file is absent, is not TOML or lacks a price; names the file and the model.
    """
    try:
        with table.open("rb") as handle:
            models = tomllib.load(handle)
        return {name: _price(values, table) for name, values in models.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'not a usable price table ({error}): {table}. Write ["model-name"], '
            "input_per_million = 2.5 and output_per_million = 10.0."
        ) from None


def _price(values: dict[str, float], table: Path) -> Price:
    numbers = {name: float(value) for name, value in values.items()}
    if any(number < 0 for number in numbers.values()):
        raise ValueError("a price is negative")
    return Price(**numbers, source=str(table))


def _listed(model: str, base_url: str | None) -> Price | None:
    import genai_prices  # noqa: PLC0415 - its table takes 0.15 s to import

    # Some prices rise with the length of a request; ours are far shorter than that.
    usage = genai_prices.Usage(input_tokens=_PROBE, output_tokens=_PROBE)
    places: list[dict[str, str]] = [{"provider_id": "openai"}]
    if base_url is not None:
        places.insert(0, {"provider_api_url": base_url})
    for place in places:
        try:
            found = genai_prices.calc_price(usage, model, **place)  # type: ignore[call-overload]
            warm = genai_prices.calc_price(
                genai_prices.Usage(input_tokens=_PROBE, cache_read_tokens=_PROBE),
                model,
                **place,
            )  # type: ignore[call-overload]
        except LookupError:
            continue
        version = genai_prices.__version__
        return Price(
            input_per_million=float(found.input_price) / _PROBE * 1e6,
            output_per_million=float(found.output_price) / _PROBE * 1e6,
            cached_per_million=float(warm.input_price) / _PROBE * 1e6,
            source=f"genai-prices {version}: {found.provider.id}/{found.model.id}",
        )
    return None
