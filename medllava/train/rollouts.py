"""Answers of stage 5 without reading a prompt twice: one reading gives all its answers, and counts.

Prompts enter; answers as token ids leave, drawn by the loop that chat and `eval` answer with. What
an answer's tokens were worth to the model comes out of packs in which every prompt stands once and
its answers branch off behind it (`model.packed_attention`). Most of a short answer's step is its
prompt, so a group of many answers costs little more than one.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medllava.model.attention import supports_branches
from medllava.model.decode import Decoder, Rows, decode
from medllava.model.packed_attention import with_segment_masks
from medllava.model.sampling import Sampling


def give_answers(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    pixels: Tensor,
    *,
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
) -> list[list[int]]:
    """Answer every prompt as often as there are seeds for it, drawing from all words.

    The token that stands for an image is none: an answer that has one could not be learned from.

    Args:
        decoder: model that answers.
        prompts: ids, image tokens spread.
        pixels: (N, C, H, W), their images in order.
        seeds: of the draws, a multiple of the prompts; answers to one prompt follow one another.
        temperature: of the draws.
        max_new_tokens: of an answer.

    Returns:
        Ids of every answer, the token that ended it included.
    """
    answers = len(seeds) // len(prompts)
    plain = Sampling(temperature=temperature, top_k=0, repetition_penalty=1.0, stop=())
    speakers = [
        decoder.speaker(
            prompts[number // answers],
            replace(plain, seed=seed),
            streams=False,
            device=torch.device("cpu"),  # the same draws on every device
        )
        for number, seed in enumerate(seeds)
    ]
    rows, image = Rows(decoder, prompts), int(decoder.model.config.image_token_id)

    def advance(tokens: list[int], kept: list[int] | None) -> Tensor:
        return _without(rows.advance(tokens, kept), image)

    first = _without(rows.begin(pixels=pixels, answers=answers), image)
    for _ in decode(speakers, first, advance, max_new_tokens=max_new_tokens):
        pass
    ends = (speaker.reply.end_id for speaker in speakers)
    return [
        speaker.reply.ids + ([] if end is None else [end])
        for speaker, end in zip(speakers, ends, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPack:
    """Answers behind their prompts, every prompt once."""

    inputs: dict[str, Any]
    """Of the model, pixels excepted: `input_ids` and `position_ids` (1, T), `logits_to_keep` (K,)
    and what the segments see."""
    targets: Tensor
    """(K,), the tokens of all answers."""
    rows: Tensor
    """(K,), which answer each belongs to."""
    columns: Tensor
    """(K,), and where it stands in it."""
    firsts: tuple[int, ...]
    """An answer of every group, in the order of the groups in the pack."""
    lengths: tuple[int, ...]
    """Tokens of every group."""


def pack_answers(
    input_ids: Tensor, attention_mask: Tensor, *, width: int, groups: Sequence[int]
) -> AnswerPack:
    """Join answers to the same prompt.

    Args:
        input_ids: (B, P + width), prompts padded on the left and answers on the right.
        attention_mask: 0 for padding.
        width: tokens of the longest answer.
        groups: (B,), equal where prompts and pictures are.
    """
    ids, seen = input_ids.cpu(), attention_mask.cpu().bool()
    start = ids.shape[1] - width
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    pieces: list[Tensor] = []
    positions: list[Tensor] = []
    kept: list[int] = []
    cells: list[tuple[int, int]] = []
    lengths: list[int] = []
    size = 0
    for rows in members.values():
        prompt = ids[rows[0], :start][seen[rows[0], :start]]
        pieces.append(prompt)
        positions.append(torch.arange(len(prompt)))
        begin, size = size, size + len(prompt)
        last = size - 1  # predicts the first token of every answer
        for row in rows:
            said = int(seen[row, start:].sum())
            kept += [last if column == 0 else size + column - 1 for column in range(said)]
            cells += [(row, column) for column in range(said)]
            branch = ids[row, start : start + max(said - 1, 0)]  # its last token predicts nothing
            pieces.append(branch)
            positions.append(len(prompt) + torch.arange(len(branch)))
            size += len(branch)
        lengths.append(size - begin)
    where = torch.tensor(cells, dtype=torch.long).reshape(-1, 2)
    inputs = with_segment_masks(
        {"input_ids": torch.cat(pieces)[None], "position_ids": torch.cat(positions)[None]}
    )
    return AnswerPack(
        inputs={**inputs, "logits_to_keep": torch.tensor(kept, dtype=torch.long)},
        targets=ids[where[:, 0], start + where[:, 1]],
        rows=where[:, 0],
        columns=where[:, 1],
        firsts=tuple(rows[0] for rows in members.values()),
        lengths=tuple(lengths),
    )


def score_pack(
    model: nn.Module, pack: AnswerPack, pixels: Tensor, *, shape: torch.Size, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies of the answers' tokens, (B, width), 0 beyond them.

    Args:
        model: its logits are divided by the temperature, as where the answers were drawn.
        pack: answers.
        pixels: (groups, C, H, W).
        shape: (B, width).
        temperature: of the draws.
    """
    image = int(_untyped(model).config.image_token_id)
    logits = model(**pack.inputs, pixel_values=pixels, use_cache=False).logits[0]
    scores = torch.log_softmax(_without(logits.float(), image) / temperature, dim=-1)
    said = scores.gather(1, pack.targets[:, None])[:, 0]
    entropies = torch.special.entr(scores.detach().exp()).sum(-1)
    where = (pack.rows, pack.columns)
    empty = said.new_zeros(shape)
    return empty.index_put(where, said), empty.index_put(where, entropies)


def _without(logits: Tensor, token: int) -> Tensor:
    """Return logits (R, V) by which a token is never chosen."""
    banned = torch.tensor([token], device=logits.device)
    return logits.index_fill(-1, banned, -torch.inf)


def _untyped(value: Any) -> Any:  # noqa: ANN401 - transformers is typed in part only
    return value


def shares_prompts(model: Any, *, longest: int) -> bool:  # noqa: ANN401 - a native LLaVA
    """Tell whether answers can branch off their prompt: on a CPU, by our own attention there."""
    text = model.config.get_text_config()
    attention, window = text._attn_implementation, getattr(text, "sliding_window", None)  # noqa: SLF001 - its only name
    on_cpu = next(model.parameters()).device.type == "cpu"
    return on_cpu and supports_branches(str(attention), window, longest=longest)
