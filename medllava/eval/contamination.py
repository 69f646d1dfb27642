"""Which test items did training see? Flags, not verdicts, each with where the match was found.

The test questions are indexed, then the training data stream past: images by their bytes and by
what they show, questions by their words. Memory depends on the test set alone. An image that cannot
be opened has not been looked for, so it is named and makes the run incomplete.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.files import find_image_folder
from medllava.data.benchmarks.questions import holds_questions, load_questions
from medllava.data.benchmarks.task import task_names
from medllava.data.dropped import Dropped
from medllava.data.sources import image_root, read_instructions
from medllava.errors import DataError
from medllava.eval.encoder_twins import Encode, EncoderTwins, Seen, look_at
from medllava.images.load import load_image
from medllava.images.twins import MIN_SIDE, TwinIndex
from medllava.layout import INSTRUCTIONS_FILE, QUESTIONS_FILE
from medllava.records import IMAGE_TOKEN, Question
from medllava.score.normalize import words
from medllava.store import contained_path, sha256_of

NGRAM_WORDS = 8
"""Shorter questions are compared whole, together with their answer."""
_RECORDS_AT_ONCE = 256


class Flag(StrEnum):
    """What training shares with a test item."""

    SAME_IMAGE = "same_image"
    """The bytes of the image file."""
    NEAR_IMAGE = "near_image"
    """The same picture: recompressed, cropped a little, brighter, mirrored, turned or framed."""
    SAME_ITEM = "same_item"
    """The same question, about that same or nearly the same image."""
    SAME_PAIR = "same_question_and_answer"
    """Question and answer in the same words, about any image."""
    NGRAM = "ngram"
    """Eight words of the question in a row."""


IMAGE_FLAGS = frozenset({Flag.SAME_IMAGE, Flag.NEAR_IMAGE, Flag.SAME_ITEM})


_Fact = tuple[str, Seen | None]
"""Hash of an image file, and how it looks; None for a nearly blank one."""

Matches = frozenset[tuple[str, Flag]]
"""Test images that one training image is or looks like."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A training record, reduced to what is compared."""

    record_id: str
    images: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """Questions and answers."""


@dataclass(slots=True, kw_only=True)
class Contamination:
    """What was found."""

    flags: dict[str, dict[Flag, str]] = field(default_factory=dict)
    """Question id to flag to the training record that raised it first."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """What was read: path, hash, counts."""
    encoder: dict[str, Any] | None = None
    """How the second look was calibrated; None: it was not made."""
    unread: list[str] = field(default_factory=list)
    """Images of either side that could not be opened, so nothing is known about them."""

    def add(self, question_id: str, flag: Flag, record: str) -> None:
        """Flag an item, unless it bears the flag already."""
        self.flags.setdefault(question_id, {}).setdefault(flag, record)

    def has(self, question_id: str, flags: Iterable[Flag]) -> bool:
        """Tell whether an item bears one of these flags."""
        return not self.flags.get(question_id, {}).keys().isdisjoint(flags)

    def counts(self) -> dict[str, int]:
        """Return the number of items per flag."""
        return {str(flag): sum(flag in found for found in self.flags.values()) for flag in Flag}


def find_contamination(
    questions: Sequence[Question],
    image_paths: Mapping[str, Path],
    train_data: Sequence[str | Path],
    *,
    image_dir: Path | None = None,
    local_copies: Mapping[str, Path] | None = None,
    encode: Encode | None = None,
) -> Contamination:
    """Look for test items in training data.

    Args:
        questions: of the test.
        image_paths: file of each image they name.
        train_data: instruction folders, LLaVA JSON, files of questions, or a shipped task with its
            split, such as `vqarad:train`.
        image_dir: folder of the training images; None: where training would look for them.
        local_copies: task to a local copy of it; others are fetched from the hub.
        encode: a vision encoder, which looks a second time at what the first look did not find.

    Raises:
        DataError: training data are not there or not readable.
    """
    found = Contamination()
    index = _TestIndex(questions, image_paths, found, encode)
    for path in train_data:
        source = _open_source(str(path), image_dir, local_copies or {})
        seen: dict[str, Matches | None] = {}
        num_records = 0
        while samples := list(islice(source.samples, _RECORDS_AT_ONCE)):
            num_records += len(samples)
            named = {i for sample in samples for i in sample.images if i not in seen}
            seen |= _match_images(index, source.folders(sorted(named)), sorted(named))
            for sample in samples:
                _flag(index, sample, seen, found)
        missing = [image for image, matches in seen.items() if matches is None]
        found.unread += [f"{path}: {image}" for image in missing]
        found.sources.append(
            {
                "path": str(path),
                "sha256": source.sha256,
                "records": num_records,
                "images": len(seen) - len(missing),
                "images_not_readable": len(missing),
            }
        )
    return found


class _TestIndex:
    """Images and words of the test, to be looked up by those of training."""

    def __init__(
        self,
        questions: Sequence[Question],
        paths: Mapping[str, Path],
        found: Contamination,
        encode: Encode | None,
    ) -> None:
        self.by_image: dict[str, list[Question]] = {}
        self.by_pair: dict[tuple[Any, ...], list[str]] = {}
        self.by_ngram: dict[tuple[str, ...], list[str]] = {}
        for question in questions:
            asked = words(question.question)
            for image in question.images:
                self.by_image.setdefault(image, []).append(question)
            self.by_pair.setdefault((asked, words(question.answer)), []).append(question.id)
            for gram in _ngrams(asked):
                self.by_ngram.setdefault(gram, []).append(question.id)
        self.by_sha256: dict[str, list[str]] = {}
        seen: dict[str, Seen] = {}
        images = list(self.by_image)
        for image, facts in zip(images, _read_images([paths.get(i) for i in images]), strict=True):
            if facts is None:
                found.unread.append(f"test: {image}")
                continue
            self.by_sha256.setdefault(facts[0], []).append(image)
            if facts[1] is not None:
                seen[image] = facts[1]
        self._twins = TwinIndex(list(seen), [one.signature for one in seen.values()])
        self.encoder = EncoderTwins(list(seen), list(seen.values()), encode) if encode else None
        found.encoder = self.encoder.facts() if self.encoder else None

    def images_like(self, sha256: str, seen: Seen | None) -> Matches:
        """Return the test images that are, or show the same as, this one."""
        same = self.by_sha256.get(sha256, [])
        near = self._twins.find(seen.signature) if seen is not None else []
        return frozenset(
            {(image, Flag.SAME_IMAGE) for image in same}
            | {(image, Flag.NEAR_IMAGE) for image in near if image not in same}
        )


def _match_images(
    index: _TestIndex, folders: Sequence[Path], images: Sequence[str]
) -> dict[str, Matches | None]:
    """Return the matching test images of each training image; None where it is not readable."""
    facts = _read_images([_find(folders, image) for image in images])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        first = pool.map(lambda fact: None if fact is None else index.images_like(*fact), facts)
        matches = dict(zip(images, first, strict=True))
    if index.encoder is not None:
        matches |= _look_again(index.encoder, matches, facts)
    return matches


def _look_again(
    encoder: EncoderTwins, matches: Mapping[str, Matches | None], facts: Sequence[_Fact | None]
) -> dict[str, Matches | None]:
    """Return what the encoder finds of images that the first look found nothing of."""
    unfound = {
        image: fact[1]
        for (image, found), fact in zip(matches.items(), facts, strict=True)
        if fact is not None and fact[1] is not None and not found
    }
    named = zip(unfound, encoder.find(list(unfound.values())), strict=True)
    return {image: frozenset((n, Flag.NEAR_IMAGE) for n in names) for image, names in named}


def _flag(
    index: _TestIndex,
    sample: _Sample,
    seen: Mapping[str, Matches | None],
    found: Contamination,
) -> None:
    asked = {words(question) for question, _ in sample.pairs}
    for image in sample.images:
        for test_image, flag in seen[image] or ():
            for question in index.by_image.get(test_image, ()):
                found.add(question.id, flag, sample.record_id)
                if words(question.question) in asked:
                    found.add(question.id, Flag.SAME_ITEM, sample.record_id)
    for question_text, answer in sample.pairs:
        said = words(question_text)
        for key in index.by_pair.get((said, words(answer)), ()):
            found.add(key, Flag.SAME_PAIR, sample.record_id)
        for text in (said, words(answer)):
            for gram in _ngrams(text):
                for key in index.by_ngram.get(gram, ()):
                    found.add(key, Flag.NGRAM, sample.record_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One `--train-data`, opened."""

    samples: Iterator[_Sample]
    root: Path
    sha256: str | None

    def folders(self, images: Sequence[str]) -> list[Path]:
        """Return where images may lie: the root, or the sub-folder that a copy keeps them in."""
        below = find_image_folder(self.root, images)
        return [self.root] if below in (None, self.root) else [self.root, below]


