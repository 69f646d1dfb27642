"""Batched decoding on our own model: each image is encoded once, its prompt prefix computed once.

Asks enter, replies leave, in batches. All prompts about one image begin alike up to the last image
token. The keys and values of that prefix are computed once per image and copied to every question
about it; what follows is padded on the left and decoded together. Masks and position ids make each
row see what it would see alone, so batching changes replies by rounding at most.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from medllava.data.conversation import user_turn
from medllava.data.pixels import PixelReader
from medllava.data.tokenize import encode_prompt
from medllava.errors import DataError, SetupError
from medllava.eval.ask.likelihood import choose
from medllava.eval.ask.predict import BLANK, Ask, Batch, blank_image
from medllava.eval.config import DecodingConfig
from medllava.images.load import load_image
from medllava.model.decode import Decoder, Rows, decode
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.model.sampling import Sampling

_CPU_BATCH, _GPU_BATCH = 16, 32
_BATCHES_PER_WINDOW = 8
"""Questions that are sorted by length together; their prefixes are held at once."""
_ENCODER_BATCH = 8

_Group = tuple[tuple[str, ...], tuple[int, ...]]
"""Images and the tokens up to the last of them."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A tokenized ask: what all questions about its image share, and the rest."""

    ask: Ask
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def group(self) -> _Group:
        """Prompts of one group share their images and prefix."""
        return self.ask.images, self.prefix


