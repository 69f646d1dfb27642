"""Keys and values of a batch of answers: what prompts share, and what each adds token by token.

The prefix of an image is computed once, from pixels that were read while the batch before was
answered, and goes when the last batch that needs it has begun. Rows of a batch begin behind their
prefixes, either in a cache that grows and from which finished answers are taken out
(`decode.Rows`), or in one laid out once (`FixedRows`), in which every step has one shape, as a
captured graph wants it.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from medllava.data.pixels import PixelReader
from medllava.errors import SetupError
from medllava.eval.ask.predict import BLANK, Ask, blank_image
from medllava.images.load import load_image
from medllava.model.decode import Decoder, Rows, pad_left

_ENCODER_BATCH = 8
_FIXED_TO = 64
"""Lengths of fixed caches are multiples of this, so that few shapes occur."""

Group = tuple[tuple[str, ...], tuple[int, ...]]
"""Images and the tokens up to the last of them."""
Layers = list[tuple[Tensor, Tensor]]
"""Per layer keys and values, (B, heads, tokens, width)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized ask: what all questions about its image share, and the rest."""

    ask: Ask
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def group(self) -> Group:
        """Prompts of one group share their images and prefix."""
        return self.ask.images, self.prefix


class Prefixes:
    """Keys and values of shared prefixes, for as long as a batch to come needs them."""

    def __init__(
        self,
        decoder: Decoder,
        reader: PixelReader,
        pool: ThreadPoolExecutor,
        batches: Sequence[Sequence[Prompt]],
    ) -> None:
        """Compute nothing yet.

        Args:
            decoder: computes them.
            reader: of the model's pixels.
            pool: reads images ahead.
            batches: all that will be taken, in order.
        """
        self._decoder, self._reader, self._pool = decoder, reader, pool
        self._needed = Counter(p.group for batch in batches for p in batch if p.prefix)
        self._rows: dict[Group, Layers] = {}
        self._pixels: dict[Group, Future[Tensor]] = {}

    def read_ahead(self, batch: Sequence[Prompt]) -> None:
        """Begin to read the images of a batch that comes next."""
        for group in dict.fromkeys(p.group for p in batch if p.prefix):
            if group not in self._rows and group not in self._pixels:
                self._pixels[group] = self._pool.submit(self._read, group[0])

    @torch.inference_mode()
    def take(self, batch: Sequence[Prompt]) -> Layers:
        """Return one row per prompt; empty where prompts have no prefix.

        Raises:
            DataError: an image cannot be read.
        """
        self.read_ahead(batch)
        groups = [prompt.group for prompt in batch if prompt.prefix]
        fresh = [group for group in dict.fromkeys(groups) if group not in self._rows]
        for start in range(0, len(fresh), _ENCODER_BATCH):
            self._compute(fresh[start : start + _ENCODER_BATCH])
        if not groups:
            return []
        layers = [
            (torch.cat([k for k, _ in rows]), torch.cat([v for _, v in rows]))
            for rows in zip(*(self._rows[group] for group in groups), strict=True)
        ]
        self._needed.subtract(groups)
        for group in dict.fromkeys(groups):
            if not self._needed[group]:
                del self._rows[group]
        return layers

    def _compute(self, groups: list[Group]) -> None:
        """Run prefixes of one length through the model."""
        ids = torch.tensor([prefix for _, prefix in groups], device=self._decoder.device)
        pixels = torch.cat([self._pixels.pop(group).result() for group in groups])
        cache = DynamicCache()
        self._decoder.step(ids, cache, pixels=pixels)
        for row, group in enumerate(groups):
            self._rows[group] = [
                (keys[row : row + 1], values[row : row + 1]) for keys, values in _cached(cache)
            ]

    def _read(self, images: tuple[str, ...]) -> Tensor:
        return self._reader.prepare([_open_image(image) for image in images])


def growing_rows(decoder: Decoder, batch: Sequence[Prompt], prefixes: Layers) -> Rows:
    """Return rows that begin behind the prefixes, one per prompt, in a cache that grows."""
    cache = DynamicCache()
    _fill(cache, prefixes)
    suffixes = [prompt.suffix for prompt in batch]
    return Rows(decoder, suffixes, cache=cache, past=len(batch[0].prefix))


class FixedMemory:
    """The one fixed cache of an engine: batches of one shape use it after one another.

    A captured graph reads and writes it where it lies.
    """

    def __init__(self, decoder: Decoder, *, num_rows: int, compiled: bool) -> None:
        """Lay out nothing yet.

        Args:
            decoder: whose layers keep their keys and values here.
            num_rows: of every batch; what a smaller one leaves free is computed and not read.
            compiled: steps run as a captured graph.
        """
        self.decoder = decoder
        self.num_rows = num_rows
        self.compiled = compiled
        self._cache: StaticCache | None = None
        self._length = 0

    def take(self, length: int) -> StaticCache:
        """Return the cache, empty, for at least `length` tokens a row."""
        length = -(-length // _FIXED_TO) * _FIXED_TO
        if self._cache is None or self._length != length:
            self._cache = None  # before the next one is laid out
            self._cache, self._length = self.decoder.fixed_cache(length), length
        else:
            self._cache.reset()
        return self._cache

    @property
    def length(self) -> int:
        """Tokens a row that the cache holds."""
        return self._length


class FixedRows:
    """As `Rows`, in memory laid out once; finished answers are computed on, and not read."""

    @torch.inference_mode()
    def __init__(
        self, memory: FixedMemory, batch: Sequence[Prompt], prefixes: Layers, *, num_new: int
    ) -> None:
        """Begin behind the prefixes, with room for `num_new` tokens.

        Rows that the batch leaves free repeat its first one.
        """
        self._memory, self._decoder = memory, memory.decoder
        suffixes = [prompt.suffix for prompt in batch]
        ids, mask = pad_left(self._decoder, suffixes, past=len(batch[0].prefix))
        shown = [*range(len(batch)), *([0] * (memory.num_rows - len(batch)))]
        self._ids, mask = ids[shown], mask[shown]
        self._positions = _positions(mask)
        self._cache = memory.take(mask.shape[1] + num_new)
        _fill(self._cache, [(keys[shown], values[shown]) for keys, values in prefixes])
        # Of what is still to come a row sees nothing anyway: attention is causal.
        self._mask = mask.new_ones((len(mask), memory.length))
        self._mask[:, : mask.shape[1]] = mask
        self._places = list(range(len(batch)))

    @torch.inference_mode()
    def begin(self) -> Tensor:
        """Return the logits (B, V) of each answer's first token."""
        positions = self._positions[:, -self._ids.shape[1] :]
        self._positions = self._positions[:, -1:]
        logits = self._decoder.step(self._ids, self._cache, mask=self._mask, positions=positions)
        return logits[: len(self._places)]

    @torch.inference_mode()
    def advance(self, tokens: list[int], rows: list[int] | None) -> Tensor:
        """Go on by one token each; see `decode.Advance`."""
        if rows is not None:
            self._places = [self._places[row] for row in rows]
        places = torch.tensor(self._places, device=self._decoder.device)
        ids = torch.zeros_like(self._positions)
        ids[places, 0] = torch.tensor(tokens, device=self._decoder.device)
        self._positions = self._positions + 1
        logits = self._decoder.step(
            ids,
            self._cache,
            mask=self._mask,
            positions=self._positions,
            compiled=self._memory.compiled,
        )
        return logits[places]


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _fill(cache: Cache, layers: Layers) -> None:
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)


def _cached(cache: Cache) -> Iterator[tuple[Tensor, Tensor]]:
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


def _open_image(image: str) -> Image.Image:
    if image == BLANK:
        return blank_image()
    return load_image(Path(image))
