"""How a step reports progress without knowing who watches.

Library code calls the `Progress` protocol; the command line draws it with rich on a terminal, and
`SilentProgress` serves everyone else. Nothing here writes to stdout or stderr.
"""

from typing import Protocol


class Progress(Protocol):
    """Receives the life of one step: phases that start, advance and leave notes."""

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Begin a phase of `total` units (None: unknown); a phase still open ends here."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more finished units of the current phase."""

    def note(self, message: str) -> None:
        """Tell the user one thing worth a line, such as a fallback that was taken."""


class SilentProgress:
    """A `Progress` that says nothing; the default of every step function."""

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Ignore the phase."""

    def advance(self, count: int = 1) -> None:
        """Ignore the count."""

    def note(self, message: str) -> None:
        """Ignore the message."""
