"""Who writes the conversations: one name to one `ChatModel`, its price and its way of being asked.

`conversations` hands it requests and takes outcomes, whether they come one by one or by batch.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.llm.ledger import Ledger
from medllava.llm.prices import FREE, Price, find_price
from medllava.llm.protocol import ChatModel, ChatRequest
from medllava.llm.runner import Limits, Outcome, run_requests
from medllava.progress import Progress

LOCAL, RECORDED = "local:", "recorded:"


class Teacher:
    """A language model together with how to ask it; opened before anything is written."""

    def __init__(self, config: GenerateConfig) -> None:
        """Check the settings and open the model.

        Raises:
            SetupError: the model cannot be opened, or its key is not in the environment.
            DataError: the price table or the recording cannot be used, `--batch` was asked of a
                model that has none, or there is a budget and no price.
        """
        self._config = config
        self.price = teacher_price(config)
        self.model = open_model(config)

    def ask(
        self, requests: Iterable[ChatRequest], *, ledger: Ledger, progress: Progress
    ) -> Iterator[Outcome]:
        """Yield an outcome for each request, in order."""
        config = self._config
        if config.batch:
            from medllava.llm.batch import BatchLimits, run_batches  # noqa: PLC0415 - rarely used
            from medllava.llm.client import OpenAIModel  # noqa: PLC0415 - slow to import

            if not isinstance(self.model, OpenAIModel):
                raise DataError(f"no Batch API: {config.teacher}. Leave --batch out.")
            return run_batches(
                self.model,
                requests,
                ledger=ledger,
                folder=config.output_dir,
                limits=BatchLimits(
                    max_cost_usd=config.max_cost_usd, poll_seconds=config.poll_seconds
                ),
                price=self.price,
                progress=progress,
            )
        limits = Limits(
            concurrency=1 if config.teacher.startswith(LOCAL) else config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            max_cost_usd=config.max_cost_usd,
        )
        return run_requests(
            self.model,
            requests,
            ledger=ledger,
            limits=limits,
            price=self.price,
            progress=progress,
        )


def open_model(config: GenerateConfig) -> ChatModel:
    """Return the model behind a teacher's name: `local:FOLDER`, `recorded:FILE` or a server's."""
    name = config.teacher
    if name.startswith(LOCAL):
        from medllava.llm.local import LocalModel  # noqa: PLC0415 - imports torch

        return LocalModel(name.removeprefix(LOCAL))
    if name.startswith(RECORDED):
        from medllava.llm.recorded import RecordedModel  # noqa: PLC0415 - as its neighbours

        return RecordedModel(Path(name.removeprefix(RECORDED)))
    from medllava.llm.client import OpenAIModel  # noqa: PLC0415 - slow to import

    return OpenAIModel(name, base_url=config.base_url, timeout_seconds=config.timeout_seconds)


def teacher_price(config: GenerateConfig) -> Price:
    """Return what the teacher costs; models here, and servers of one's own, are free.

    Raises:
        DataError: the price of a model of OpenAI's is not known, and a budget depends on it.
    """
    if config.teacher.startswith((LOCAL, RECORDED)):
        return FREE
    price = find_price(config.teacher, table=config.prices)
    if price is None and config.max_cost_usd is not None:
        raise DataError(
            f"no price for {config.teacher!r}, so --max-cost cannot be kept. Give --prices FILE."
        )
    return price or FREE
