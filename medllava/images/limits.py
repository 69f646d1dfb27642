"""What is refused before it is decoded, how much is decoded at once, and the error that says why.

A small file can claim a huge picture: sizes are checked on what the header says, and no more than
two large pictures are decoded at the same moment in one process, whichever door they came in by.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medllava.errors import DataError

MAX_PIXELS = 89_478_485
"""More is refused before decoding. Pillow's own limit, which is 256 MiB of RGB."""

MAX_BYTES = 512 * 2**20
"""Larger files are refused, and so is what unpacks to more; an address may send a quarter of it."""

LARGE_PIXELS = 16 * 2**20
"""From here on a picture waits for its turn: two of the largest take a gigabyte together."""

_LARGE_AT_ONCE = 2
_turns = threading.BoundedSemaphore(_LARGE_AT_ONCE)


class ImageError(DataError):
    """A picture cannot be used; `reason` is the word it is counted under."""

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep the reason apart from the sentence.

        Args:
            message: what is wrong, where, and what to do.
            reason: `image-missing`, `image-too-large`, `image-damaged`, `not-an-image` or
                `no-such-frame`.
        """
        super().__init__(message)
        self.reason = reason


def check_pixels(width: int, height: int, name: str, *, most: int | None = None) -> None:
    """Refuse a picture that would not fit in memory, before it is decoded.

    Args:
        width: as the header says.
        height: as the header says.
        name: of the source, for the message.
        most: pixels; unset is `MAX_PIXELS`.

    Raises:
        ImageError: more than that, or no pixels at all.
    """
    limit = MAX_PIXELS if most is None else most
    if width < 1 or height < 1:
        raise ImageError(
            f"the image has no pixels ({width} x {height}): {name}.", reason="image-damaged"
        )
    if width * height > limit:
        raise ImageError(
            f"the image has {width:,} x {height:,} pixels, more than {limit:,}: {name}. "
            f"Scale it down, or cut out the region.",
            reason="image-too-large",
        )


@contextmanager
def decoding(width: int, height: int) -> Iterator[None]:
    """Wait for a turn where the picture is large; small ones never wait."""
    if width * height < LARGE_PIXELS:
        yield
        return
    with _turns:
        yield


def _renew_turns() -> None:
    """Give a forked process turns of its own: a thread of the parent may hold what it copied."""
    global _turns
    _turns = threading.BoundedSemaphore(_LARGE_AT_ONCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)
