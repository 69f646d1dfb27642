"""Who writes the conversations: one name to one `ChatModel`, its price and its way of being asked.

`conversations` hands it requests and takes outcomes, whether they come one by one or by batch.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.llm.ledger import Ledger
from medllava.llm.prices import FREE, Price, price_for
from medllava.llm.protocol import ChatModel, ChatRequest
from medllava.llm.runner import Limits, Outcome, Useless, run_requests
from medllava.progress import Progress

LEDGER = "ledger.jsonl"
"""Every request and reply, with usage and cost."""
LOCAL, RECORDED = "local:", "recorded:"
_ROOM = ("max_tokens", "max_completion_tokens", "max_new_tokens")
_RESERVED = {"model", "messages", "stream", "n", "response_format", "tools", "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """What `--request` says, each where it belongs."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    timeout_seconds: float | None = None
    max_retries: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Parameters that go into the body as they are."""

    def apply(self, request: ChatRequest) -> ChatRequest:
        """Return a request with what the user set."""
        changes: dict[str, Any] = {"extra": self.extra} if self.extra else {}
        if self.max_new_tokens is not None:
            changes["max_new_tokens"] = self.max_new_tokens
        if self.temperature is not None:
            changes["temperature"] = self.temperature
        return replace(request, **changes) if changes else request


def parse_request_options(options: list[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` options; a value that is JSON (a number, true, an object) is read as such.

    Raises:
        DataError: one has no `=`.
    """
    values: dict[str, Any] = {}
    for option in options:
        name, sign, text = option.partition("=")
        if not sign or not name.strip():
            raise DataError(f"--request takes KEY=VALUE, got {option!r}.")
        try:
            values[name.strip()] = json.loads(text)
        except ValueError:
            values[name.strip()] = text
    return values


def read_request_settings(values: dict[str, Any]) -> RequestSettings:
    """Sort the parameters of a request.

    Raises:
        DataError: one is ours to set, or has the wrong type; names it.
    """
    given: dict[str, Any] = {"extra": {}}
    for name, value in values.items():
        if name in _RESERVED:
            raise DataError(f"--request {name} is set by the step itself. Leave it out.")
        if name in _ROOM:
            given["max_new_tokens"] = _number(name, value, int)
        elif name == "temperature":
            given["temperature"] = _number(name, value, float)
        elif name == "timeout":
            given["timeout_seconds"] = _number(name, value, float)
        elif name == "retries":
            given["max_retries"] = _number(name, value, int)
        elif name == "extra_body" and isinstance(value, dict):
            given["extra"] |= value
        else:
            given["extra"][name] = value
    return RequestSettings(**given)


def _number(name: str, value: object, kind: type[int] | type[float]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise DataError(f"--request {name} takes a number, got {value!r}.")
    return kind(value)


class Teacher:
    """A language model together with how to ask it; opened before anything is written."""

    def __init__(self, config: GenerateConfig, name: str | None = None) -> None:
        """Check the settings and open the model.

        Args:
            config: of the run.
            name: of the model; None: the teacher's.

        Raises:
            SetupError: the model cannot be opened, or its key is not in the environment.
            DataError: the price table or the recording cannot be used, `--batch` was asked of a
                model that has none, or there is a budget and no price.
        """
        self._config = config
        self._name = name or config.teacher
        self.price = teacher_price(config, self._name)
        self.model = open_model(config, self._name)

    def ask(
        self,
        requests: Iterable[ChatRequest],
        *,
        ledger: Ledger,
        progress: Progress,
        useless: Useless | None = None,
    ) -> Iterator[Outcome]:
        """Yield an outcome for each request, in order."""
        config = self._config
        if config.batch:
            from medllava.llm.batch import BatchLimits, run_batches  # noqa: PLC0415 - rarely used
            from medllava.llm.client import OpenAIModel  # noqa: PLC0415 - slow to import

            if not isinstance(self.model, OpenAIModel):
                raise DataError(f"no Batch API: {self._name}. Leave --batch out.")
            sizes = {} if config.batch_size is None else {"most_requests": config.batch_size}
            return run_batches(
                self.model,
                requests,
                ledger=ledger,
                folder=config.output_dir,
                limits=BatchLimits(
                    max_cost_usd=config.max_cost_usd,
                    poll_seconds=config.poll_seconds,
                    retry_refused=config.retry_refused,
                    **sizes,
                ),
                price=self.price,
                useless=useless,
                progress=progress,
            )
        limits = Limits(
            concurrency=1 if self._name.startswith(LOCAL) else config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            max_cost_usd=config.max_cost_usd,
            retry_refused=config.retry_refused,
            # A recording may lack any number of replies and costs nothing.
            **({"most_in_vain": sys.maxsize} if self._name.startswith(RECORDED) else {}),
        )
        return run_requests(
            self.model,
            requests,
            ledger=ledger,
            limits=limits,
            price=self.price,
            useless=useless,
            progress=progress,
        )


def open_model(config: GenerateConfig, name: str) -> ChatModel:
    """Return the model behind a name: `local:FOLDER`, `recorded:FILE` or a server's."""
    if name.startswith(LOCAL):
        from medllava.llm.local import LocalModel  # noqa: PLC0415 - imports torch

        return LocalModel(name.removeprefix(LOCAL))
    if name.startswith(RECORDED):
        from medllava.llm.recorded import RecordedModel  # noqa: PLC0415 - as its neighbors

        return RecordedModel(Path(name.removeprefix(RECORDED)))
    from medllava.llm.client import OpenAIModel  # noqa: PLC0415 - slow to import

    settings = read_request_settings(config.request)
    more = {} if settings.max_retries is None else {"max_retries": settings.max_retries}
    return OpenAIModel(
        name,
        base_url=config.base_url,
        timeout_seconds=settings.timeout_seconds or config.timeout_seconds,
        **more,
    )


def teacher_price(config: GenerateConfig, name: str) -> Price | None:
    """Return what a model costs; one that runs here is free. None: not known.

    Raises:
        DataError: the price is not known, and a budget depends on it.
    """
    if name.startswith((LOCAL, RECORDED)):
        return FREE
    return price_for(
        name, base_url=config.base_url, table=config.prices, max_cost_usd=config.max_cost_usd
    )