def _open_source(named: str, image_dir: Path | None, local_copies: Mapping[str, Path]) -> _Source:
    """Open instructions, LLaVA JSON, questions, or a split of a shipped task."""
    path = Path(named)
    task, _, split = named.partition(":")
    if not path.exists() and task in task_names():
        found = load_questions(
            task, data=local_copies.get(task), split=split or "train", image_dir=image_dir
        )
    elif holds_questions(path):
        # Of a folder with several splits it is the one that training took.
        is_parted = path.is_dir() and not (path / QUESTIONS_FILE).is_file()
        found = load_questions(named, split="train" if is_parted else None, image_dir=image_dir)
    else:
        return _Source(
            samples=_instruction_samples(path),
            root=image_root(path, image_dir),
            sha256=_hash_of(path),
        )
    return _Source(
        samples=map(_question_sample, found.questions),
        root=found.image_dir or found.file.parent,
        sha256=found.file_sha256,
    )


def _question_sample(question: Question) -> _Sample:
    images = question.images
    return _Sample(question.id, images, ((question.question, question.answer),))


def _instruction_samples(path: Path) -> Iterator[_Sample]:
    for record in read_instructions(path):
        if isinstance(record, Dropped):
            continue  # training drops it too, by the same reader
        texts = [turn.content.replace(IMAGE_TOKEN, " ") for turn in record.turns]
        pairs = tuple(
            (asked, answered)
            for (turn, asked), (_, answered) in pairwise(zip(record.turns, texts, strict=True))
            if turn.role == "user"
        )
        yield _Sample(record.record_id, record.images, pairs)


def _hash_of(path: Path) -> str | None:
    file = path / INSTRUCTIONS_FILE if path.is_dir() else path
    return sha256_of(file) if file.is_file() else None


def _find(folders: Sequence[Path], image: str) -> Path | None:
    """Return the first of the folders' files of that name; None if there is none inside them."""
    for folder in folders:
        try:
            path = contained_path(folder, image)
        except DataError:
            return None
        if path.is_file():
            return path
    return None


def _read_images(paths: Sequence[Path | None]) -> list[_Fact | None]:
    """Return hash and looks of each image; None where it cannot be read."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_read_image, paths))


def _read_image(path: Path | None) -> _Fact | None:
    try:
        if path is None or not path.is_file():
            return None
        return sha256_of(path), look_at(load_image(path, min_side=MIN_SIDE))
    except DataError:
        return None


def _ngrams(text: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for i in range(len(text) - NGRAM_WORDS + 1):
        yield text[i : i + NGRAM_WORDS]
