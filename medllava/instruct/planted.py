"""Errors planted by rule: a true answer enters, the same answer with one wrong thing in it leaves.

The kinds of error are those that models make about pictures: the other side, a finding denied or
invented, another organ, modality, stain or plane, another number. An answer keeps its length to a
word or two, so that length tells nothing about which one is right.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from medllava.instruct.facts import named_values
from medllava.instruct.vocabulary import TOPICS, Topic
from medllava.score.normalize import words

_SIDES = (
    ("left", "right"),
    ("anterior", "posterior"),
    ("upper", "lower"),
    ("superior", "inferior"),
    ("medial", "lateral"),
    ("proximal", "distal"),
    ("dorsal", "ventral"),
    ("bilateral", "unilateral"),
    ("ascending", "descending"),
)
_OPPOSITES = (
    ("normal", "abnormal"),
    ("present", "absent"),
    ("increased", "decreased"),
    ("hyperintense", "hypointense"),
    ("hyperdense", "hypodense"),
    ("malignant", "benign"),
    ("positive", "negative"),
    ("with", "without"),
    ("enlarged", "small"),
    ("acute", "chronic"),
    ("yes", "no"),
)
_NOT_A_SIDE = re.compile(r"(?:all right|right (?:now|away)|left (?:untreated|out|over|open))", re.I)
_DENIALS = (
    (
        re.compile(r"\b(There (?:is|are)|shows?|reveals?|demonstrates?) no (evidence of )?", re.I),
        r"\1 ",
    ),
    (re.compile(r"\bno evidence of\b", re.I), "evidence of"),
    (
        re.compile(r"\b(There (?:is|are)|shows?|reveals?|demonstrates?)( an?)? (?!no\b)", re.I),
        r"\1 no ",
    ),
)
_NUMBER = re.compile(r"(?<![\w.,-])(\d{1,3})(?![\w.,%-])")
_MARKS = frozenset(
    word for pairs in (_SIDES, _OPPOSITES) for pair in pairs for word in pair
) | frozenset(("not", "none", "never", "neither"))
"""Words of which one alone changes what an answer says."""
_EMPTY = frozenset(
    (
        *("of", "in", "on", "at", "to", "for", "by", "from"),
        *("and", "or", "is", "are", "was", "were", "be", "been"),
        *("it", "its", "this", "that", "these", "those", "as", "there"),
        *("here", "image", "picture", "figure", "shows", "show", "shown", "seen"),
        *("see", "can", "you", "i", "we", "which", "also", "very"),
    )
)
"""Words that say nothing about a picture."""
_SAME_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Planted:
    """An answer with one error."""

    text: str
    kind: str
    """`side`, `negation`, `opposite`, `number`, or the name of the topic that was exchanged."""


Frequencies = dict[str, Counter[str]]
"""How often each answer of each topic is right in the data."""


def plant_error(text: str, rng: random.Random, frequencies: Frequencies) -> Planted | None:
    """Return the answer with one error in it, None if no rule finds a place for one.

    Args:
        text: true.
        rng: of this answer.
        frequencies: wrong values are drawn as often as they are right elsewhere, so that a value
            alone does not tell a wrong answer.
    """
    found = [
        planted
        for rule in _RULES
        for planted in rule(text, rng, frequencies)
        if is_length_matched(text, planted.text) and not same_substance(text, planted.text)
    ]
    return rng.choice(found) if found else None


def is_length_matched(chosen: str, rejected: str) -> bool:
    """Tell whether two answers are about equally long: within a quarter, and at least two words."""
    expected, got = len(chosen.split()), len(rejected.split())
    return abs(expected - got) <= max(2, expected // 4)


def same_substance(chosen: str, rejected: str) -> bool:
    """Tell whether two answers say the same, or the second says nothing.

    Sides, denials and numbers count whatever else is equal; else four fifths of the shorter
    answer's content words make it the same.
    """
    first, second = words(chosen), words(rejected)
    content = set(first) - _EMPTY, set(second) - _EMPTY
    if first == second or not second or not content[1]:
        return True
    marks = [{w for w in said if w in _MARKS or w.isdigit()} for said in (first, second)]
    if marks[0] != marks[1]:
        return False
    if not content[0]:
        return False
    return len(content[0] & content[1]) / min(map(len, content)) >= _SAME_SHARE


def _swap_sides(text: str, *_: object) -> Iterator[Planted]:
    if not _NOT_A_SIDE.search(text):
        yield from _swaps(text, _SIDES, "side")


def _swap_opposites(text: str, *_: object) -> Iterator[Planted]:
    yield from _swaps(text, _OPPOSITES, "opposite")


def _swaps(text: str, pairs: tuple[tuple[str, str], ...], kind: str) -> Iterator[Planted]:
    for one, other in pairs:
        changed, count = re.subn(
            rf"\b(?:{one}|{other})\b", partial(_turned, one, other), text, flags=re.IGNORECASE
        )
        if count:
            yield Planted(changed, kind)


def _turned(one: str, other: str, match: re.Match[str]) -> str:
    said = match.group()
    return _cased(said, other if said.lower() == one else one)


def _cased(before: str, after: str) -> str:
    if before.isupper() and len(before) > 1:
        return after.upper()
    return after.capitalize() if before[:1].isupper() else after


def _deny(text: str, *_: object) -> Iterator[Planted]:
    for pattern, replacement in _DENIALS:
        changed, count = pattern.subn(replacement, text, count=1)
        if count:
            yield Planted(changed, "negation")
            return


def _change_number(text: str, rng: random.Random, *_: object) -> Iterator[Planted]:
    match = _NUMBER.search(text)
    if match is not None:
        number = int(match.group(1))
        other = rng.choice([n for n in range(max(1, number - 3), number + 4) if n != number])
        yield Planted(f"{text[: match.start()]}{other}{text[match.end() :]}", "number")


def _exchange_value(text: str, rng: random.Random, frequencies: Frequencies) -> Iterator[Planted]:
    for topic in TOPICS:
        if not topic.values:
            continue
        named = named_values(topic, text)
        if len(named) != 1:
            continue
        answer = named[0].answer
        pattern = re.compile(rf"\b{re.escape(answer)}(?!\w)", re.IGNORECASE)
        other = _other_value(topic, answer, rng, frequencies)
        if other is not None and pattern.search(text):
            yield Planted(pattern.sub(partial(_like, answer, other), text), topic.name)


def _like(answer: str, other: str, match: re.Match[str]) -> str:
    """Return another value with a capital where this one has got one from its place."""
    is_raised = match.group()[:1].isupper() and answer[:1].islower()
    return other[:1].upper() + other[1:] if is_raised else other


def _other_value(
    topic: Topic, answer: str, rng: random.Random, frequencies: Frequencies
) -> str | None:
    """Return a value that is wrong where `answer` is right, of as many words if there is one."""
    seen = frequencies.get(topic.name, Counter())
    own = next(value for value in topic.values if value.answer == answer)
    others = [
        value
        for value in topic.values
        if seen[value.answer]
        and value.answer != answer
        and value.answer not in own.within
        and answer not in value.within
    ]
    equal = [v for v in others if len(v.answer.split()) == len(answer.split())]
    pool = equal or others
    if not pool:
        return None
    return rng.choices(pool, weights=[seen[value.answer] for value in pool])[0].answer


_RULES: tuple[Callable[[str, random.Random, Frequencies], Iterator[Planted]], ...] = (
    _swap_sides,
    _swap_opposites,
    _deny,
    _change_number,
    _exchange_value,
)
