"""The one loop in which a model answers: chat lets one answer grow, evaluation a batch of them.

A `Decoder` is a model with what ends its answers; each answer is a `Speaker`, who chooses its next
token and knows when it is over; `decode` lets speakers go on together, token by token. Whose keys
and values are cached, and which prompts share them, is the business of the caller. The order of
the steps of a choice is transformers': repetition penalty, temperature, top-k, top-p.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache
from transformers.generation.configuration_utils import CompileConfig

from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling

Advance = Callable[[list[int], list[int] | None], Tensor]
"""Takes the new token of each speaker that goes on and, where others have ended, which of the rows
of the last step these are; returns their next logits (R, V)."""

_CROPPABLE = {"full_attention", "sliding_attention", "chunked_attention"}
_PENDING = "\ufffd"
"""Decoding ends in it while a character's bytes are not complete."""


class Decoder:
    """A loaded model, one step of it, and what ends its answers."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Hold the model; several conversations may share one."""
        self.model: Any = loaded.model
        self.tokenizer: Any = loaded.processor.tokenizer
        weight: Any = self.model.get_input_embeddings().weight
        self.device: torch.device = weight.device
        text_config = self.model.config.get_text_config()
        self.context_length = int(getattr(text_config, "max_position_embeddings", 0) or 2**31)
        kinds = getattr(text_config, "layer_types", None) or []
        self.can_crop = set(kinds) <= _CROPPABLE
        """Whether a cache can be cut back: linear attention keeps a state, not tokens."""
        stated = self.model.generation_config.eos_token_id
        ends = {*stated} if isinstance(stated, list | tuple) else {stated}
        self.end_ids = {int(i) for i in ends | {self.tokenizer.eos_token_id} if i is not None}
        # transformers 5.2x renamed the argument and drops the old name in 5.40.
        forward = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in forward else "past_key_values"

    def new_cache(self) -> DynamicCache:
        """Return an empty cache; one without the configuration keeps all tokens of all layers.

        Sliding-window layers mask what they must not see, and only such a cache can be cut back.
        """
        config = self.model.config.get_text_config()
        return DynamicCache() if self.can_crop else DynamicCache(config=config)

    @property
    def can_fix(self) -> bool:
        """Tell whether a cache laid out once can hold all that these layers see."""
        kinds = getattr(self.model.config.get_text_config(), "layer_types", None) or []
        return set(kinds) <= {"full_attention"}

    @property
    def bytes_per_token(self) -> int:
        """Memory of the keys and values of one token of one row."""
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(2 * text.num_hidden_layers * heads * width * self.model.dtype.itemsize)

    def fixed_cache(self, length: int) -> StaticCache:
        """Return an empty cache whose memory is laid out once, for `length` tokens a row."""
        return StaticCache(config=self.model.config.get_text_config(), max_cache_len=length)

    def step(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        pixels: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        compiled: bool = False,
    ) -> Tensor:
        """Run new tokens through the model; its cache grows by them.

        Args:
            ids: (B, T), image tokens spread.
            cache: of what came before.
            pixels: (N, C, H, W) of the images among the new tokens.
            mask: (B, past + T), 0 for padding; None where there is none.
            positions: (B, T) position ids; None goes on where the cache ends.
            compiled: run as a captured graph, which wants the same shapes and the same fixed cache
                in every step.

        Returns:
            Logits (B, V) of what follows.
        """
        forward = self._compiled if compiled else self.model
        output = forward(
            input_ids=ids,
            pixel_values=None if pixels is None else pixels.to(self.device, self.model.dtype),
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: cache},
        )
        logits: Tensor = output.logits[:, -1]
        return logits.clone() if compiled else logits  # the next step writes over a graph's own

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 - transformers has no types
        """The model as transformers' own generation compiles it: one captured graph a shape."""
        return self.model.get_compiled_call(CompileConfig())

    def speaker(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        streams: bool,
        device: torch.device | None = None,
    ) -> "Speaker":
        """Return who answers a prompt.

        Args:
            prompt: ids of what was said before.
            sampling: what is unset in it follows the checkpoint.
            streams: text is wanted as it grows, not only at the end.
            device: of the draws; None: the model's.
        """
        followed = sampling.follow(self.model.generation_config)
        reply = Reply(self._text, end_ids=self.end_ids, stop=followed.stop or (), streams=streams)
        return Speaker(prompt, Draws(followed, device=device or self.device), reply)

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.lstrip()


