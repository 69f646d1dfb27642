"""A conversation with a model loaded here: every token is computed once.

The key-value cache lives as long as the conversation, so the image is encoded with the first
question only and a later question costs its own tokens. Each turn renders the whole conversation
through the model's chat template; whatever the cache already holds of it is kept, and the rest is
computed, so an answer never depends on what was cached.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medllava.chat.choices import choice_probabilities, find_choices
from medllava.chat.config import Answer, Options
from medllava.chat.occlusion import measure_parts
from medllava.data.conversation import user_turn
from medllava.data.pixels import PixelReader
from medllava.data.tokenize import encode_prompt
from medllava.errors import DataError
from medllava.model.decode import Decoder, decode
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.model.sampling import Sampling
from medllava.records import IMAGE_TOKEN, Turn


class ChatSession:
    """A `Conversation` with a model in memory. Not for two threads at once."""

    def __init__(self, loaded: LoadedModel, *, sampling: Sampling) -> None:
        """Begin an empty conversation; several may share one loaded model."""
        self._decoder = Decoder(loaded)
        self._processor: Any = loaded.processor
        self._tokenizer: Any = loaded.processor.tokenizer
        self._reader = PixelReader(self._processor.image_processor)
        self._image_tokens = num_image_tokens(self._processor)
        self._sampling = sampling
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
        self._cache = self._decoder.new_cache()
        self._cached: list[int] = []
        self._cached_images: list[Tensor] = []

    def ask(
        self, text: str, images: Sequence[Image.Image] = (), options: Options | None = None
    ) -> Generator[str]:
        """Answer a question, yielding text as it comes; see `Conversation.ask`."""
        started = time.perf_counter()
        options = options or Options()
        sampling = options.sampling or self._sampling
        asked = [*self._turns[: options.keep], user_turn(text, num_images=len(images))]
        pixels = [*self._pixels[: options.keep], self._process(images)]
        system = [Turn(role="system", content=options.system)] if options.system else []
        input_ids = self._encode([*system, *asked])
        limit = self._decoder.context_length
        room = min(sampling.max_new_tokens, limit - len(input_ids))
        if room < 1:
            raise DataError(
                f"the conversation has {len(input_ids):,} tokens, and the model reads "
                f"{limit:,}. Begin a new one, or show fewer images."
            )
        shown = [image for of_turn in pixels for image in of_turn]
        num_cached = self._keep_common(input_ids, shown)
        sampling = replace(sampling, seed=sampling.seed + len(asked) - 1)
        speaker = self._decoder.speaker(input_ids, sampling, streams=True)
        reply = speaker.reply
        reason, first = "interrupted", 0.0
        found: dict[str, float] = {}
        try:
            new_images = shown[len(self._cached_images) :]
            logits = self._forward(input_ids[num_cached:], new_images)
            steps = decode([speaker], logits, self._advance, max_new_tokens=room)
            for logits, pieces in steps:
                if not first:
                    first = time.perf_counter() - started
                    found = choice_probabilities(
                        logits[0].float(), find_choices(text), self._tokenizer
                    )
                if pieces[0]:
                    yield pieces[0]
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
        decoder = self._decoder
        output = decoder.model(
            input_ids=torch.tensor([ids], device=decoder.device),
            pixel_values=torch.cat(images).to(decoder.device, decoder.model.dtype),
            use_cache=False,
            logits_to_keep=num_last + 1,
        )
        chosen = torch.tensor(ids[-num_last:], device=decoder.device)[:, None]
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
        return encode_prompt(self._processor, turns, image_tokens=self._image_tokens)

    def _keep_common(self, input_ids: list[int], shown: Sequence[Tensor]) -> int:
        """Cut the cache back to what it shares with the new conversation; return how much.

        At least one token is left to compute; an image is kept whole or not at all, and only where
        the cache holds this very picture: all of them look alike as tokens.
        """
        image_id, length = self._processor.image_token_id, self._image_tokens
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
        if not self._decoder.can_crop:
            self.forget()
            return 0
        layers: Any = self._cache.layers
        for layer in layers:
            if layer.is_initialized:
                layer.keys = layer.keys[..., :length, :]
                layer.values = layer.values[..., :length, :]
        self._cached = self._cached[:length]
        num_tokens = self._cached.count(self._processor.image_token_id)
        del self._cached_images[num_tokens // self._image_tokens :]
        return length

    def _advance(self, tokens: list[int], _rows: list[int] | None) -> Tensor:
        """Return the logits (1, V) after one more token."""
        return self._forward(tokens, [])

    @torch.inference_mode()
    def _forward(self, step: list[int], images: Sequence[Tensor]) -> Tensor:
        """Run `step`, which shows `images`, through the model; return the next logits, (1, V).

        The cache and our note of what is in it grow together, or not at all.
        """
        ids = torch.tensor([step], device=self._decoder.device)
        pixels = torch.cat(list(images)) if images else None
        try:
            logits = self._decoder.step(ids, self._cache, pixels=pixels)
        except BaseException:  # Ctrl-C, or out of memory
            self._cut_back(len(self._cached))
            raise
        self._cached.extend(step)
        self._cached_images.extend(images)
        return logits


def _answer_turn(text: str) -> Turn:
    return Turn(role="assistant", content=text.replace(IMAGE_TOKEN, "").strip())
