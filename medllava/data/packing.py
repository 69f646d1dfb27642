"""A schedule to batches: the tensors of one micro-batch.

One micro-batch is one row of tokens whose positions restart at every example; examples that share
an image's tokens (`prefix_sharing`) stay together, restarting behind the image. Which examples
these are was laid out by `schedule`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medllava.data.bin_packing import Pack
from medllava.data.dataset import ExampleIndex
from medllava.data.pixels import PixelReader
from medllava.data.prefix_sharing import Sharing
from medllava.errors import DataError

IGNORED = -100
"""Label of a position that is not predicted."""
LENGTHS = "lengths"
"""Key of a micro-batch, for the meter only: tokens of its examples."""
MASKED = "masked"
"""Key of a micro-batch, for the meter only: records nothing is learned from, and why."""


class MicroBatches(Dataset[dict[str, Any]]):
    """The micro-batches of one rank as tensors; item i is the i-th forward pass of the run."""

    def __init__(  # noqa: PLR0913 - each decides a tensor
        self,
        index: ExampleIndex,
        batches: Sequence[tuple[Pack, ...]],
        pixels: PixelReader,
        *,
        sharing: Sharing,
        image_token_id: int,
        pad_token_id: int,
        packing: bool,
        fixed_shape: bool = False,
    ) -> None:
        """Remember what to collate.

        Args:
            index: all examples.
            batches: bins of every forward pass.
            pixels: reads images.
            sharing: as the bins were laid out with.
            image_token_id: repeated `index.image_tokens` times for one image.
            pad_token_id: fills rows without packing.
            packing: False pads rows to the longest instead of joining them.
            fixed_shape: fill every row up to the longest of the run by one dummy segment.
        """
        self._index = index
        self._batches = batches
        self._pixels = pixels
        self._sharing = sharing
        self._image_token_id = image_token_id
        self._pad_token_id = pad_token_id
        self._packing = packing
        self._fixed: _FixedShape | None = None
        if fixed_shape and packing:
            self._fixed = _FixedShape.of(batches, sharing, image_tokens=index.image_tokens)

    def __len__(self) -> int:
        """Return the number of forward passes."""
        return len(self._batches)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return the tensors of one forward pass.

        Returns:
            input_ids (B, T), where B is 1 with packing; position_ids (B, T), restarting at every
            example, behind the image where it shares one; attention_mask (B, T) without packing
            only; pixel_values (N, 3, H, W); logits_to_keep (K,), the positions that predict
            something; labels and shift_labels (B, K), what they predict; `LENGTHS` and `MASKED`;
            and where examples are packed that share nothing, as transformers' flash attention
            takes them, cu_seq_lens_q and cu_seq_lens_k (S + 1,), where the S segments begin and
            end, and the longest, max_length_q and max_length_k.
        """
        packs = self._batches[item]
        rows: list[_Row] = []
        paths: list[Path] = []
        examples = [pair for pack in packs for pair in self._with_shared(pack)]
        for example, shared in examples:
            rows.append(self._expand(example, shared))
            if not shared:
                paths += self._index.images_of(example)
        lengths = [len(row.ids) for row in rows]
        masked: dict[str, str] = {}
        if paths:
            try:
                pixel_values = self._pixels.read(paths)
            except DataError:
                pixel_values, masked = self._read_around(examples, rows)
        else:
            # An image that nothing attends to and nothing predicts from: encoder and projector
            # run in every forward pass on every rank, so gradient reduction never waits for one.
            filler = np.full(self._index.image_tokens, self._image_token_id, dtype=np.int64)
            rows.append(_Row(filler, np.full_like(filler, IGNORED), 0))
            pixel_values = self._pixels.blank()
        if self._fixed is not None:
            missing = self._fixed.length - sum(len(row.ids) for row in rows)
            rows.append(_dummy(missing, self._pad_token_id))
        joined = _join(rows, self._fixed) if self._packing else _pad(rows, self._pad_token_id)
        return {**joined, "pixel_values": pixel_values, LENGTHS: lengths, MASKED: masked}

    def _read_around(
        self, examples: Sequence[tuple[int, int]], rows: list["_Row"]
    ) -> tuple[Tensor, dict[str, str]]:
        """Read what can be read; nothing is learned from the records of the rest.

        Every image could be read when the run was laid out, so a file has changed since. The
        schedule stays as it is: blank pixels take the image's place, and no token is supervised.

        Args:
            examples: with the tokens each shares with the one before.
            rows: of these examples; those of lost images are replaced.

        Returns:
            Pixels (N, 3, H, W), and record ids with what is wrong.
        """
        pixels: list[Tensor] = []
        masked: dict[str, str] = {}
        wrong = ""
        for place, (example, shared) in enumerate(examples):
            paths = self._index.images_of(example)
            if not shared and paths:
                wrong = ""
                try:
                    pixels.append(self._pixels.read(paths))
                except DataError as error:
                    wrong = str(error)
                    pixels.append(self._pixels.blank(len(paths)))
            if paths and wrong:  # those that share the image lost it too
                row = rows[place]
                rows[place] = row._replace(targets=np.full_like(row.targets, IGNORED))
                masked[self._index.record_ids[example]] = wrong
        return torch.cat(pixels), masked

    def _with_shared(self, pack: Pack) -> Iterator[tuple[int, int]]:
        """Yield each example of a pack with the tokens it takes from the one before."""
        for previous, example in zip((None, *pack), pack, strict=False):
            is_branch = previous is not None and self._sharing.branches_off(previous, example)
            yield example, int(self._sharing.prefixes[example]) if is_branch else 0

    def _expand(self, example: int, shared: int) -> "_Row":
        """Return what follows the first `shared` tokens of an example, with images in full."""
        start, end = self._index.starts[example : example + 2]
        ids = self._index.ids[start:end].astype(np.int64)
        targets = np.full_like(ids, IGNORED)
        predicted = np.flatnonzero(self._index.supervised[start + 1 : end])
        targets[predicted] = ids[predicted + 1]
        repeats = np.where(ids == self._image_token_id, self._index.image_tokens, 1)
        last = repeats.cumsum() - 1
        expanded = np.full(int(repeats.sum()), IGNORED, dtype=np.int64)
        expanded[last] = targets
        return _Row(np.repeat(ids, repeats)[shared:], expanded[shared:], shared)


