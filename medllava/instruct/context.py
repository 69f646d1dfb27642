"""What a figure's own words say, for the gates: caption, mentions, the values they state."""

import re
from dataclasses import dataclass

from medllava.instruct.facts import named_values
from medllava.instruct.vocabulary import (
    BODY_PART,
    MODALITY,
    PLANE,
    SEQUENCE,
    STAIN,
    VIEW,
    Value,
)
from medllava.records import FigureRecord

COMPARED = (MODALITY, PLANE, STAIN, SEQUENCE, VIEW, BODY_PART)
"""Topics in which words can contradict a caption."""
WORD = re.compile(r"[^\W_]+")
NEGATION = re.compile(
    r"\b(?:no|not|non|never|without|neither|nor|absent|absence|n't|free\s+of|lacks?|rule[ds]?\s+out)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What the figure's own words say."""

    caption: str
    """With the label."""
    words: str
    """Caption and sentences of the article, in lower case."""
    stems: frozenset[str]
    """First five letters of every word of them."""
    stated: dict[str, Value]
    """By topic, the value that the caption names where it names exactly one."""


def read_context(figure: FigureRecord) -> Context:
    """Return what is known of a figure from words."""
    caption = f"{figure.label}. {figure.caption}" if figure.label else figure.caption
    words = " ".join((caption, *figure.in_text_mentions)).lower()
    stems = frozenset(stem_of(word) for word in WORD.findall(words))
    stated = {}
    for topic in COMPARED:
        named = named_values(topic, caption)
        # Of the leg and its tibia the tibia is meant.
        inner = [v for v in named if not any(v.answer in other.within for other in named)]
        if len(inner) == 1:
            stated[topic.name] = inner[0]
    return Context(caption, words, stems, stated)


def is_related(one: Value, other: Value) -> bool:
    """Tell whether one value is a part of the other."""
    return one.answer in other.within or other.answer in one.within


def stem_of(word: str) -> str:
    """Return the beginning of a word, by which its forms are told to be one."""
    return word[:5]
