"""Another picture to ask the same question about, for rewards that make a model look.

Questions enter; for each, a picture of the same modality leaves about which its answer would be
wrong, as far as the data tell. A picture that the data say the same about is never taken: an answer
that is right there must not be charged.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from medllava.records import AnswerType, Question
from medllava.score.normalize import words

_Key = tuple[str, object]
_Answer = tuple[str, ...]


class OtherPictures:
    """What the data say about each picture, and which pictures are of one kind."""

    def __init__(self, questions: Sequence[Question]) -> None:
        """Read the answers of all questions."""
        self._said: defaultdict[tuple[_Key, str], set[_Answer]] = defaultdict(set)
        kinds: defaultdict[str | None, set[str]] = defaultdict(set)
        for question in questions:
            if question.image is None:
                continue
            kinds[question.modality].add(question.image)
            for key in _keys(question):
                self._said[key, question.image].add(_answer(question))
        self._kinds = {kind: sorted(images) for kind, images in kinds.items()}

    def of(self, question: Question, rng: random.Random) -> str | None:
        """Return a picture for which the answer is known or may be taken to be another.

        Those for which it is known come first; None where every picture of the modality has, or
        may have by its own question, the same answer.
        """
        unknown, known = [], []
        for image in self._kinds.get(question.modality, []):
            if image == question.image:
                continue
            said = {answer for key in _keys(question) for answer in self._said[key, image]}
            if not said:
                unknown.append(image)
            elif _answer(question) not in said:
                known.append(image)
        pool = known or unknown
        return rng.choice(pool) if pool else None


def _keys(question: Question) -> Iterator[_Key]:
    """Yield what two questions share if their answers speak of the same thing."""
    yield "text", words(question.question)
    if question.category and question.answer_type is AnswerType.OPEN:
        yield "category", question.category


def _answer(question: Question) -> _Answer:
    return tuple(words(question.answer))


def count_modalities(questions: Iterable[Question]) -> dict[str, int]:
    """Count the questions by the modality of their picture; unknown ones under their own name."""
    counts: defaultdict[str, int] = defaultdict(int)
    for question in questions:
        counts[question.modality or "unknown"] += 1
    return dict(counts)
