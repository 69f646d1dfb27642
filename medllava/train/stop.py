"""SIGTERM, as a cluster sends before it ends a job: noted, and acted upon after the step."""

import signal


class StopRequest:
    """Turns SIGTERM into a flag.

    One that begins while another listens takes up what that one heard: a rank listens from its
    first moment, because one that died of the signal would leave the others waiting for it.
    """

    def __init__(self) -> None:
        """Listen."""
        before = signal.getsignal(signal.SIGTERM)
        outer = getattr(before, "__self__", None)
        self.is_set: bool = isinstance(outer, StopRequest) and outer.is_set
        self._before = signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True

    def close(self) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._before)
