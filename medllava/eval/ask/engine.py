"""Batched decoding on our own model: each image is encoded once, its prompt prefix computed once.

Asks enter, replies leave, in batches. All prompts about one image begin alike up to the last image
token. The keys and values of that prefix are computed once per image and copied to every question
about it; what follows is padded on the left and decoded together. Masks and position ids make each
row see what it would see alone, so batching changes replies by rounding at most.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from medllava.data.conversation import needs_special_tokens, render_prompt, user_turn
from medllava.data.pixels import PixelReader
from medllava.errors import DataError, SetupError
from medllava.eval.ask.predict import BLANK, Ask, Batch, blank_image
from medllava.eval.config import DecodingConfig
from medllava.images.load import load_image
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.records import IMAGE_TOKEN

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
    def group(self) -> "_Group":
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
        self._model = loaded.model
        self._processor = loaded.processor
        self._tokenizer = loaded.processor.tokenizer
        self._pixels = PixelReader(loaded.processor.image_processor)
        self._decoding = decoding
        self._device = loaded.model.device
        on_gpu = self._device.type == "cuda"
        self._batch_size = decoding.batch_size or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        ends = loaded.model.generation_config.eos_token_id
        forward = inspect.signature(loaded.model.model.language_model.forward).parameters
        # transformers 5.2x renamed the argument and drops the old name in 5.40.
        self._cache_name = "cache" if "cache" in forward else "past_key_values"
        self._ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=self._device)

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
                        zip((p.ask for p in batch), self._decode(batch, prefixes), strict=True)
                    )
            except torch.OutOfMemoryError:
                raise SetupError(
                    f"{self._batch_size} questions at once do not fit into memory. "
                    f"Use --batch-size {max(1, self._batch_size // 2)}."
                ) from None

    def _prompt(self, ask: Ask) -> _Prompt:
        turn = user_turn(ask.text, num_images=len(ask.images))
        text = render_prompt(self._processor, [turn], open_reply=True)
        add = needs_special_tokens(self._processor, text)
        if ask.image is not None:
            text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * num_image_tokens(self._processor))
        ids = self._tokenizer(text, add_special_tokens=add)["input_ids"]
        limit = self._model.config.get_text_config().max_position_embeddings
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
        ordered = sorted(window, key=lambda prompt: len(prompt.suffix))
        size = self._batch_size
        return [ordered[i : i + size] for i in range(0, len(ordered), size)]

    @torch.inference_mode()
    def _prefixes(self, prompts: Sequence[_Prompt]) -> "_Prefixes":
        """Run the shared prefixes of these prompts, each image once."""
        firsts = {prompt.group: prompt for prompt in prompts if prompt.prefix}
        layers: list[tuple[list[Tensor], list[Tensor]]] = []
        rows = list(firsts.values())
        for start in range(0, len(rows), _ENCODER_BATCH):
            chunk = rows[start : start + _ENCODER_BATCH]
            ids = torch.tensor([prompt.prefix for prompt in chunk], device=self._device)
            cache = DynamicCache()
            positions = torch.arange(ids.shape[1], device=self._device)[None].expand_as(ids)
            self._forward(self._embed(ids, chunk), cache, None, positions)
            for i, (keys, values) in enumerate(_cached(cache)):
                if i == len(layers):
                    layers.append(([], []))
                layers[i][0].append(keys)
                layers[i][1].append(values)
        stacked = [(torch.cat(keys), torch.cat(values)) for keys, values in layers]
        return _Prefixes({group: row for row, group in enumerate(firsts)}, stacked)

    def _embed(self, ids: Tensor, prompts: Sequence[_Prompt]) -> Tensor:
        """Return (B, T, D) embeddings with each prompt's image features in their places."""
        embeddings: Tensor = self._model.get_input_embeddings()(ids)
        images = [_open_image(image) for prompt in prompts for image in prompt.ask.images]
        pixels = self._pixels.prepare(images)
        pixels = pixels.to(self._device, self._model.dtype)
        config = self._model.config
        features = self._model.get_image_features(
            pixel_values=pixels,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        places = (ids == self._processor.image_token_id)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(places, torch.cat(list(features)).to(embeddings.dtype))

    def _forward(
        self, embeddings: Tensor, cache: DynamicCache, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """Run the language model over new embeddings and return its last hidden states, (B, D)."""
        output = self._model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: cache},
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    @torch.inference_mode()
    def _decode(self, batch: list[_Prompt], prefixes: "_Prefixes") -> list[str]:
        """Answer one batch."""
        cache = prefixes.cache([prompt.group for prompt in batch], device=self._device)
        past = len(batch[0].prefix)
        longest = max(len(prompt.suffix) for prompt in batch)
        ids = torch.full((len(batch), longest), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(batch), past + longest), dtype=torch.long)
        mask[:, :past] = 1
        for row, prompt in enumerate(batch):
            ids[row, longest - len(prompt.suffix) :] = torch.tensor(prompt.suffix)
            mask[row, past + longest - len(prompt.suffix) :] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
        said: list[list[int]] = [[] for _ in batch]
        alive = torch.arange(len(batch), device=self._device)
        streams = [_stream(prompt.ask) for prompt in batch]
        for step in range(self._decoding.max_new_tokens):
            embeddings = self._model.get_input_embeddings()(ids)
            logits = self._model.lm_head(self._forward(embeddings, cache, mask, positions))
            tokens = self._choose(logits, [streams[row] for row in alive.tolist()])
            goes_on = ~torch.isin(tokens, self._ends)
            for row, token in zip(alive[goes_on].tolist(), tokens[goes_on].tolist(), strict=True):
                said[row].append(token)
            if not goes_on.any() or step + 1 == self._decoding.max_new_tokens:
                break
            if not goes_on.all():
                cache = _select(cache, goes_on.nonzero().flatten())
            alive, mask, ids = alive[goes_on], mask[goes_on], tokens[goes_on, None]
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
            positions = mask.sum(dim=1, keepdim=True) - 1
        return [self._tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]

    def _choose(self, logits: Tensor, streams: list[torch.Generator]) -> Tensor:
        """Return the next token of each row: the likeliest, or a draw from the row's own stream."""
        if self._decoding.temperature == 0:
            return logits.argmax(dim=-1)
        shares = (logits.float() / self._decoding.temperature).softmax(dim=-1).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=stream)
            for row, stream in zip(shares, streams, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)


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


def _select(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Return a cache of some rows, so that finished replies cost nothing more."""
    selected = DynamicCache()
    for i, (keys, values) in enumerate(_cached(cache)):
        selected.update(keys[rows], values[rows], i)
    return selected


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


def _stream(ask: Ask) -> torch.Generator:
    """Return random numbers that depend on the ask alone, not on its batch."""
    digest = hashlib.sha256(repr(ask.key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _open_image(image: str) -> Image.Image:
    if image == BLANK:
        return blank_image()
    return load_image(Path(image))
