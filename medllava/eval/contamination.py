"""Which test items did training see? Flags, not verdicts, each with where the match was found.

The test questions are indexed, then the training data stream past: images by their bytes and by
their look, questions by their words. Memory depends on the test set alone.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.questions import load_questions
from medllava.data.dropped import Dropped
from medllava.data.sources import image_root, read_instructions
from medllava.errors import DataError
from medllava.eval.score.normalize import words
from medllava.images.load import load_image
from medllava.images.perceptual_hash import are_alike, compute_perceptual_hash, hash_bands
from medllava.layout import INSTRUCTIONS_FILE, QUESTIONS_FILE
from medllava.records import IMAGE_TOKEN, Question
from medllava.store import contained_path, iter_jsonl, sha256_of

NGRAM_WORDS = 8
"""Shorter questions are compared whole, together with their answer."""
_LOOK_SIDE = 64
"""The look needs no more pixels, and JPEG decodes faster to fewer."""
_RECORDS_AT_ONCE = 256


class Flag(StrEnum):
    """What training shares with a test item."""

    SAME_IMAGE = "same_image"
    """The bytes of the image file."""
    NEAR_IMAGE = "near_image"
    """An image that looks nearly the same."""
    SAME_ITEM = "same_item"
    """The same question, about that same or nearly the same image."""
    SAME_PAIR = "same_question_and_answer"
    """Question and answer in the same words, about any image."""
    NGRAM = "ngram"
    """Eight words of the question in a row."""


IMAGE_FLAGS = frozenset({Flag.SAME_IMAGE, Flag.NEAR_IMAGE, Flag.SAME_ITEM})


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
    train_data: Sequence[Path],
    *,
    image_dir: Path | None = None,
) -> Contamination:
    """Look for test items in training data.

    Args:
        questions: of the test.
        image_paths: file of each image they name; images without a file are not compared.
        train_data: instruction folders, LLaVA JSON, or files of questions.
        image_dir: folder of the training images; None: beside each file, as in training.

    Raises:
        DataError: training data are not there or not readable.
    """
    index = _TestIndex(questions, image_paths)
    found = Contamination()
    for path in train_data:
        seen: dict[str, Matches | None] = {}
        root = image_root(path, image_dir)
        num_records = 0
        source = _iter_samples(path)
        while samples := list(islice(source, _RECORDS_AT_ONCE)):
            num_records += len(samples)
            named = {i for sample in samples for i in sample.images if i not in seen}
            seen |= _match_images(index, root, sorted(named))
            for sample in samples:
                _flag(index, sample, seen, found)
        missing = sum(matches is None for matches in seen.values())
        found.sources.append(
            {
                "path": str(path),
                "sha256": _hash_of(path),
                "records": num_records,
                "images": len(seen) - missing,
                "images_not_readable": missing,
            }
        )
    return found


class _TestIndex:
    """Images and words of the test, to be looked up by those of training."""

    def __init__(self, questions: Sequence[Question], paths: Mapping[str, Path]) -> None:
        self.by_image: dict[str, list[Question]] = {}
        self.by_pair: dict[tuple[Any, ...], list[str]] = {}
        self.by_ngram: dict[tuple[str, ...], list[str]] = {}
        for question in questions:
            asked = words(question.question)
            if question.image is not None:
                self.by_image.setdefault(question.image, []).append(question)
            self.by_pair.setdefault((asked, words(question.answer)), []).append(question.id)
            for gram in _ngrams(asked):
                self.by_ngram.setdefault(gram, []).append(question.id)
        self.by_sha256: dict[str, list[str]] = {}
        self.by_band: dict[str, list[tuple[str, str]]] = {}
        present = [image for image in self.by_image if image in paths and paths[image].is_file()]
        for image, facts in zip(present, _read_images([paths[i] for i in present]), strict=True):
            if facts is None:
                continue
            self.by_sha256.setdefault(facts[0], []).append(image)
            if facts[1]:
                for band in hash_bands(facts[1]):
                    self.by_band.setdefault(band, []).append((image, facts[1]))

    def images_like(self, sha256: str, look: str) -> Matches:
        """Return the test images that are, or look like, this one."""
        same = self.by_sha256.get(sha256, [])
        found = {(image, Flag.SAME_IMAGE) for image in same}
        for band in hash_bands(look) if look else ():
            for image, other in self.by_band.get(band, ()):
                if image not in same and are_alike(look, other):
                    found.add((image, Flag.NEAR_IMAGE))
        return frozenset(found)


def _match_images(
    index: _TestIndex, root: Path, images: Sequence[str]
) -> dict[str, Matches | None]:
    """Return the matching test images of each training image; None where it is not readable."""
    facts = _read_images([_path_or_none(root, image) for image in images])
    return {
        image: None if fact is None else index.images_like(*fact)
        for image, fact in zip(images, facts, strict=True)
    }


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


def _iter_samples(path: Path) -> Iterator[_Sample]:
    """Read instructions, LLaVA JSON or questions, whichever it is."""
    if _holds_questions(path):
        # Of a folder with several splits it is the one that training took.
        is_parted = path.is_dir() and not (path / QUESTIONS_FILE).is_file()
        for question in load_questions(str(path), split="train" if is_parted else None).questions:
            images = () if question.image is None else (question.image,)
            yield _Sample(question.id, images, ((question.question, question.answer),))
        return
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


def _holds_questions(path: Path) -> bool:
    """Tell benchmark questions from instructions."""
    if path.is_dir():
        return not (path / INSTRUCTIONS_FILE).is_file()
    if path.suffix != ".jsonl":
        return False
    first = next(iter_jsonl(path), None)
    return first is not None and "question" in first[1] and "answer" in first[1]


def _hash_of(path: Path) -> str | None:
    file = path / INSTRUCTIONS_FILE if path.is_dir() else path
    return sha256_of(file) if file.is_file() else None


def _path_or_none(root: Path, image: str) -> Path | None:
    try:
        return contained_path(root, image)
    except DataError:
        return None


def _read_images(paths: Sequence[Path | None]) -> list[tuple[str, str] | None]:
    """Return hash and look of each image; None where it cannot be read."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_read_image, paths))


def _read_image(path: Path | None) -> tuple[str, str] | None:
    try:
        if path is None or not path.is_file():
            return None
        return sha256_of(path), compute_perceptual_hash(load_image(path, min_side=_LOOK_SIDE))
    except DataError:
        return None


def _ngrams(text: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for i in range(len(text) - NGRAM_WORDS + 1):
        yield text[i : i + NGRAM_WORDS]
