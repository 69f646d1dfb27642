"""How a model is asked to speak: what a user may set about the choice of tokens. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and when an answer is over."""

    max_new_tokens: int = 512
    """An answer is cut here."""
    temperature: float = 0.0
    """0 takes the likeliest token always; higher is more varied."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability are drawn from."""
    top_k: int | None = None
    """Only so many likeliest tokens are drawn from; unset follows the checkpoint."""
    repetition_penalty: float | None = None
    """Divides the score of what was said; 1 is none; unset follows the checkpoint."""
    stop: tuple[str, ...] | None = None
    """An answer ends before any of these; unset follows the checkpoint."""
    seed: int = 0
    """Of the draws; the same seed and questions give the same answers."""

    def follow(self, generation_config: Any) -> "Sampling":  # noqa: ANN401 - transformers' own
        """Return these settings with what is unset taken from a checkpoint's generation config."""
        own = generation_config
        stop = getattr(own, "stop_strings", None) or ()
        return replace(
            self,
            top_k=_given(self.top_k, getattr(own, "top_k", None), 0),
            repetition_penalty=_given(
                self.repetition_penalty, getattr(own, "repetition_penalty", None), 1.0
            ),
            stop=tuple(self.stop if self.stop is not None else _listed(stop)),
        )


def _given(*values: Any) -> Any:  # noqa: ANN401 - the first that is set
    return next((value for value in values if value is not None), None)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
