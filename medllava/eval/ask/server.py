"""Answers from a server: vLLM, SGLang, `transformers serve`, any that speaks OpenAI's API.

Asks enter, replies leave as they come, many in flight. The server batches them and keeps the
prefixes of images; asks about one image are sent one after another so that it can.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from medllava.errors import RemoteError
from medllava.eval.ask.predict import BLANK, Ask, Batch, Refused, blank_image
from medllava.eval.config import DecodingConfig
from medllava.images.encode import image_address
from medllava.images.load import load_image
from medllava.llm.client import OpenAIModel
from medllava.llm.ledger import Ledger
from medllava.llm.protocol import ChatModel, ChatRequest, Message
from medllava.llm.replies import (
    CONTENT_FILTER,
    EMPTY,
    LENGTH,
    REFUSAL,
    TOOL_CALLS,
    useless_reason,
)
from medllava.llm.runner import Limits, Outcome, run_requests

_CONCURRENCY = 32
_BATCH = 16
"""Replies written down together."""
_ENCODED_IMAGES = 64
_SAID_NOTHING = frozenset({REFUSAL, CONTENT_FILTER, EMPTY, LENGTH, TOOL_CALLS})
"""Outcomes of a model that was asked, twice, and gave nothing to score."""


class ServerAnswerer:
    """An `Answerer` on the other side of HTTP."""

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None,
        decoding: DecodingConfig,
        ledger: Path,
        show: Callable[[Image.Image], Image.Image] = lambda image: image,
    ) -> None:
        """Remember whom to ask.

        Args:
            model: name as the server knows it.
            base_url: address that ends in `/v1`.
            decoding: length, temperature and how many requests are in flight.
            ledger: file of requests and replies.
            show: makes of a picture what is sent; unset sends it as it is.

        Raises:
            SetupError: the address is OpenAI's and there is no key.
        """
        self._model: ChatModel = OpenAIModel(model, base_url=base_url)
        self._decoding = decoding
        self._ledger = ledger
        self._address = lru_cache(maxsize=_ENCODED_IMAGES)(lambda image: _address(image, show))

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies in order; see `predict.Answerer`.

        Raises:
            DataError: an image cannot be read.
            RemoteError: the server gave no answer after retries, or nothing of use to six
                questions in a row.
        """
        todo = sorted((ask for ask in asks if not is_done(ask)), key=lambda ask: ask.image or "")
        concurrency = self._decoding.batch_size or _CONCURRENCY
        # Requests hold their pictures, so not many wait.
        limits = Limits(concurrency=concurrency, window=2 * concurrency)
        batch: Batch = []
        with Ledger(self._ledger) as ledger:
            outcomes = run_requests(
                self._model,
                map(self._request, todo),
                ledger=ledger,
                limits=limits,
                useless=useless_reason,
            )
            for ask, outcome in zip(todo, outcomes, strict=True):
                batch.append((ask, _reply_of(ask, outcome)))
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _request(self, ask: Ask) -> ChatRequest:
        images = tuple(self._address(image) for image in ask.images)
        return ChatRequest(
            request_id=f"{ask.condition} {ask.seed} {ask.id}",
            messages=(Message(role="user", content=ask.text, images=images),),
            max_new_tokens=self._decoding.max_new_tokens,
            temperature=self._decoding.temperature,
            seed=ask.seed,
        )


def _reply_of(ask: Ask, outcome: Outcome) -> str | Refused:
    """Return what was said, or that nothing was: a model that refuses has not answered."""
    if outcome.reply is not None:
        return outcome.reply.text.strip()
    if outcome.reason in _SAID_NOTHING:
        return Refused(reason=outcome.reason)
    if outcome.is_final:
        return Refused(reason=CONTENT_FILTER)
    raise RemoteError(
        f"no answer to question {ask.id!r} ({outcome.reason}): {outcome.detail} "
        "Run again; what was answered is kept."
    )


def _address(image: str, show: Callable[[Image.Image], Image.Image]) -> str:
    """Return the picture that our own engine would see as a PNG in a `data:` address."""
    return image_address(show(blank_image() if image == BLANK else load_image(Path(image))))
