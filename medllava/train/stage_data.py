"""What a stage trains on: instructions, questions, benchmarks, pairs of replies, or random ones."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from medllava.data.benchmarks.questions import (
    QuestionSet,
    finetune_records,
    holds_questions,
    load_asked,
    load_questions,
)
from medllava.data.dropped import Dropped
from medllava.data.preferences import read_preferences, sides
from medllava.data.random_records import (
    RANDOM_DATA,
    write_random_preferences,
    write_random_questions,
    write_random_records,
)
from medllava.data.sources import image_root, read_instructions
from medllava.records import InstructionRecord, Split, Stage
from medllava.train.config import StageRunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData:
    """The records of a stage and the folder their images are in."""

    path: Path
    image_root: Path
    questions: QuestionSet | None = None
    """Of a benchmark, or of the user's own questions; else the records are instructions."""
    limit: int | None = None
    """Most records to take."""
    parts: tuple["StageData", ...] = ()
    """The sources of a mixture; then the other fields are those of the first one."""

    def sources(self) -> tuple["StageData", ...]:
        """Return the sources of a mixture, or itself."""
        return self.parts or (self,)

    def records(self) -> Iterator[InstructionRecord | Dropped]:
        """Yield the records in the order of their file."""
        if self.parts:
            return chain.from_iterable(part.records() for part in self.parts)
        records: Iterator[InstructionRecord | Dropped]
        if self.questions is None:
            records = read_instructions(self.path)
        else:
            records = finetune_records(self.questions)
        return records if self.limit is None else _first(records, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairData(StageData):
    """Pairs of replies where other stages have conversations: each side is one."""

    def records(self) -> Iterator[InstructionRecord | Dropped]:
        """Yield both conversations of every pair, the chosen one first."""
        return sides(read_preferences(self.path))


def find_data(config: StageRunConfig, *, made_up: Path) -> StageData:
    """Find the records a stage trains on.

    Args:
        config: `data` is instructions, questions with answers, a benchmark whose train split is
            taken (stages 3 and 5), pairs of replies (stage 4), or `random`; `mixture` has several
            of these.
        made_up: folder for the records of `random`.

    Raises:
        DataError: nothing is there, or its form is not known.
    """
    if not config.mixture:
        return _find(config, config.data, made_up)
    parts = tuple(
        replace(_find(config, source.source, made_up), limit=source.limit)
        for source in config.mixture
    )
    return replace(parts[0], parts=parts)


def _find(config: StageRunConfig, source: str, made_up: Path) -> StageData:
    if config.stage is Stage.PREFER:
        path = Path(source)
        if source == RANDOM_DATA:
            path = write_random_preferences(made_up, seed=config.recipe.train.seed)
        return PairData(path=path, image_root=image_root(path, config.image_dir))
    if config.stage is Stage.REINFORCE:
        if source == RANDOM_DATA:
            source = str(write_random_questions(made_up, seed=config.recipe.train.seed))
        asked = load_asked(source, image_dir=config.image_dir)
        root = asked.image_dir or asked.file.parent
        return StageData(path=asked.file, image_root=root, questions=asked)
    if source == RANDOM_DATA:
        path = write_random_records(made_up, seed=config.recipe.train.seed)
        return StageData(path=path, image_root=path)
    path = Path(source)
    if config.stage is Stage.FINETUNE and (not path.exists() or holds_questions(path)):
        split = None if path.is_file() else Split.TRAIN.value  # a file is taken whole
        questions = load_questions(source, split=split, image_dir=config.image_dir)
        root = questions.image_dir or questions.file.parent
        return StageData(path=questions.file, image_root=root, questions=questions)
    return StageData(path=path, image_root=image_root(path, config.image_dir))


def _first(
    records: Iterator[InstructionRecord | Dropped], limit: int
) -> Iterator[InstructionRecord | Dropped]:
    """Yield records up to a number; what was dropped does not count."""
    for record in records:
        if limit == 0:
            return
        limit -= isinstance(record, InstructionRecord)
        yield record