class Engine:
    """A loaded model that answers asks."""

    def __init__(self, loaded: LoadedModel, decoding: DecodingConfig) -> None:
        """Hold the model.

        Args:
            loaded: model and processor.
            decoding: length, temperature and batch size.
        """
        self._decoder = Decoder(loaded)
        self._processor = loaded.processor
        self._pixels = PixelReader(loaded.processor.image_processor)
        self._decoding = decoding
        self._device = self._decoder.device
        on_gpu = self._device.type == "cuda"
        self._batch_size = decoding.batch_size or (_GPU_BATCH if on_gpu else _CPU_BATCH)

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies batch by batch; see `predict.Answerer`.

        Raises:
            DataError: an image cannot be read, or a question is too long for the model.
            SetupError: a batch does not fit into the memory of the device.
        """
        for window in self._windows([self._prompt(ask) for ask in asks]):
            batches = [b for b in self._batches(window) if not all(is_done(p.ask) for p in b)]
            if not batches:
                continue
            try:
                prefixes = self._prefixes([prompt for batch in batches for prompt in batch])
                for batch in batches:
                    yield list(
                        zip((p.ask for p in batch), self._reply(batch, prefixes), strict=True)
                    )
            except torch.OutOfMemoryError:
                raise SetupError(
                    f"{self._batch_size} questions at once do not fit into memory. "
                    f"Use --batch-size {max(1, self._batch_size // 2)}."
                ) from None

    def _prompt(self, ask: Ask) -> _Prompt:
        turn = user_turn(ask.text, num_images=len(ask.images))
        image_tokens = num_image_tokens(self._processor)
        ids = encode_prompt(self._processor, [turn], image_tokens=image_tokens)
        limit = self._decoder.context_length
        if len(ids) + self._decoding.max_new_tokens > limit:
            raise DataError(
                f"question {ask.id!r} takes {len(ids)} tokens and its answer up to "
                f"{self._decoding.max_new_tokens}; the model reads {limit}. Shorten it."
            )
        image_token_id = self._processor.image_token_id
        length = max((i + 1 for i, token in enumerate(ids) if token == image_token_id), default=0)
        return _Prompt(ask, tuple(ids[:length]), tuple(ids[length:]))

    def _windows(self, prompts: Sequence[_Prompt]) -> Iterator[list[_Prompt]]:
        """Collect whole groups until there are enough questions to sort by length."""
        groups: dict[_Group, list[_Prompt]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.group, []).append(prompt)
        window: list[_Prompt] = []
        # Prefixes of one length lie in one window, so that they stack without padding.
        for group in sorted(groups.values(), key=lambda group: len(group[0].prefix)):
            is_other_length = window and len(window[0].prefix) != len(group[0].prefix)
            if window and (
                is_other_length or len(window) >= self._batch_size * _BATCHES_PER_WINDOW
            ):
                yield window
                window = []
            window += group
        if window:
            yield window

    def _batches(self, window: list[_Prompt]) -> list[list[_Prompt]]:
        size = self._batch_size
        batches: list[list[_Prompt]] = []
        for chooses in (False, True):
            members = [prompt for prompt in window if bool(prompt.ask.options) is chooses]
            members.sort(key=lambda prompt: len(prompt.suffix))
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches

    @torch.inference_mode()
    def _prefixes(self, prompts: Sequence[_Prompt]) -> "_Prefixes":
        """Run the shared prefixes of these prompts, each image once."""
        firsts = {prompt.group: prompt for prompt in prompts if prompt.prefix}
        layers: list[tuple[list[Tensor], list[Tensor]]] = []
        rows = list(firsts.values())
        for start in range(0, len(rows), _ENCODER_BATCH):
            chunk = rows[start : start + _ENCODER_BATCH]
            ids = torch.tensor([prompt.prefix for prompt in chunk], device=self._device)
            images = [_open_image(image) for prompt in chunk for image in prompt.ask.images]
            pixels = self._pixels.prepare(images)
            cache = DynamicCache()
            self._decoder.step(ids, cache, pixels=pixels)
            for i, (keys, values) in enumerate(_cached(cache)):
                if i == len(layers):
                    layers.append(([], []))
                layers[i][0].append(keys)
                layers[i][1].append(values)
        stacked = [(torch.cat(keys), torch.cat(values)) for keys, values in layers]
        return _Prefixes({group: row for row, group in enumerate(firsts)}, stacked)

    def _reply(self, batch: list[_Prompt], prefixes: "_Prefixes") -> list[str]:
        """Answer one batch."""
        decoder, num_new = self._decoder, self._decoding.max_new_tokens
        rows = Rows(
            decoder,
            [prompt.suffix for prompt in batch],
            cache=prefixes.cache([prompt.group for prompt in batch], device=decoder.device),
            past=len(batch[0].prefix),
        )
        if batch[0].ask.options:
            return choose(decoder.tokenizer, rows.begin(), [prompt.ask.options for prompt in batch])
        speakers = [
            decoder.speaker(
                [*prompt.prefix, *prompt.suffix],
                Sampling(temperature=self._decoding.temperature, seed=ask_seed(prompt.ask)),
                streams=False,
                device=torch.device("cpu"),  # the same draws on every device
            )
            for prompt in batch
        ]
        for _ in decode(speakers, rows.begin(), rows.advance, max_new_tokens=num_new):
            pass
        for speaker in speakers:
            speaker.reply.rest()
        return [speaker.reply.text.strip() for speaker in speakers]


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """Keys and values of the prefixes of one window."""

    rows: dict[_Group, int]
    layers: list[tuple[Tensor, Tensor]]
    """Per layer keys and values, (groups, heads, prefix tokens, width)."""

    def cache(self, groups: Sequence[_Group], *, device: torch.device) -> DynamicCache:
        """Return a cache with one row per prompt; empty where prompts have no prefix."""
        cache = DynamicCache()
        if self.layers:
            rows = torch.tensor([self.rows[group] for group in groups], device=device)
            for i, (keys, values) in enumerate(self.layers):
                cache.update(keys[rows], values[rows], i)
        return cache


def _cached(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield keys and values of every layer, (B, heads, T, width).

    Raises:
        SetupError: a layer keeps something else, as linear attention does.
    """
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise SetupError(
                "this language model does not keep plain keys and values, so its prefixes cannot "
                "be shared. Serve it with transformers or vLLM and use --backend openai."
            )
        yield layer.keys, layer.values


def ask_seed(ask: Ask) -> int:
    """Return the seed of the draws of an ask: it depends on the ask alone, not on its batch."""
    digest = hashlib.sha256(repr(ask.key).encode()).digest()
    return int.from_bytes(digest[:7])


def _open_image(image: str) -> Image.Image:
    if image == BLANK:
        return blank_image()
    return load_image(Path(image))
