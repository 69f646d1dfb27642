"""The seam between a conversation and whoever shows it: terminal, pipe or page.

`session` answers with a model loaded here, `remote` with a server; both keep the turns, stream an
answer in pieces, and can be stopped between two pieces.
"""

from collections.abc import Generator, Sequence
from typing import Protocol

from PIL import Image

from medllava.chat.config import Answer
from medllava.data.conversation import user_turn
from medllava.records import Turn

__all__ = ["Conversation", "user_turn"]


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

    def show(self, image: Image.Image) -> None:
        """Show an RGB image with the next question."""
        ...

    def ask(self, text: str) -> Generator[str]:
        """Answer a question, yielding text as it comes.

        Closing the iterator early ends the answer; what was said so far stays in the turns.

        Raises:
            DataError: the conversation no longer fits in the model's context.
            RemoteError: the server gave no answer.
        """
        ...

    def clear(self) -> None:
        """Forget turns and images."""
        ...

    def forget(self) -> None:
        """Free what only saves time; the conversation stays."""
        ...
