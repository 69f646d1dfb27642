"""Something that happens to a training run once it has done some steps: a kill, a full disk."""

from collections.abc import Callable

from medllava.progress import SilentProgress


class AtStep(SilentProgress):
    """Calls `action`, once, when so many steps are done; what it raises ends the run there."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self._left = step
        self._action: Callable[[], object] | None = action
        self._is_training = False

    def start(self, phase: str, *, total: int | None = None) -> None:
        self._is_training = phase.startswith("train")

    def advance(self, count: int = 1) -> None:
        if self._is_training and count:
            self._left -= count
        if self._left <= 0 and self._action is not None:
            action, self._action = self._action, None
            action()