class Draws:
    """Takes the likeliest token, or draws one; the same seed draws the same."""

    def __init__(self, sampling: Sampling, *, device: torch.device) -> None:
        """Hold settings in which nothing is unset; see `Sampling.follow`."""
        self._sampling = sampling
        self._penalty = float(sampling.repetition_penalty or 1.0)
        self._generator = torch.Generator(device).manual_seed(sampling.seed)
        self.is_plain = sampling.temperature <= 0 and self._penalty == 1.0
        """The likeliest token always, whatever was said: a whole batch can choose at once."""

    def choose(self, logits: Tensor, said: Sequence[int]) -> int:
        """Choose by logits (V,) what follows the ids `said`, prompt included."""
        how, logits = self._sampling, logits.float()
        if self._penalty != 1.0:
            logits = _penalize(logits, said, self._penalty)
        if how.temperature <= 0:
            return int(logits.argmax())
        scores, order = (logits / how.temperature).to(self._generator.device), None
        if how.top_k or how.top_p < 1:
            scores, order = scores.sort(descending=True)
            if how.top_k:
                scores[how.top_k :] = -torch.inf
        probabilities = torch.softmax(scores, -1)
        if how.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities  # the likeliest token always stays
            probabilities = probabilities.masked_fill(before >= how.top_p, 0.0)
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(drawn if order is None else order[drawn])


class Reply:
    """An answer as it grows: tokens in, text that may be shown out.

    Held back is what is not yet whole: a character of several tokens, the beginning of a stop
    string.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        *,
        end_ids: set[int],
        stop: Sequence[str],
        streams: bool = True,
    ) -> None:
        """Begin empty.

        Args:
            decode: all ids so far to text.
            end_ids: tokens that end an answer.
            stop: texts that end it, and are not part of it.
            streams: text is wanted as it grows; otherwise `rest` gives all of it.
        """
        self._decode = decode
        self._end_ids = end_ids
        self._stop = [text for text in stop if text]
        self._is_read = streams or bool(self._stop)
        self.ids: list[int] = []
        self.text = ""
        self.is_over = False
        self.end_id: int | None = None
        """Token that ended it; not among `ids`."""
        self._length: int | None = None  # of the text before a stop string

    def take(self, token: int) -> str:
        """Add a token; return what may be shown because of it."""
        if token in self._end_ids:
            self.is_over, self.end_id = True, token
            return self.rest()
        self.ids.append(token)
        if not self._is_read:
            return ""
        decoded = self._decode(self.ids)
        if decoded.endswith(_PENDING):
            return ""
        ends = [decoded.index(stop) for stop in self._stop if stop in decoded]
        if ends:
            self.is_over, self._length = True, min(ends)
            return self.rest()
        return self._show(decoded[: len(decoded) - self._num_held(decoded)])

    def rest(self) -> str:
        """Return what was held back, now that nothing follows."""
        decoded = self._decode(self.ids)[: self._length]
        return "" if decoded[len(self.text) :] == _PENDING else self._show(decoded)

    def _show(self, text: str) -> str:
        if len(text) <= len(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def _num_held(self, text: str) -> int:
        starts = ((stop, size) for stop in self._stop for size in range(1, len(stop)))
        return max((size for stop, size in starts if text.endswith(stop[:size])), default=0)


class Speaker:
    """Who answers one prompt: how tokens are chosen, and the reply they make."""

    def __init__(self, prompt: Sequence[int], draws: Draws, reply: Reply) -> None:
        """Begin where the prompt ends."""
        self._prompt = prompt
        self.draws = draws
        self.reply = reply

    def choose(self, logits: Tensor) -> int:
        """Choose by logits (V,) what follows."""
        return self.draws.choose(logits, [*self._prompt, *self.reply.ids])


class Rows:
    """Keys, values and padding of answers that grow together, one row each."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        cache: DynamicCache | None = None,
        past: int = 0,
    ) -> None:
        """Lay out prompts of different lengths, padded on the left.

        Args:
            decoder: model.
            prompts: ids that are still to be read, image tokens spread.
            cache: of what every row has read already; None: of nothing.
            past: tokens in it.
        """
        self._decoder = decoder
        self._cache = decoder.new_cache() if cache is None else cache
        self._ids, self._mask = pad_left(decoder, prompts, past=past)

    @torch.inference_mode()
    def begin(self, *, pixels: Tensor | None = None, answers: int = 1) -> Tensor:
        """Read the prompts, each once, and return the logits of every answer's first token.

        Args:
            pixels: (N, C, H, W) of the images in the prompts, row by row.
            answers: to each prompt; its rows follow one another.

        Returns:
            (B * answers, V).
        """
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        logits = self._decoder.step(
            self._ids, self._cache, pixels=pixels, mask=self._mask, positions=positions
        )
        if answers == 1:
            return logits
        self._cache.batch_repeat_interleave(answers)
        self._mask = self._mask.repeat_interleave(answers, dim=0)
        return logits.repeat_interleave(answers, dim=0)

    @torch.inference_mode()
    def advance(self, tokens: list[int], rows: list[int] | None) -> Tensor:
        """Go on by one token each; see `Advance`. Rows that have ended cost nothing more."""
        if rows is not None:
            kept = torch.tensor(rows, device=self._decoder.device)
            self._cache.batch_select_indices(kept)
            self._mask = self._mask[kept]
        ids = torch.tensor(tokens, device=self._decoder.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(ids), 1))], dim=1)
        positions = self._mask.sum(dim=1, keepdim=True) - 1
        return self._decoder.step(ids, self._cache, mask=self._mask, positions=positions)


