"""Progress bars on a terminal, drawn by rich on stderr."""

from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medllava.printable import printable


class BarProgress:
    """A `medllava.progress.Progress` that draws one bar per phase."""

    def __init__(self) -> None:
        """Prepare the display; nothing is drawn before the first phase."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Close the bar of the last phase and open one for this."""
        self._close_task()
        self._task = self._bars.add_task(escape(printable(phase)), total=total)

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(printable(message), markup=False, highlight=False)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the last bar and stop drawing."""
        self._close_task()
        self._bars.stop()

    def _close_task(self) -> None:
        if self._task is None:
            return
        task = self._bars.tasks[self._task]
        if task.total is None:
            self._bars.update(
                self._task, total=max(task.completed, 1), completed=max(task.completed, 1)
            )
        self._bars.stop_task(self._task)
