"""Counts of a stage's records, which are all the plan needs to know of the data.

The trainer counts them with the model's tokenizer. Where there is no tokenizer at hand they are
estimated from characters, and where there is no data at all, LLaVA-Med's published sizes stand in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medllava.data.dropped import Dropped
from medllava.model.shapes import ModelShape
from medllava.records import InstructionRecord, Stage

if TYPE_CHECKING:
    from medllava.data.dataset import ExampleIndex
    from medllava.data.mixture import Mixture
    from medllava.recipe import DataSource

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_TURN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStatistics:
    """Counts of the records a stage trains on, taken without decoding images."""

    source: str
    """Path or name of the data; says so when the counts are assumed."""
    num_records: int
    """Records used, dropped ones excluded."""
    num_tokens: int
    """Over all records, image tokens included."""
    num_supervised: int
    num_images: int
    sum_squared_lengths: float
    longest: int
    """Tokens of the longest record."""
    num_dropped: Mapping[str, int] = field(default_factory=dict)
    """Records left out, by reason."""
    num_packs: int = 0
    """As made by the packer; 0 estimates it."""
    is_assumed: bool = False
    mixture: str = ""
    """Of several sources: how many records of each a pass draws."""

    @classmethod
    def of_lengths(
        cls,
        lengths: Sequence[int],
        *,
        source: str,
        num_supervised: int,
        num_images: int,
        num_dropped: Mapping[str, int] | None = None,
        num_packs: int = 0,
    ) -> "DataStatistics":
        """Count from the lengths in tokens of all records that are used."""
        return cls(
            source=source,
            num_records=len(lengths),
            num_tokens=sum(lengths),
            num_supervised=num_supervised,
            num_images=num_images,
            sum_squared_lengths=float(sum(length * length for length in lengths)),
            longest=max(lengths, default=0),
            num_dropped=num_dropped or {},
            num_packs=num_packs,
        )


def count_index(
    index: "ExampleIndex", *, source: str, mixture: "Mixture | None" = None
) -> DataStatistics:
    """Return the counts of an index, of a mixture those of one pass, as the plan wants them."""
    drawn = slice(None) if mixture is None else mixture.order(seed=0, epoch=0)
    return DataStatistics.of_lengths(
        index.lengths[drawn].tolist(),
        source=source,
        num_supervised=int(index.supervised_counts[drawn].sum()),
        num_images=int((index.image_starts[1:] - index.image_starts[:-1])[drawn].sum()),
        num_dropped=index.drop_counts,
    )


def describe_mixture(sources: "Sequence[DataSource]", mixture: "Mixture") -> str:
    """Say what a pass draws from each source."""
    sizes = [int((mixture.origins == number).sum()) for number in range(len(sources))]
    return "; ".join(
        f"{source.source} {share:.1%} ({count:,} of {size:,} records a pass)"
        for source, share, count, size in zip(
            sources, mixture.shares, mixture.draws, sizes, strict=True
        )
    )


def assumed_data(stage: Stage, shape: ModelShape) -> DataStatistics:
    """Return counts like those of the data LLaVA-Med published, for a plan without data.

    Source: LLaVA-Med's released files (500,000 alignment pairs, 60,017 conversations) and SLAKE's
    4,919 English training questions; tokens per record are rough averages. Stage 4 is POVID's
    17,000 pairs, two sides each, stage 5 SLAKE with eight answers to each question.
    """
    records, text, supervised = {
        Stage.ALIGN: (500_000, 140, 84),
        Stage.INSTRUCT: (60_017, 330, 190),
        Stage.FINETUNE: (4_919, 40, 6),
        Stage.PREFER: (2 * 17_000, 330, 190),
        Stage.REINFORCE: (8 * 4_919, 40, 6),
    }[stage]
    length = text + shape.num_image_tokens
    return DataStatistics(
        source="LLaVA-Med's published data",
        num_records=records,
        num_tokens=records * length,
        num_supervised=records * supervised,
        num_images=records,
        sum_squared_lengths=float(records * length * length),
        longest=length,
        is_assumed=True,
    )


def estimate_data(
    records: Iterable[InstructionRecord | Dropped], shape: ModelShape, *, source: str
) -> DataStatistics:
    """Count records without a tokenizer, at four characters per token; images are not opened."""
    lengths, supervised, images = [], 0, 0
    dropped: Counter[str] = Counter()
    for record in records:
        if isinstance(record, Dropped):
            dropped[record.reason.value] += 1
            continue
        characters = sum(len(turn.content) for turn in record.turns)
        replies = sum(len(turn.content) for turn in record.turns if turn.role == "assistant")
        length = characters // _CHARACTERS_PER_TOKEN + _TOKENS_PER_TURN * len(record.turns)
        lengths.append(length + len(record.images) * shape.num_image_tokens)
        supervised += replies // _CHARACTERS_PER_TOKEN + 1
        images += len(record.images)
    counted = DataStatistics.of_lengths(
        lengths, source=source, num_supervised=supervised, num_images=images
    )
    counted = replace(counted, num_dropped=dict(dropped))
    return replace(counted, is_assumed=True)


def dropped_text(data: DataStatistics) -> str:
    """Say how many records were left out and why."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in data.num_dropped.items())
    return f"{sum(data.num_dropped.values()):,} dropped{f': {reasons}' if reasons else ''}"
