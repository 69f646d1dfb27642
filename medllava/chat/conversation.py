"""The seam between a conversation and whoever shows it: terminal, pipe or page.

`session` answers with a model loaded here, `remote` with a server; both keep the turns, stream an
answer in pieces, and can be stopped between two pieces.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Protocol

from PIL import Image

from medllava.chat.config import Answer, Options
from medllava.data.conversation import user_turn
from medllava.records import Turn

__all__ = ["Conversation", "from_first_word", "user_turn"]


class Conversation(Protocol):
    """One conversation about the images shown so far."""

    @property
    def turns(self) -> Sequence[Turn]:
        """Everything said, in order."""
        ...

    @property
    def last_answer(self) -> Answer | None:
        """Facts about the newest answer; None before the first."""
        ...

    def ask(
        self, text: str, images: Sequence[Image.Image] = (), options: Options | None = None
    ) -> Generator[str]:
        """Answer a question about `images` and all earlier ones, yielding text as it comes.

        This is the one way a conversation goes on: the question, its RGB pictures and the answer
        become part of it together, or not at all. Closing the iterator early ends the answer; what
        was said so far stays in the turns.

        Raises:
            DataError: the conversation no longer fits in the model's context.
            RemoteError: the server gave no answer.
        """
        ...

    def look(self, images: Sequence[Image.Image], number: int = 0) -> list[list[float]]:
        """Return which parts of a picture the last answer depends on; see `occlusion`.

        Args:
            images: those of the last question, as they were shown.
            number: of the one that is meant.

        Raises:
            DataError: there is no such answer or picture, or the model is on a server.
        """
        ...

    def restore(self, turns: Sequence[Turn], images: Sequence[Sequence[Image.Image]]) -> None:
        """Begin with what was said elsewhere; `images` has the pictures of every turn."""
        ...

    def clear(self) -> None:
        """Forget turns and images."""
        ...

    def forget(self) -> None:
        """Free what only saves time; the conversation stays."""
        ...


def from_first_word(pieces: Iterable[str]) -> Generator[str]:
    """Yield streamed text without the blanks before its first word, and no empty pieces."""
    has_begun = False
    for piece in pieces:
        text = piece if has_begun else piece.lstrip()
        if text:
            has_begun = True
            yield text
