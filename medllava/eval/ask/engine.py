"""Batched decoding on our own model: each image is encoded once, its prompt prefix computed once.

Asks enter, replies leave, in batches. All prompts about one image begin alike up to the last image
token. The keys and values of that prefix are computed once per image and copied to every question
about it; what follows is padded on the left and decoded together. Masks and position ids make each
row see what it would see alone, so batching changes replies by rounding at most.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch

from medllava.data.conversation import user_turn
from medllava.data.pixels import PixelReader
from medllava.data.tokenize import encode_prompt
from medllava.errors import DataError, SetupError
from medllava.eval.ask.likelihood import choose
from medllava.eval.ask.predict import Ask, Batch
from medllava.eval.ask.rows import FixedMemory, FixedRows, Group, Prefixes, Prompt, growing_rows
from medllava.eval.config import DecodingConfig
from medllava.model.decode import Decoder, Rows, decode
from medllava.model.devices import free_bytes
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.model.sampling import Sampling
from medllava.threads import thread_pool

_GPU_BATCHES = (256, 128, 64, 32, 16, 8, 4, 2)
_CPU_BATCHES = (48, 16)
"""Questions at once, the most that fit; few sizes, so that a run that goes on has the same ones."""
_MEMORY_SHARE = 0.6
"""Of what is free, for keys and values of a batch; the rest is for activations and logits."""
_BATCHES_PER_WINDOW = 8
"""Questions that are sorted by length together; on a GPU one batch, so that few prefixes are held.
Sorting saves a CPU the padding, which a GPU computes beside the rest."""
_READERS = 4


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
        self._on_gpu = self._device.type == "cuda"
        self._is_fixed = self._on_gpu and self._decoder.can_fix
        """Whether batches are answered in memory laid out once, by captured graphs on a GPU."""

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies batch by batch; see `predict.Answerer`.

        Raises:
            DataError: an image cannot be read, or a question is too long for the model.
            SetupError: a batch does not fit into the memory of the device.
        """
        prompts = [self._prompt(ask) for ask in asks]
        size = self._decoding.batch_size or self._fitting(prompts)
        batches = [
            batch
            for window in self._windows(prompts, size)
            for batch in self._batches(window, size)
            if not all(is_done(prompt.ask) for prompt in batch)
        ]
        memory = FixedMemory(self._decoder, num_rows=min(size, len(prompts)), compiled=self._on_gpu)
        try:
            with thread_pool(_READERS) as pool:
                prefixes = Prefixes(self._decoder, self._pixels, pool, batches)
                for batch, following in pairwise([*batches, []]):
                    shared = prefixes.take(batch)
                    prefixes.read_ahead(following)
                    rows: Rows | FixedRows
                    if self._is_fixed and not batch[0].ask.options:
                        num_new = self._decoding.max_new_tokens
                        rows = FixedRows(memory, batch, shared, num_new=num_new)
                    else:
                        rows = growing_rows(self._decoder, batch, shared)
                    del shared
                    asked = (prompt.ask for prompt in batch)
                    yield list(zip(asked, self._reply(batch, rows), strict=True))
        except torch.OutOfMemoryError:
            raise SetupError(
                f"{size} questions at once do not fit into memory. "
                f"Use --batch-size {max(1, size // 2)}."
            ) from None

    def _fitting(self, prompts: Sequence[Prompt]) -> int:
        """Return how many questions are answered at once, by the memory that is free."""
        sizes = _GPU_BATCHES if self._on_gpu else _CPU_BATCHES
        free = free_bytes(str(self._device))
        if free is None or not prompts:
            return sizes[-1]
        longest = max(len(prompt.prefix) + len(prompt.suffix) for prompt in prompts)
        # A prefix is held beside the row it was copied to.
        tokens = 2 * longest + self._decoding.max_new_tokens
        fitting = int(free * _MEMORY_SHARE) // (tokens * self._decoder.bytes_per_token)
        return next((size for size in sizes if size <= fitting), 1 if self._on_gpu else sizes[-1])

    def _prompt(self, ask: Ask) -> Prompt:
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
        return Prompt(ask, tuple(ids[:length]), tuple(ids[length:]))

    def _windows(self, prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
        """Collect whole groups until there are enough questions to sort by length."""
        groups: dict[Group, list[Prompt]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.group, []).append(prompt)
        wanted = size * (1 if self._on_gpu else _BATCHES_PER_WINDOW)
        window: list[Prompt] = []
        # Prefixes of one length lie in one window, so that they stack without padding.
        for group in sorted(groups.values(), key=lambda group: len(group[0].prefix)):
            is_other_length = window and len(window[0].prefix) != len(group[0].prefix)
            is_full = len(window) >= wanted or (self._on_gpu and len(window + group) > wanted)
            if window and (is_other_length or is_full):
                yield window
                window = []
            window += group
        if window:
            yield window

    def _batches(self, window: list[Prompt], size: int) -> list[list[Prompt]]:
        batches: list[list[Prompt]] = []
        for chooses in (False, True):
            members = [prompt for prompt in window if bool(prompt.ask.options) is chooses]
            members.sort(key=lambda prompt: len(prompt.suffix))
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches

    def _reply(self, batch: list[Prompt], rows: Rows | FixedRows) -> list[str]:
        """Answer one batch."""
        decoder, num_new = self._decoder, self._decoding.max_new_tokens
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


def ask_seed(ask: Ask) -> int:
    """Return the seed of the draws of an ask: it depends on the ask alone, not on its batch."""
    digest = hashlib.sha256(repr(ask.key).encode()).digest()
    return int.from_bytes(digest[:7])