class _Row(NamedTuple):
    """One example: its tokens, what each of them predicts, and the position of the first."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _FixedShape:
    """What every row of a run is filled up to, for kernels that are compiled for one shape."""

    length: int
    num_segments: int

    @classmethod
    def of(
        cls, batches: Sequence[tuple[Pack, ...]], sharing: Sharing, *, image_tokens: int
    ) -> "_FixedShape":
        """Find the longest row, with room for an image that nothing attends to, and 16 divides."""
        longest = max(sum(sharing.size_of(pack) for pack in packs) for packs in batches)
        members = max(sum(len(pack) for pack in packs) for packs in batches)
        return cls(length=(longest + image_tokens) // 16 * 16 + 16, num_segments=members + 2)


def _dummy(length: int, pad_token_id: int) -> _Row:
    """Return a segment that nothing attends to and nothing predicts from."""
    ids = np.full(length, pad_token_id, dtype=np.int64)
    return _Row(ids, np.full_like(ids, IGNORED), 0)


def _segments(rows: Sequence[_Row], fixed: _FixedShape | None) -> dict[str, Any]:
    """Say where the segments of a row begin; nothing where some branch off behind an image."""
    if any(row.start for row in rows):  # segments alone would not keep the branches apart
        return {}
    bounds = [0, *np.cumsum([len(row.ids) for row in rows]).tolist()]
    longest = max(end - start for start, end in pairwise(bounds))
    if fixed is not None:
        bounds += [fixed.length] * (fixed.num_segments + 1 - len(bounds))
        longest = fixed.length
    cumulative = torch.tensor(bounds, dtype=torch.int32)
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _join(rows: Sequence[_Row], fixed: _FixedShape | None) -> dict[str, Any]:
    """Concatenate examples into one row with restarting positions."""
    targets = np.concatenate([row.targets for row in rows])
    positions = np.concatenate([row.start + np.arange(len(row.ids)) for row in rows])
    kept = np.flatnonzero(targets != IGNORED)
    labels = torch.from_numpy(targets[kept])[None]
    return {
        "input_ids": torch.from_numpy(np.concatenate([row.ids for row in rows]))[None],
        "position_ids": torch.from_numpy(positions)[None],
        **_segments(rows, fixed),
        "logits_to_keep": torch.from_numpy(kept),
        "labels": labels,
        "shift_labels": labels,
    }


def _pad(rows: Sequence[_Row], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right to the longest."""
    longest = max(len(row.ids) for row in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
    targets = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for row, (ids, target, _) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        targets[row, : len(ids)] = target
    kept = np.flatnonzero((targets != IGNORED).any(axis=0))
    labels = torch.from_numpy(np.ascontiguousarray(targets[:, kept]))
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "logits_to_keep": torch.from_numpy(kept),
        "labels": labels,
        "shift_labels": labels,
    }
