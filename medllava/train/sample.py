"""One record as the model will see it: every piece of text, and whether it is learned."""

import tempfile
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from medllava.data.dataset import ExampleIndex, build_index
from medllava.errors import DataError
from medllava.model.processor import num_image_tokens
from medllava.model.weightless_processor import read_processor
from medllava.progress import Progress
from medllava.records import IMAGE_TOKEN
from medllava.train.config import StageRunConfig
from medllava.train.stage_data import find_data

_LOOKED_AT = 20
"""Records read to find one that can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens with the same label."""

    text: str
    is_supervised: bool
    num_tokens: int
    """Images counted in full."""


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
                {"text": s.text, "supervised": s.is_supervised, "tokens": s.num_tokens}
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
        records = data.records()
        wanted = (record for record in records if record_id in (None, record.record_id))
        chosen = list(islice(wanted, _LOOKED_AT if record_id is None else 1))
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
    return Sample(
        record_id=index.record_ids[0],
        images=index.images_of(0),
        segments=tuple(_segments(index, processor.tokenizer)),
    )


def _segments(index: ExampleIndex, tokenizer: Any) -> list[Segment]:  # noqa: ANN401 - any tokenizer
    end = int(index.starts[1])
    ids, supervised = index.ids[:end], index.supervised[:end]
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    segments = []
    for is_supervised, members in groupby(range(end), key=lambda i: bool(supervised[i])):
        part = ids[list(members)]
        images = int(np.count_nonzero(part == image_id))
        segments.append(
            Segment(
                text=str(tokenizer.decode(part.tolist())),
                is_supervised=is_supervised,
                num_tokens=len(part) + images * (index.image_tokens - 1),
            )
        )
    return segments
