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

from medllava.chat.choices import choice_probabilities, find_choices
from medllava.chat.config import Answer, Options, Sampling
from medllava.chat.occlusion import measure_parts
from medllava.chat.sampling import Draws, Reply, follow_checkpoint
from medllava.data.conversation import needs_special_tokens, render_prompt, user_turn
from medllava.data.pixels import PixelReader
from medllava.errors import DataError
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.records import IMAGE_TOKEN, Turn

_CROPPABLE = {"full_attention", "sliding_attention", "chunked_attention"}


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
        self._pixels: list[tuple[Tensor, ...]] = []  # of every turn
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

    def clear(self) -> None:
        """Forget turns and images."""
        self._turns, self._pixels, self._last = [], [], None
        self.forget()

    def restore(self, turns: Sequence[Turn], images: Sequence[Sequence[Image.Image]]) -> None:
        """Begin with what was said elsewhere; see `Conversation.restore`."""
        pixels = [self._process(shown) for shown in images]
        self._turns, self._pixels, self._last = list(turns), pixels, None

    def forget(self) -> None:
        """Free the cache; the conversation stays, and its next turn computes everything again."""
        self._cache = _new_cache(self._model, can_crop=self._can_crop)
        self._cached: list[int] = []
        self._cached_images: list[Tensor] = []

    def ask(
        self, text: str, images: Sequence[Image.Image] = (), options: Options | None = None
    ) -> Generator[str]:
        """Answer a question, yielding text as it comes; see `Conversation.ask`."""
        started = time.perf_counter()
        options = options or Options()
        sampling = follow_checkpoint(options.sampling or self._sampling, self._model)
        asked = [*self._turns[: options.keep], user_turn(text, num_images=len(images))]
        pixels = [*self._pixels[: options.keep], self._process(images)]
        system = [Turn(role="system", content=options.system)] if options.system else []
        input_ids = self._encode([*system, *asked])
        room = min(sampling.max_new_tokens, self._limit - len(input_ids))
        if room < 1:
            raise DataError(
                f"the conversation has {len(input_ids):,} tokens, and the model reads "
                f"{self._limit:,}. Begin a new one, or show fewer images."
            )
        shown = [image for of_turn in pixels for image in of_turn]
        num_cached = self._keep_common(input_ids, shown)
        drawn = Draws(sampling, seed=sampling.seed + len(asked) - 1, device=self._device)
        reply = Reply(self._decode, end_ids=self._end_ids, stop=sampling.stop or ())
        reason, first = "interrupted", 0.0
        found: dict[str, float] = {}
        try:
            for token, logits in self._tokens(input_ids, shown, drawn, num_new=room):
                if not first:
                    first = time.perf_counter() - started
                    found = choice_probabilities(logits, find_choices(text), self._tokenizer)
                if piece := reply.take(token):
                    yield piece
                if reply.is_over:
                    break
            reason = "stop" if reply.is_over else "length"
            if reason == "length" and (piece := reply.rest()):
                yield piece
        finally:
            if reply.text or reason != "interrupted":
                self._keep([*asked, _answer_turn(reply.text)], [*pixels, ()])
            self._last = Answer(
                text=reply.text.strip(),
                finish_reason=reason,
                input_tokens=len(input_ids),
                cached_tokens=num_cached,
                output_tokens=len(reply.ids),
                first_token_seconds=first,
                seconds=time.perf_counter() - started,
                choices=found,
            )

    def look(self, images: Sequence[Image.Image], number: int = 0) -> list[list[float]]:
        """Return which parts of a picture the last answer depends on; see `Conversation.look`."""
        if len(self._turns) < 2 or not self._turns[-1].content:
            raise DataError("nothing was answered yet.")
        if number >= len(images) or len(images) != len(self._pixels[-2]):
            raise DataError("the last question showed no such picture.")
        asked = self._encode(self._turns[:-1])
        answer = self._tokenizer(self._turns[-1].content, add_special_tokens=False)["input_ids"]
        before = [image for of_turn in self._pixels[:-2] for image in of_turn]

        def score(shown: Image.Image) -> float:
            last = list(self._pixels[-2])
            last[number] = self._process([shown])[0]
            return self._log_probability([*asked, *answer], [*before, *last], len(answer))

        return measure_parts(score, images[number])

    @torch.inference_mode()
    def _log_probability(self, ids: list[int], images: list[Tensor], num_last: int) -> float:
        """Return the log probability of the last `num_last` of `ids`, given all before them."""
        output = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            pixel_values=torch.cat(images).to(self._device, self._model.dtype),
            use_cache=False,
            logits_to_keep=num_last + 1,
        )
        chosen = torch.tensor(ids[-num_last:], device=self._device)[:, None]
        scores = output.logits[0, :-1].float().log_softmax(-1)
        return float(scores.gather(1, chosen).sum())

    def _keep(self, turns: list[Turn], pixels: list[tuple[Tensor, ...]]) -> None:
        """Go on from these turns, each with its own pixels."""
        self._turns, self._pixels = turns, pixels

    def _process(self, images: Sequence[Image.Image]) -> tuple[Tensor, ...]:
        """Return each image's (1, C, H, W) pixel values; nothing else of it is kept."""
        return tuple(self._reader.prepare([image]) for image in images)

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids of the whole conversation, every image spread over its tokens."""
        prompt = render_prompt(self._processor, turns, open_reply=True)
        token = self._processor.image_token
        spread = prompt.replace(token, token * num_image_tokens(self._processor))
        add_start = needs_special_tokens(self._processor, prompt)
        ids: list[int] = self._tokenizer(spread, add_special_tokens=add_start)["input_ids"]
        return ids

    def _keep_common(self, input_ids: list[int], shown: Sequence[Tensor]) -> int:
        """Cut the cache back to what it shares with the new conversation; return how much.

        At least one token is left to compute; an image is kept whole or not at all, and only where
        the cache holds this very picture: all of them look alike as tokens.
        """
        image_id, length = self._processor.image_token_id, num_image_tokens(self._processor)
        common = num_images = 0
        for cached, token in zip(self._cached, input_ids[:-1], strict=False):
            if cached != token:
                break
            if token == image_id:
                number, inside = divmod(num_images, length)
                if inside == 0 and self._cached_images[number] is not shown[number]:
                    break
                num_images += 1
            common += 1
        common -= num_images % length
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
        num_tokens = self._cached.count(self._processor.image_token_id)
        del self._cached_images[num_tokens // num_image_tokens(self._processor) :]
        return length

    @torch.inference_mode()
    def _tokens(
        self, input_ids: list[int], shown: Sequence[Tensor], drawn: Draws, *, num_new: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield up to `num_new` ids that follow `input_ids`, each with the logits (V,) it is of.

        The cache is filled on the way.
        """
        step = input_ids[len(self._cached) :]
        images = list(shown[len(self._cached_images) :])
        said = list(input_ids)
        for _ in range(num_new):
            logits = self._forward(step, images)
            token = drawn.choose(logits, said)
            yield token, logits
            said.append(token)
            step, images = [token], []

    def _forward(self, step: list[int], images: list[Tensor]) -> Tensor:
        """Run `step`, which shows `images`, through the model; return the next logits, (V,).

        The cache and our note of what is in it grow together, or not at all.
        """
        ids = torch.tensor([step], device=self._device)
        pixels = torch.cat(images).to(self._device, self._model.dtype) if images else None
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
        self._cached_images.extend(images)
        logits: Tensor = output.logits[0, -1].float()
        return logits

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.lstrip()


def _answer_turn(text: str) -> Turn:
    return Turn(role="assistant", content=text.replace(IMAGE_TOKEN, "").strip())


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