def pad_left(
    decoder: Decoder, prompts: Sequence[Sequence[int]], *, past: int
) -> tuple[Tensor, Tensor]:
    """Return prompts as one tensor (B, T), padded on the left, and its mask (B, past + T)."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), decoder.tokenizer.pad_token_id or 0)
    mask = torch.zeros((len(prompts), past + longest), dtype=torch.long)
    mask[:, :past] = 1
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, past + longest - len(prompt) :] = 1
    return ids.to(decoder.device), mask.to(decoder.device)


@torch.inference_mode()
def decode(
    speakers: Sequence[Speaker], logits: Tensor, advance: Advance, *, max_new_tokens: int
) -> Iterator[tuple[Tensor, list[str]]]:
    """Let answers grow together until each is over or has `max_new_tokens`.

    Args:
        speakers: one per answer; their replies are what is made here.
        logits: (B, V) of the first token of each.
        advance: computes the next ones.
        max_new_tokens: nothing is computed beyond them.

    Yields:
        After each token, before the next is computed: the logits (R, V) it was chosen by, and what
        may be shown because of it, of every answer that was not over yet.
    """
    speaking = list(speakers)
    for left in reversed(range(max_new_tokens)):
        tokens = _choose(speaking, logits)
        pieces = [one.reply.take(token) for one, token in zip(speaking, tokens, strict=True)]
        yield logits, pieces
        kept = [row for row, one in enumerate(speaking) if not one.reply.is_over]
        if not kept or not left:
            break
        are_fewer = len(kept) < len(speaking)
        speaking = [speaking[row] for row in kept]
        logits = advance([tokens[row] for row in kept], kept if are_fewer else None)


def _choose(speakers: Sequence[Speaker], logits: Tensor) -> list[int]:
    if all(one.draws.is_plain for one in speakers):
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        return chosen
    return [one.choose(scores) for one, scores in zip(speakers, logits, strict=True)]


def _penalize(logits: Tensor, said: Sequence[int], penalty: float) -> Tensor:
    """Make every token that was said less likely. Source: CTRL, Keskar et al. 2019, section 4.1."""
    ids = torch.tensor(sorted(set(said)), device=logits.device)
    scores = logits[ids]
    penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits.scatter(0, ids, penalized)
