"""A teacher's reply as question-answer pairs, whatever shape it came in.

Replies are JSON where the server holds models to it, and otherwise JSON with talk around it, JSON
that was cut off, or paragraphs that begin with a speaker's name. What cannot be read is dropped by
rule, never guessed, and no reply raises; `filters` goes on with the pairs.
"""

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from medllava.score.choices import choice_named

TURN_STRUCTURE = "turn_structure"

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_SPEAKER = re.compile(
    r"^[ \t]*(?:[*_#>-]+[ \t]*)?(User|Human|Person|Question|Q|Assistant|Answer|A)"
    r"[ \t]*\d*[*_]*[ \t]*:[*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_PAIR_START = re.compile(r'\{\s*"question"')
_LABEL = re.compile(r"^[(\[]?[A-H][)\].:]\s+")
_MOST_PAIRS = 64
"""Of a reply whose JSON is broken; looking at each start costs time in a hostile one."""
_ANSWERS = {"assistant", "answer", "a"}
_PAIR_LISTS = ("turns", "conversation", "conversations", "dialogue", "pairs")


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its answer."""

    question: str
    answer: str
    """Of a question with choices, the words of the right one."""
    wrong_options: tuple[str, ...] = ()
    """The others; empty for a question without choices."""

    @property
    def options(self) -> tuple[str, ...]:
        """All choices, the right one first; empty where there are none."""
        return (self.answer, *self.wrong_options) if self.wrong_options else ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """A pair that was left out, and the rule that said so."""

    rule: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """Everything found in a reply."""

    pairs: tuple[Pair, ...]
    dropped: tuple[Dropped, ...] = ()


def parse_conversation(text: str) -> ParsedReply:
    """Find the pairs of a reply; an empty result means that it holds none."""
    text = _THOUGHT.sub("", text)
    if "{" in text or "[" in text:
        items = _json_items(text)
        if items:
            return _from_items(items)
    return _from_speakers(text)


def _json_items(text: str) -> list[dict[str, Any]]:
    """Return objects with a question, of whole JSON or, failing that, of its intact parts."""
    decoder = json.JSONDecoder()
    starts = sorted(start for start in (text.find("{"), text.find("[")) if start >= 0)
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if found := _find_pairs(value):
            return found
    salvaged = []
    for match in islice(_PAIR_START.finditer(text), _MOST_PAIRS):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        salvaged.append(value)
    return salvaged


def _find_pairs(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON is any
    if isinstance(value, dict):
        value = next((value[key] for key in _PAIR_LISTS if key in value), [value])
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, dict) and "question" in item]


def _from_items(items: list[dict[str, Any]]) -> ParsedReply:
    pairs, dropped = [], []
    for item in items:
        question, answer = item.get("question"), item.get("answer")
        if isinstance(question, str) and isinstance(answer, str):
            pairs.append(_with_options(Pair(question.strip(), answer.strip()), item))
        else:
            dropped.append(Dropped(TURN_STRUCTURE, str(question), str(answer)))
    return ParsedReply(tuple(pairs), tuple(dropped))


def _with_options(pair: Pair, item: dict[str, Any]) -> Pair:
    """Return the pair with the wrong options that a teacher gave, under whichever name.

    Of options that hold the right one too, with letters or without, the answer names it by letter
    or words; where it names none, the pair has no options.
    """
    wrong = _texts(item.get("wrong_options") or item.get("distractors"))
    if wrong:
        return Pair(pair.question, pair.answer, tuple(o for o in wrong if o != pair.answer))
    options = _texts(item.get("options") or item.get("choices"))
    named = choice_named(options, pair.answer) if options else None
    if named is None:
        return pair
    return Pair(pair.question, named, tuple(option for option in options if option != named))


def _texts(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON is any
    """Return the texts of a list, or of an object with letters as names; labels are cut off."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return ()
    return tuple(dict.fromkeys(_LABEL.sub("", text.strip()) for text in value if text.strip()))


def _from_speakers(text: str) -> ParsedReply:
    """Read paragraphs; a question belongs to the one answer that follows it."""
    marks = list(_SPEAKER.finditer(text))
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    said = [
        (mark[1].lower() in _ANSWERS, text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]
    pairs, dropped = [], []
    position = 0
    while position < len(said):
        is_answer, question = said[position]
        answers = []
        position += 1
        while position < len(said) and said[position][0]:
            answers.append(said[position][1])
            position += 1
        if is_answer:
            # An answer before any question belongs to nothing.
            dropped.append(Dropped(TURN_STRUCTURE, "", "\n".join([question, *answers])))
        elif len(answers) == 1:
            pairs.append(Pair(question, answers[0]))
        else:
            dropped.append(Dropped(TURN_STRUCTURE, question, "\n".join(answers)))
    return ParsedReply(tuple(pairs), tuple(dropped))
