"""One record as the model will see it: every piece of text, and whether it is learned.

Of a pair of replies both are shown; of a question that is answered and rewarded, what an answer is
scored against.
"""

import tempfile
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from medllava.data.conversation import user_turn
from medllava.data.dataset import ExampleIndex, build_index
from medllava.data.preferences import pair_id
from medllava.data.tokenize import encode_prompt
from medllava.errors import DataError
from medllava.model.processor import num_image_tokens
from medllava.model.weightless_processor import read_processor
from medllava.progress import Progress
from medllava.records import IMAGE_TOKEN, Stage
from medllava.train.config import StageRunConfig
from medllava.train.showings import question_words
from medllava.train.stage_data import StageData, find_data

_LOOKED_AT = 20
"""Records read to find one that can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens with the same label."""

    text: str
    is_supervised: bool
    num_tokens: int
    """Images counted in full."""
    label: str
    """What becomes of it, in a word or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One record, tokenized as for training."""

    record_id: str
    images: tuple[Path, ...]
    segments: tuple[Segment, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "record_id": self.record_id,
            "images": [str(path) for path in self.images],
            "segments": [
                {
                    "text": s.text,
                    "supervised": s.is_supervised,
                    "tokens": s.num_tokens,
                    "label": s.label,
                }
                for s in self.segments
            ],
        }


def show_sample(
    config: StageRunConfig, *, record_id: str | None = None, progress: Progress
) -> Sample:
    """Return the first usable record of a stage's data, or the one of an id.

    Raises:
        DataError: none of the first records can be used, or the one that is asked for is not there
            or cannot be used; says why.
        SetupError: the model's tokenizer is not at hand.
    """
    processor = read_processor(config.recipe.model, init=config.init)
    with tempfile.TemporaryDirectory(prefix="medllava-") as made_up:
        data = find_data(config, made_up=Path(made_up))
        if config.stage is Stage.REINFORCE:
            return _question_sample(config, data, processor, record_id)
        records = data.records()
        wanted = (r for r in records if record_id in (None, r.record_id, pair_id(r.record_id)))
        chosen = list(islice(wanted, _LOOKED_AT if record_id is None else 2))
        if not chosen and record_id is not None:
            raise DataError(f"no record {record_id!r}: {config.data}. Ids are as in the file.")
        index = build_index(
            chosen,
            processor,
            image_root=data.image_root,
            image_tokens=num_image_tokens(processor),
            max_length=config.recipe.data.max_length,
            progress=progress,
        )
    record, segments = index.record_ids[0], _segments(index, processor.tokenizer, 0)
    if config.stage is Stage.PREFER:
        record = pair_id(record)
        if len(index) < 2 or pair_id(index.record_ids[1]) != record:
            raise DataError(f"of pair {record!r} only one reply can be used: {config.data}.")
        worse = _segments(index, processor.tokenizer, 1)
        segments = [*_to_reply(segments, "better reply"), _to_reply(worse, "worse reply")[-1]]
    return Sample(record_id=record, images=index.images_of(0), segments=tuple(segments))


def _to_reply(segments: list[Segment], label: str) -> list[Segment]:
    """Return one side of a pair up to its last reply, the only one that counts."""
    last = max(place for place, segment in enumerate(segments) if segment.is_supervised)
    before = [replace(s, is_supervised=False, label="masked") for s in segments[:last]]
    return [*before, replace(segments[last], label=label)]


def _question_sample(
    config: StageRunConfig,
    data: StageData,
    processor: Any,  # noqa: ANN401 - any processor
    record_id: str | None,
) -> Sample:
    """Return a question as it is asked, and its right answer."""
    asked = data.questions
    questions = (
        [q for q in asked.questions if q.image and record_id in (None, q.id)] if asked else []
    )
    if asked is None or not questions:
        raise DataError(f"no question {record_id or 'about a picture'!r}: {config.data}.")
    question = questions[0]
    text = question_words(question, asked, config.recipe.stage.reinforce.rewards)
    ids = encode_prompt(processor, [user_turn(text, num_images=1)], image_tokens=1)
    steps = "".join(f"\nkey step: {' | '.join(step)}" for step in question.key_steps)
    return Sample(
        record_id=question.id,
        images=(data.image_root / str(question.image),),
        segments=(
            Segment(
                text=str(processor.tokenizer.decode(ids)),
                is_supervised=False,
                num_tokens=len(ids) + num_image_tokens(processor) - 1,
                label="asked",
            ),
            Segment(
                text=question.answer + steps,
                is_supervised=False,
                num_tokens=0,
                label="answers are scored against",
            ),
        ),
    )


def _segments(
    index: ExampleIndex,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer
    place: int,
) -> list[Segment]:
    start, end = index.starts[place : place + 2]
    ids, supervised = index.ids[start:end], index.supervised[start:end]
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    segments = []
    for is_supervised, members in groupby(range(len(ids)), key=lambda i: bool(supervised[i])):
        part = ids[list(members)]
        images = int(np.count_nonzero(part == image_id))
        segments.append(
            Segment(
                text=str(tokenizer.decode(part.tolist())),
                is_supervised=is_supervised,
                num_tokens=len(part) + images * (index.image_tokens - 1),
                label="learned" if is_supervised else "masked",
            )
        )
    return segments
