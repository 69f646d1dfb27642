"""Floors: the same questions with the wrong image, a blank one, none, or no model at all.

Questions enter; what to show instead, or ready-made replies, leave. A score says something only
next to these.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from medllava.errors import DataError
from medllava.records import AnswerType, Question
from medllava.score.closed import closed_hit
from medllava.score.normalize import words

_LETTERS = "ABCDEFGH"


def permute_images(images: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """Give every image another one of the same set.

    Args:
        images: path to content key; equal keys are the same picture under two names.
        seed: of the order; the pictures form one random cycle, so none stays in place.

    Raises:
        DataError: there are not two different pictures.
    """
    representatives: dict[str, str] = {}
    for image in sorted(images):
        representatives.setdefault(images[image], image)
    keys = list(representatives)
    if len(keys) < 2:
        raise DataError(
            "permuted images need at least two different images. Leave --controls permuted out."
        )
    random.Random(seed).shuffle(keys)
    following = dict(zip(keys, [*keys[1:], keys[0]], strict=True))
    return {image: representatives[following[key]] for image, key in images.items()}


def majority_replies(questions: Sequence[Question]) -> list[str]:
    """Return the most frequent reference of each answer type as the reply to all of that type.

    It is read from the test references themselves, so it is the highest such floor.
    """
    most_frequent = {
        answer_type: _most_frequent(q for q in questions if q.answer_type is answer_type)
        for answer_type in AnswerType
    }
    return [most_frequent[question.answer_type] for question in questions]


def constant_replies(questions: Sequence[Question]) -> list[str]:
    """Return the one reply to everything that is best on the closed questions.

    Candidates are yes, no and the letters of multiple choice.
    """
    closed = [q for q in questions if q.answer_type is AnswerType.CLOSED]
    num_choices = max((len(q.choices) for q in closed), default=0)
    candidates = ["yes", "no", *_LETTERS[:num_choices]]
    best = max(candidates, key=lambda reply: sum(closed_hit(q, reply) is True for q in closed))
    return [best] * len(questions)


def _most_frequent(questions: Iterable[Question]) -> str:
    counts: Counter[tuple[str, ...]] = Counter()
    spelling: dict[tuple[str, ...], str] = {}
    for question in questions:
        counts[words(question.answer)] += 1
        spelling.setdefault(words(question.answer), question.answer)
    return spelling[counts.most_common(1)[0][0]] if counts else ""
