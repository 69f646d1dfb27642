"""Records to token ids and labels, without looking at any image.

An `InstructionRecord` enters with its processor; ids and the mask of supervised tokens leave, with
each image still one token. Exactly the replies and their end tokens are supervised. Packing needs
only these; `dataset` holds them for a whole file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllava.data.conversation import (
    ASSISTANT,
    Span,
    find_special_token,
    needs_special_tokens,
    render_prompt,
    render_replies,
)
from medllava.data.dropped import Dropped, DropReason
from medllava.errors import SetupError
from medllava.records import IMAGE_TOKEN, InstructionRecord, Turn

_PROBE = (Turn(role="user", content="question"), Turn(role=ASSISTANT, content="answer"))
"""What every usable chat template can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """Ids of one record; each image is one token here."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    """True for tokens the model learns to say."""
    shortened: bool = False


def check_placeholders(record: InstructionRecord) -> bool:
    """Tell whether the user turns hold one `<image>` per image, and the replies none."""
    in_replies = any(IMAGE_TOKEN in turn.content for turn in record.turns if turn.role == ASSISTANT)
    places = sum(turn.content.count(IMAGE_TOKEN) for turn in record.turns)
    return places == len(record.images) and not in_replies


def encode_prompt(
    processor: Any,  # noqa: ANN401 - any processor
    turns: Sequence[Turn],
    *,
    image_tokens: int,
) -> list[int]:
    """Return the ids of a conversation that waits for its next reply.

    Args:
        processor: its template and tokenizer are used, its image half is not.
        turns: with one placeholder per image.
        image_tokens: over so many tokens each image is spread.
    """
    text = render_prompt(processor, turns, open_reply=True)
    add_start = needs_special_tokens(processor, text)
    spread = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * image_tokens)
    ids: list[int] = processor.tokenizer(spread, add_special_tokens=add_start)["input_ids"]
    return ids


def encode_records(
    records: Sequence[InstructionRecord],
    processor: Any,  # noqa: ANN401 - any processor with a fast tokenizer
    *,
    image_tokens: int,
    max_length: int,
) -> list[EncodedText | Dropped]:
    """Tokenize records and mark what is supervised.

    Args:
        records: with placeholders that match their images.
        processor: its template and tokenizer are used, its image half is not.
        image_tokens: what one image takes in the sequence.
        max_length: longest sequence, images counted in full. Over-long text is cut at its end; a
            cut never touches an image.

    Returns:
        One entry per record, in order: the ids, or why it cannot be used.

    Raises:
        SetupError: the tokenizer gives no offsets, or no conversation can be written with the
            chat template.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise SetupError("the tokenizer gives no offsets. Use a model with a fast tokenizer.")
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rendered = [_render(processor, record) for record in records]
    texts = [outcome[0] for outcome in rendered if not isinstance(outcome, Dropped)]
    if not texts:
        return [outcome for outcome in rendered if isinstance(outcome, Dropped)]
    encoding = tokenizer(
        texts,
        add_special_tokens=needs_special_tokens(processor, texts[0]),
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    numbers = iter(range(len(texts)))
    results: list[EncodedText | Dropped] = []
    for record, outcome in zip(records, rendered, strict=True):
        if isinstance(outcome, Dropped):
            results.append(outcome)
            continue
        number = next(numbers)
        ids = np.asarray(encoding["input_ids"][number], dtype=np.int32)
        starts, ends = np.asarray(encoding["offset_mapping"][number], dtype=np.int64).T
        supervised = np.zeros(len(ids), dtype=np.bool_)
        for first, last in outcome[1]:
            supervised |= (ends > first) & (starts < last) & (ends > starts)
        fitted: EncodedText | DropReason = DropReason.NO_REPLY
        if supervised[1:].any():
            fitted = _fit(ids, supervised, ids == image_id, image_tokens, max_length)
        if isinstance(fitted, DropReason):
            results.append(Dropped(record_id=record.record_id, reason=fitted))
        else:
            results.append(fitted)
    return results


def _render(
    processor: Any,  # noqa: ANN401 - any processor
    record: InstructionRecord,
) -> tuple[str, list[Span]] | Dropped:
    """Write one conversation; one that the template cannot write is dropped, with its words.

    Raises:
        SetupError: the template cannot write any conversation.
    """
    token = find_special_token(processor, record.turns)
    if token is not None:
        return Dropped(
            record_id=record.record_id, reason=DropReason.SPECIAL_TOKEN, detail=repr(token)
        )
    try:
        return render_replies(processor, record.turns)
    except SetupError as error:
        render_replies(processor, _PROBE)
        return Dropped(record_id=record.record_id, reason=DropReason.TEMPLATE, detail=str(error))


def _fit(
    ids: NDArray[np.int32],
    supervised: NDArray[np.bool_],
    is_image: NDArray[np.bool_],
    image_tokens: int,
    max_length: int,
) -> EncodedText | DropReason:
    """Cut the end of an over-long text; give up where an image or every label would go."""
    width = np.where(is_image, image_tokens, 1).cumsum()
    if width[-1] <= max_length:
        return EncodedText(input_ids=ids, supervised=supervised)
    kept = int(np.searchsorted(width, max_length, side="right"))
    if is_image[kept:].any() or not supervised[1:kept].any():
        return DropReason.TOO_LONG
    return EncodedText(input_ids=ids[:kept], supervised=supervised[:kept], shortened=True)
