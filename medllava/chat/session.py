"""A conversation with a model loaded here: every token is computed once.

The key-value cache lives as long as the conversation, so the image is encoded with the first
question only and a later question costs its own tokens. Each turn renders the whole conversation
through the model's chat template; whatever the cache already holds of it is kept, and the rest is
computed, so an answer never depends on what was cached.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import inspect
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from medllava.chat.config import Answer, Sampling
from medllava.data.conversation import needs_special_tokens, render_prompt, user_turn
from medllava.data.pixels import PixelReader
from medllava.errors import DataError
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.records import IMAGE_TOKEN, Turn

_CROPPABLE = {"full_attention", "sliding_attention", "chunked_attention"}
_PENDING = "\ufffd"
"""Decoding ends in it while a character's bytes are not complete."""


class ChatSession:
    """A `Conversation` with a model in memory. Not for two threads at once."""

    def __init__(self, loaded: LoadedModel, *, sampling: Sampling) -> None:
        """Begin an empty conversation; several may share one loaded model."""
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._tokenizer: Any = loaded.processor.tokenizer
        self._reader = PixelReader(self._processor.image_processor)
        self._sampling = sampling
        weight: Any = self._model.get_input_embeddings().weight
        self._device: torch.device = weight.device
        self._cache_name = _cache_name(self._model)
        self._limit = _context_length(self._model)
        self._can_crop = _can_crop(self._model)
        self._end_ids = _end_ids(self._model, self._tokenizer)
        self._turns: list[Turn] = []
        self._pixels: list[Tensor] = []
        self._num_pending = 0
        self._last: Answer | None = None
        self.forget()

    @property
    def turns(self) -> Sequence[Turn]:
        """Everything said, in order."""
        return tuple(self._turns)

    @property
    def last_answer(self) -> Answer | None:
        """Facts about the newest answer; None before the first."""
        return self._last

    def show(self, image: Image.Image) -> None:
        """Show an RGB image with the next question; only its (1, C, H, W) pixel values are kept."""
        self._pixels.append(self._reader.prepare([image]))
        self._num_pending += 1

    def clear(self) -> None:
        """Forget turns and images."""
        self._turns, self._pixels, self._num_pending, self._last = [], [], 0, None
        self.forget()

    def forget(self) -> None:
        """Free the cache; the conversation stays, and its next turn computes everything again."""
        self._cache = _new_cache(self._model, can_crop=self._can_crop)
        self._cached: list[int] = []

    def ask(self, text: str) -> Generator[str]:
        """Answer a question, yielding text as it comes; see `Conversation.ask`."""
        started = time.perf_counter()
        asked = [*self._turns, user_turn(text, num_images=self._num_pending)]
        input_ids = self._encode(asked)
        room = min(self._sampling.max_new_tokens, self._limit - len(input_ids))
        if room < 1:
            raise DataError(
                f"the conversation has {len(input_ids):,} tokens, and the model reads "
                f"{self._limit:,}. Start again with /clear, or show fewer images."
            )
        num_cached = self._keep_common(input_ids)
        reply: list[int] = []
        said, reason, first = "", "interrupted", 0.0
        try:
            for token in self._tokens(input_ids, num_new=room):
                first = first or time.perf_counter() - started
                if token in self._end_ids:
                    reason = "stop"
                    break
                reply.append(token)
                decoded = self._decode(reply)
                if not decoded.endswith(_PENDING) and len(decoded) > len(said):
                    piece, said = decoded[len(said) :], decoded
                    yield piece
            else:
                reason = "length"
                if (rest := self._decode(reply)[len(said) :]) and rest != _PENDING:
                    said += rest
                    yield rest
        finally:
            if said or reason != "interrupted":
                answer = Turn(role="assistant", content=said.replace(IMAGE_TOKEN, "").strip())
                self._turns, self._num_pending = [*asked, answer], 0
            self._last = Answer(
                text=said.strip(),
                finish_reason=reason,
                input_tokens=len(input_ids),
                cached_tokens=num_cached,
                output_tokens=len(reply),
                first_token_seconds=first,
                seconds=time.perf_counter() - started,
            )

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids of the whole conversation, every image spread over its tokens."""
        prompt = render_prompt(self._processor, turns, open_reply=True)
        token = self._processor.image_token
        spread = prompt.replace(token, token * num_image_tokens(self._processor))
        add_start = needs_special_tokens(self._processor, prompt)
        ids: list[int] = self._tokenizer(spread, add_special_tokens=add_start)["input_ids"]
        return ids

    def _keep_common(self, input_ids: list[int]) -> int:
        """Cut the cache back to what it shares with `input_ids`; return how much that is.

        At least one token is left to compute, and an image is kept whole or not at all.
        """
        common = 0
        for cached, token in zip(self._cached, input_ids[:-1], strict=False):
            if cached != token:
                break
            common += 1
        image_id = self._processor.image_token_id
        while common > 0 and input_ids[common] == image_id and input_ids[common - 1] == image_id:
            common -= 1
        if common < len(self._cached):
            common = self._cut_back(common)
        return common

    def _cut_back(self, length: int) -> int:
        """Shorten the cache to `length` tokens, or empty it where it cannot be cut; return which.

        Layer by layer, because Ctrl-C in a forward pass leaves some layers longer than others.
        """
        if not self._can_crop:
            self.forget()
            return 0
        layers: Any = self._cache.layers
        for layer in layers:
            if layer.is_initialized:
                layer.keys = layer.keys[..., :length, :]
                layer.values = layer.values[..., :length, :]
        self._cached = self._cached[:length]
        return length

    @torch.inference_mode()
    def _tokens(self, input_ids: list[int], *, num_new: int) -> Iterator[int]:
        """Yield up to `num_new` token ids that follow `input_ids`, filling the cache on the way."""
        step = input_ids[len(self._cached) :]
        pixels = self._new_pixels(step)
        generator = torch.Generator(self._device).manual_seed(
            self._sampling.seed + len(self._turns)  # another draw each turn, the same each run
        )
        for _ in range(num_new):
            logits = self._forward(step, pixels)
            token = _choose(logits, self._sampling, generator)
            yield token
            step, pixels = [token], None

    def _new_pixels(self, step: list[int]) -> Tensor | None:
        """Return the pixels of the images whose tokens are still to be computed, (N, C, H, W)."""
        num_tokens = step.count(self._processor.image_token_id)
        num_new = num_tokens // num_image_tokens(self._processor)
        if num_new == 0:
            return None
        return torch.cat(self._pixels[-num_new:]).to(self._device, self._model.dtype)

    def _forward(self, step: list[int], pixels: Tensor | None) -> Tensor:
        """Run `step` through the model and return the next token's logits, (V,).

        The cache and our note of what is in it grow together, or not at all.
        """
        ids = torch.tensor([step], device=self._device)
        try:
            output = self._model(
                input_ids=ids,
                pixel_values=pixels,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: self._cache},
            )
        except BaseException:  # Ctrl-C, or out of memory
            self._cut_back(len(self._cached))
            raise
        self._cached.extend(step)
        logits: Tensor = output.logits[0, -1].float()
        return logits

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.lstrip()


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Take the likeliest token of logits (V,), or draw one."""
    if sampling.temperature <= 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / sampling.temperature, -1).sort(descending=True)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities  # the likeliest token always stays
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def _new_cache(model: Any, *, can_crop: bool) -> DynamicCache:  # noqa: ANN401 - any language model
    """Return an empty cache; one without the model's configuration keeps all tokens of all layers.

    Sliding-window layers mask what they must not see, and only such a cache can be cut back.
    """
    return DynamicCache() if can_crop else DynamicCache(config=model.config.get_text_config())


def _cache_name(model: Any) -> str:  # noqa: ANN401 - any language model
    """Return what `forward` calls its cache: transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _can_crop(model: Any) -> bool:  # noqa: ANN401 - any language model
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    return set(kinds) <= _CROPPABLE


def _context_length(model: Any) -> int:  # noqa: ANN401 - any language model
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)


def _end_ids(model: Any, tokenizer: Any) -> set[int]:  # noqa: ANN401 - any language model
    """Return every token that ends an answer, of the model and of the tokenizer."""
    ids = model.generation_config.eos_token_id
    own = set(ids) if isinstance(ids, list | tuple) else {ids}
    return {int(i) for i in own | {tokenizer.eos_token_id} if i is not None}
