"""Read from a figure record the facts that its own words state beyond doubt.

A caption goes in, `Fact`s come out, for the template teacher to ask about. A topic gives a fact
only where the caption names exactly one of its values, and not in a negation: a caption that names
two modalities says nothing certain about the picture. Patient facts that no image shows (age,
outcome) are not among the topics.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from medllava.instruct.vocabulary import (
    COUNT,
    COUNTED_NOUNS,
    MODALITY,
    PANELS,
    TOPICS,
    Topic,
    Value,
)
from medllava.records import FigureRecord, Modality

_WORDS = "one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = dict(zip(_WORDS.split(" "), range(1, 13), strict=True))
_NUMBER = rf"\d{{1,4}}|{'|'.join(_NUMBER_WORDS)}"
_COUNTED = re.compile(
    rf"(?<![\w.,-])({_NUMBER})\s+(?:[a-z-]+\s+){{0,2}}?({COUNTED_NOUNS})\b", re.IGNORECASE
)
_PANEL_COUNT = re.compile(rf"\b({_NUMBER})[- ](?:image )?panels?\b", re.IGNORECASE)
_PANEL_MARK = re.compile(r"(?<!\w)\(?([A-Ha-h])(?:\s?[-,\u2013]\s?([A-Ha-h]))?\)")
_NOUN = re.compile(rf"\b({COUNTED_NOUNS})\b", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:no|not|non|without|absen\w+ of|negative for)(?:[ -]\w+){0,1}[ -]$", re.I
)
_NEGATION_REACH = 30

_RECORD_MODALITY = {
    Modality.CHEST_XRAY: "X-ray",
    Modality.CT: "CT",
    Modality.MRI: "MRI",
    Modality.HISTOPATHOLOGY: "histopathology",
    Modality.GROSS_PATHOLOGY: "gross pathology",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that the record itself says of the picture."""

    topic: Topic
    answer: str
    """One to three words."""
    noun: str = ""
    """What is counted, in the topics that count."""

    @property
    def count(self) -> int | None:
        """The number, in the topics that count."""
        return int(self.answer) if self.answer.isdigit() else None

    @property
    def value(self) -> Value:
        """The value of the topic, in those that do not count."""
        return next(value for value in self.topic.values if value.answer == self.answer)

    @property
    def statement(self) -> str:
        """What the picture shows, such as "it is an X-ray"."""
        phrase = "" if self.count is not None else self.value.phrase.format(noun=self.noun)
        return self.topic.statement.format(answer=self.answer, noun=self.noun, phrase=phrase)


def read_facts(figure: FigureRecord) -> tuple[Fact, ...]:
    """Return the facts of a figure, one per topic at most, in the order of the topics.

    The modality comes from the caption, else from the record's own `modality`; everything else
    from the caption alone, because mentions in the body may speak of other figures too.
    """
    text = f"{figure.label}. {figure.caption}" if figure.label else figure.caption
    facts = [
        fact
        for topic in TOPICS
        if (fact := _read_value(topic, text) if topic.values else _read_number(topic, text))
    ]
    # A caption that names several modalities is no reason to trust the record's one.
    if figure.modality in _RECORD_MODALITY and not named_values(MODALITY, text):
        facts.insert(0, Fact(topic=MODALITY, answer=_RECORD_MODALITY[figure.modality]))
    return tuple(facts)


def _read_value(topic: Topic, text: str) -> Fact | None:
    named = named_values(topic, text)
    inner = [v for v in named if not any(v.answer in other.within for other in named)]
    if len(inner) != 1:
        return None
    noun = ""
    if "{noun}" in inner[0].phrase:
        nouns = {match.lower() for match in _NOUN.findall(text)}
        if len(nouns) != 1:
            return None
        noun = nouns.pop()
    return Fact(topic=topic, answer=inner[0].answer, noun=noun)


def _read_number(topic: Topic, text: str) -> Fact | None:
    if topic is COUNT:
        found = {(_number(n), noun.lower()) for n, noun in _COUNTED.findall(text)}
        if len(found) == 1:
            count, noun = found.pop()
            return Fact(topic=COUNT, answer=str(count), noun=noun)
        return None
    stated = {_number(n) for n in _PANEL_COUNT.findall(text)}
    count = _count_panel_marks(text)
    numbers = stated | ({count} if count else set())
    return Fact(topic=PANELS, answer=str(numbers.pop())) if len(numbers) == 1 else None


def _count_panel_marks(text: str) -> int:
    """Return how many panels marks such as (A), b) or (C-E) name; 0 if they have gaps."""
    letters: set[str] = set()
    for first, last in _PANEL_MARK.findall(text):
        end = last or first
        letters.update(chr(c) for c in range(ord(first.lower()), ord(end.lower()) + 1))
    expected = {chr(ord("a") + i) for i in range(len(letters))}
    return len(letters) if len(letters) > 1 and letters == expected else 0


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBER_WORDS[text.lower()]


def named_values(topic: Topic, text: str) -> list[Value]:
    """Return the different values that the text names, where longer words win over shorter."""
    spans = sorted(_spans(topic, text), key=lambda span: (span[0] - span[1], span[0]))
    taken: list[tuple[int, int]] = []
    named: dict[str, Value] = {}
    for start, end, value in spans:
        if all(end <= left or start >= right for left, right in taken):
            taken.append((start, end))
            named[value.answer] = value
    return list(named.values())


def _spans(topic: Topic, text: str) -> Iterator[tuple[int, int, Value]]:
    for value in topic.values:
        for match in _compiled(value.pattern).finditer(text):
            before = text[max(0, match.start() - _NEGATION_REACH) : match.start()]
            if not _NEGATED.search(before):
                yield match.start(), match.end(), value


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
