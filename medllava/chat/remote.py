"""A conversation with a server: vLLM, SGLang, `transformers serve`, all that speak OpenAI's API.

The whole conversation is sent each time; keeping a cache is the server's business. Images travel
inside the request as PNG, whatever they were, so the server needs no DICOM reader and no file.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import cast

from PIL import Image

from medllava.chat.config import Answer, Options
from medllava.chat.conversation import from_first_word
from medllava.data.conversation import user_turn
from medllava.errors import DataError
from medllava.images.encode import image_address
from medllava.llm.protocol import ChatModel, ChatRequest, Message
from medllava.model.sampling import Sampling
from medllava.records import IMAGE_TOKEN, Turn


class RemoteConversation:
    """A `Conversation` whose answers come from a `ChatModel`."""

    def __init__(
        self,
        model: ChatModel,
        sampling: Sampling,
        *,
        show: Callable[[Image.Image], Image.Image] = lambda image: image,
    ) -> None:
        """Begin an empty conversation.

        Args:
            model: that answers.
            sampling: of its answers.
            show: makes of a picture what is sent; unset sends it as it is.
        """
        self._model = model
        self._sampling = sampling
        self._show = show
        self._messages: list[Message] = []
        self._turns: list[Turn] = []
        self._last: Answer | None = None

    @property
    def turns(self) -> Sequence[Turn]:
        """Everything said, in order."""
        return tuple(self._turns)

    @property
    def last_answer(self) -> Answer | None:
        """Facts about the newest answer; None before the first. Servers tell no token counts."""
        return self._last

    def clear(self) -> None:
        """Forget turns and images."""
        self._messages, self._turns, self._last = [], [], None

    def forget(self) -> None:
        """Do nothing: there is no cache here."""

    def look(
        self,
        images: Sequence[Image.Image],  # noqa: ARG002 - as the protocol has it
        number: int = 0,  # noqa: ARG002
    ) -> list[list[float]]:
        """Refuse: servers do not tell how likely they find an answer that was given.

        Raises:
            DataError: always.
        """
        raise DataError("a server does not tell where it looks. Load the model here for that.")

    def restore(self, turns: Sequence[Turn], images: Sequence[Sequence[Image.Image]]) -> None:
        """Begin with what was said elsewhere; see `Conversation.restore`."""
        self._turns, self._last = list(turns), None
        self._messages = [
            self._message(turn, shown) for turn, shown in zip(turns, images, strict=True)
        ]

    def ask(
        self, text: str, images: Sequence[Image.Image] = (), options: Options | None = None
    ) -> Generator[str]:
        """Answer a question, yielding text as it comes; see `Conversation.ask`."""
        started = time.perf_counter()
        options = options or Options()
        sampling = options.sampling or self._sampling
        turn = user_turn(text, num_images=len(images))
        asked = self._message(turn, images)
        earlier, turns = self._messages[: options.keep], self._turns[: options.keep]
        system = [Message(role="system", content=options.system)] if options.system else []
        request = ChatRequest(
            request_id=f"chat-{len(earlier)}",
            messages=(*system, *earlier, asked),
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
        )
        said, first, reason = "", 0.0, "interrupted"
        ending = _Ending()
        try:
            for piece in from_first_word(ending.watch(self._model.stream(request))):
                first = first or time.perf_counter() - started
                said += piece
                yield piece
            reason = ending.reason
        finally:
            said = said.strip()
            if said or reason != "interrupted":
                self._messages = [*earlier, asked, Message(role="assistant", content=said)]
                self._turns = [*turns, turn, Turn(role="assistant", content=said)]
            self._last = Answer(
                text=said,
                finish_reason=reason,
                first_token_seconds=first,
                seconds=time.perf_counter() - started,
            )

    def _message(self, turn: Turn, images: Sequence[Image.Image]) -> Message:
        return Message(
            role=turn.role,
            content=turn.content.replace(IMAGE_TOKEN, "").strip(),
            images=tuple(image_address(self._show(image)) for image in images),
        )


class _Ending:
    """Why a stream ended: what its generator returned, where it tells."""

    reason = "stop"

    def watch(self, pieces: Iterator[str]) -> Iterator[str]:
        """Pass on all pieces and keep the reason."""
        # Only some streams return a reason; for the type checker an iterator returns nothing.
        told = yield from cast("Generator[str, None, str | None]", pieces)
        self.reason = told or self.reason
