"""Which token comes next, and when an answer is over: settings of the user and of the checkpoint.

The order of the steps is transformers': repetition penalty, temperature, top-k, top-p.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medllava.chat.config import Sampling

_PENDING = "\ufffd"
"""Decoding ends in it while a character's bytes are not complete."""


def follow_checkpoint(sampling: Sampling, model: Any) -> Sampling:  # noqa: ANN401 - any transformers model
    """Return the settings with what is unset taken from the model's generation config."""
    own = model.generation_config
    stop = getattr(own, "stop_strings", None) or ()
    return replace(
        sampling,
        top_k=_given(sampling.top_k, getattr(own, "top_k", None), 0),
        repetition_penalty=_given(
            sampling.repetition_penalty, getattr(own, "repetition_penalty", None), 1.0
        ),
        stop=tuple(sampling.stop if sampling.stop is not None else _listed(stop)),
    )


class Draws:
    """Takes the likeliest token, or draws one; the same seed draws the same."""

    def __init__(self, sampling: Sampling, *, seed: int, device: torch.device) -> None:
        """Hold settings in which nothing is unset; see `follow_checkpoint`."""
        self._sampling = sampling
        self._generator = torch.Generator(device).manual_seed(seed)

    def choose(self, logits: Tensor, said: Sequence[int]) -> int:
        """Choose by logits (V,) what follows the ids `said`, prompt included."""
        how = self._sampling
        if how.repetition_penalty not in {None, 1.0}:
            logits = _penalize(logits, said, float(how.repetition_penalty or 1.0))
        if how.temperature <= 0:
            return int(logits.argmax())
        scores, order = (logits / how.temperature).sort(descending=True)
        if how.top_k:
            scores[how.top_k :] = -torch.inf
        probabilities = torch.softmax(scores, -1)
        if how.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities  # the likeliest token always stays
            probabilities = probabilities.masked_fill(before >= how.top_p, 0.0)
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])


class Reply:
    """An answer as it grows: tokens in, text that may be shown out.

    Held back is what is not yet whole: a character of several tokens, the beginning of a stop
    string.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], *, end_ids: set[int], stop: Sequence[str]
    ) -> None:
        """Begin empty.

        Args:
            decode: all ids so far to text.
            end_ids: tokens that end an answer.
            stop: texts that end it, and are not part of it.
        """
        self._decode = decode
        self._end_ids = end_ids
        self._stop = [text for text in stop if text]
        self.ids: list[int] = []
        self.text = ""
        self.is_over = False

    def take(self, token: int) -> str:
        """Add a token; return what may be shown because of it."""
        if token in self._end_ids:
            self.is_over = True
            return self.rest()
        self.ids.append(token)
        decoded = self._decode(self.ids)
        if decoded.endswith(_PENDING):
            return ""
        ends = [decoded.index(stop) for stop in self._stop if stop in decoded]
        if ends:
            self.is_over = True
            return self._show(decoded[: min(ends)])
        return self._show(decoded[: len(decoded) - self._num_held(decoded)])

    def rest(self) -> str:
        """Return what was held back, now that nothing follows."""
        decoded = self._decode(self.ids)
        return "" if decoded[len(self.text) :] == _PENDING else self._show(decoded)

    def _show(self, text: str) -> str:
        if len(text) <= len(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def _num_held(self, text: str) -> int:
        starts = ((stop, size) for stop in self._stop for size in range(1, len(stop)))
        return max((size for stop, size in starts if text.endswith(stop[:size])), default=0)


def _penalize(logits: Tensor, said: Sequence[int], penalty: float) -> Tensor:
    """Make every token that was said less likely. Source: CTRL, Keskar et al. 2019, section 4.1."""
    ids = torch.tensor(sorted(set(said)), device=logits.device)
    scores = logits[ids]
    penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits.scatter(0, ids, penalized)


def _given(*values: Any) -> Any:  # noqa: ANN401 - the first that is set
    return next((value for value in values if value is not None), None)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
