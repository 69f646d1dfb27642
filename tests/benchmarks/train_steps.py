"""What the training benchmarks share: records of LLaVA-Med-like lengths, and timed steps.

Two ways of the same step on the same records: ours (packs of restarting positions, logits only
where labels are) and the reference's (batches padded to their longest, logits everywhere).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medllava.data.bin_packing import fill_bins
from medllava.model.shapes import ModelShape
from medllava.train.planning.costs import Workload

IGNORED = -100


@dataclass(frozen=True)
class Records:
    """Lengths in tokens, images included; the last part of each record is supervised."""

    lengths: np.ndarray
    supervised: np.ndarray
    num_image_tokens: int

    def take(self, members: Sequence[int]) -> "Records":
        chosen = np.array(members)
        return Records(self.lengths[chosen], self.supervised[chosen], self.num_image_tokens)

    @property
    def work(self) -> Workload:
        return Workload(
            num_tokens=int(self.lengths.sum()),
            num_supervised=int(self.supervised.sum()),
            num_images=len(self.lengths),
            sum_squared_lengths=float((self.lengths.astype(float) ** 2).sum()),
        )


def make_records(
    count: int, *, stage: int, num_image_tokens: int, max_length: int, seed: int = 0
) -> Records:
    """Draw records with one image each.

    Stage 1: a short instruction and a caption of 20 to 300 tokens. Stage 2: three turns, text of
    330 tokens on average with a long tail, as in LLaVA-Med's 60,000 conversations.
    """
    random = np.random.default_rng(seed)
    median, spread, share = (95, 0.7, 0.6) if stage == 1 else (290, 0.5, 0.58)
    text = np.exp(random.normal(math.log(median), spread, count)).astype(int)
    text = text.clip(24, max_length - num_image_tokens)
    supervised = np.maximum(4, (text * share).astype(int))
    return Records(text + num_image_tokens, supervised, num_image_tokens)


def pack_records(records: Records, *, max_length: int) -> list[tuple[int, ...]]:
    """Fill packs as the trainer does, over all records."""
    order = np.random.default_rng(0).permutation(len(records.lengths))
    return fill_bins(records.lengths, order, capacity=max_length)


def packed_batch(records: Records, *, image_token_id: int, vocab_size: int) -> dict[str, Tensor]:
    """Join records into one row, as the trainer does."""
    ids, positions, targets = [], [], []
    for length, supervised in zip(records.lengths, records.supervised, strict=True):
        row = _tokens(int(length), records.num_image_tokens, image_token_id, vocab_size)
        target = torch.full((int(length),), IGNORED)
        target[-int(supervised) - 1 : -1] = row[-int(supervised) :]
        ids.append(row)
        positions.append(torch.arange(int(length)))
        targets.append(target)
    target = torch.cat(targets)
    kept = (target != IGNORED).nonzero().flatten()
    return {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat(positions)[None],
        "logits_to_keep": kept,
        "labels": target[kept][None],
        "shift_labels": target[kept][None],
    }


def padded_batch(records: Records, *, image_token_id: int, vocab_size: int) -> dict[str, Tensor]:
    """Pad records to the longest of them, with logits everywhere, as the reference does."""
    longest = int(records.lengths.max())
    shape = (len(records.lengths), longest)
    ids, mask, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), None
    labels = torch.full(shape, IGNORED)
    pairs = zip(records.lengths.tolist(), records.supervised.tolist(), strict=True)
    for row, (length, supervised) in enumerate(pairs):
        tokens = _tokens(length, records.num_image_tokens, image_token_id, vocab_size)
        ids[row, :length], mask[row, :length] = tokens, 1
        labels[row, length - supervised : length] = tokens[-supervised:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def add_images(
    batch: dict[str, Tensor], count: int, *, image_size: int, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Move a batch to its device with `count` random images."""
    pixels = torch.randn(count, 3, image_size, image_size, device=device, dtype=dtype)
    return {**{name: t.to(device) for name, t in batch.items()}, "pixel_values": pixels}


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[dict[str, Tensor]],
) -> float:
    """One optimizer step over `batches`; the loss is the mean over all supervised tokens."""
    total = sum(int((b.get("shift_labels", b["labels"]) != IGNORED).sum()) for b in batches)
    loss_sum = 0.0
    for batch in batches:
        loss = model(**batch, use_cache=False, num_items_in_batch=total).loss
        loss.backward()
        loss_sum += float(loss.detach())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_sum


def seconds_of(action: Callable[[], object], *, device: str) -> float:
    """Time an action, waiting for the device at both ends."""
    _synchronize(device)
    started = time.perf_counter()
    action()
    _synchronize(device)
    return time.perf_counter() - started


def learn(model: torch.nn.Module, *, stage: int) -> list[torch.nn.Parameter]:
    """Freeze what does not learn in the stage; returns what does."""
    for name, parameter in model.named_parameters():
        is_tower = "vision_tower" in name
        parameter.requires_grad_("multi_modal_projector" in name or (stage > 1 and not is_tower))
    return [p for p in model.parameters() if p.requires_grad]


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a small table."""
    table = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def describe(shape: ModelShape) -> str:
    """Say how large a model is."""
    return (
        f"{shape.num_parameters / 1e6:,.0f} M parameters, "
        f"{shape.num_image_tokens} image tokens, vocabulary {shape.vocab_size:,}"
    )


def _tokens(length: int, num_image_tokens: int, image_token_id: int, vocab_size: int) -> Tensor:
    ids = torch.randint(3, min(vocab_size, image_token_id), (length,))
    ids[4 : 4 + num_image_tokens] = image_token_id
    return ids


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
