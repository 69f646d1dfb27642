"""A text that is too long is cut at exactly the limit, and never through an image."""

import numpy as np
import pytest

from medllava.data.dropped import Dropped, DropReason
from medllava.data.tokenize import EncodedText, encode_records
from medllava.model.weightless_processor import read_processor
from medllava.recipe import load_recipe
from medllava.records import InstructionRecord, Stage, Turn

IMAGE_TOKENS = 4


@pytest.fixture(scope="module")
def processor() -> object:
    return read_processor(load_recipe("debug").model, init="parts")


def encode(processor: object, record: InstructionRecord, max_length: int) -> object:
    (encoded,) = encode_records(
        [record], processor, image_tokens=IMAGE_TOKENS, max_length=max_length
    )
    return encoded


def record(*replies: str, images: int = 1) -> InstructionRecord:
    turns = []
    for number, reply in enumerate(replies):
        picture = "<image>\n" * images if not number else ""
        turns += [
            Turn(role="user", content=f"{picture}What?"),
            Turn(role="assistant", content=reply),
        ]
    return InstructionRecord(
        record_id="r", images=("a.png",) * images, turns=tuple(turns), stage=Stage.INSTRUCT
    )


def width(encoded: EncodedText, processor: object) -> int:
    ids = encoded.input_ids
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    return len(ids) + int((ids == image_id).sum()) * (IMAGE_TOKENS - 1)


def test_a_cut_text_has_exactly_max_length_tokens(processor: object) -> None:
    long = record("word " * 50)
    whole = encode(processor, long, 10_000)
    full = width(whole, processor)
    for limit in (full - 1, full - 7):
        cut = encode(processor, long, limit)
        assert cut.shortened
        assert width(cut, processor) == limit
        assert np.array_equal(cut.input_ids, whole.input_ids[: len(cut.input_ids)])
        assert np.array_equal(cut.supervised, whole.supervised[: len(cut.input_ids)])
    at_the_limit = encode(processor, long, full)
    assert not at_the_limit.shortened
    assert np.array_equal(at_the_limit.input_ids, whole.input_ids)


def test_a_record_whose_images_alone_are_too_long_is_dropped(processor: object) -> None:
    dropped = encode(processor, record("yes", images=6), 20)
    assert isinstance(dropped, Dropped)
    assert dropped.reason is DropReason.TOO_LONG
