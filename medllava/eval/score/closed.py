"""Closed questions: which of the stated answers did the reply choose?

A question and a reply enter; the chosen answer leaves, or None where the reply states none or more
than one, which counts as wrong and is reported as unparseable. Words are compared whole, so "no"
is not found in "normal"; who says both "yes" and "no" has not answered.
"""

import re
import unicodedata
from functools import lru_cache

from medllava.eval.score.normalize import contains, words
from medllava.records import Question

YES, NO = "yes", "no"

_YES_ZH = ("\u662f\u7684", "\u662f", "\u6709", "\u5bf9", "\u5305\u542b")  # shi de, shi, you, dui
_NO_ZH = ("\u4e0d", "\u6ca1\u6709", "\u6ca1", "\u5426", "\u65e0")  # bu, mei you, mei, fou, wu
_YES_WORDS = frozenset({"yes", "yeah", "yep"})
_NO_WORDS = frozenset({"no", "nope"})
_OPENING = re.compile(r"\W*([^\W\d_]+)(?:\s*[,.;:!\u2013\u2014]|\s+-)\s*(.*)", re.DOTALL)
_LETTER_ALONE = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]?\s*")
_LETTER_FIRST = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Z])[).:,])(?:\s|$)")
_LETTER_STATED = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*[(\[]?([A-Z])\b")


def is_yes_no(answer: str) -> bool:
    """Tell whether a reference answer is a plain yes or no, in English or Chinese."""
    return answer_word(answer) is not None and len(words(answer)) <= 2


@lru_cache(maxsize=65536)
def answer_word(text: str) -> str | None:
    """Return `yes`, `no`, or None where the text says neither or both.

    An opening "Yes," or "No." decides, whatever follows, unless what follows is only the other
    word. Elsewhere exactly one of the two must occur as a whole word.
    """
    opening = _OPENING.fullmatch(unicodedata.normalize("NFKC", text))
    if opening:
        first = _sides(words(opening.group(1)))
        rest = words(opening.group(2))
        is_only_other = len(rest) == 1 and len(first | _sides(rest)) > 1
        if len(first) == 1 and not is_only_other:
            return next(iter(first))
    sides = _sides(words(text)) or _chinese_sides(text)
    return next(iter(sides)) if len(sides) == 1 else None


def chosen_answer(question: Question, reply: str) -> str | None:
    """Return what the reply chose: `yes`, `no`, or the words of a choice; None if unclear.

    The stated answers are the question's `choices`; else yes and no, if the reference is one of
    them; else the reference and the words on both sides of each "or" in the question.
    """
    if question.choices:
        return chosen_choice(question.choices, reply)
    if is_yes_no(question.answer):
        return answer_word(reply)
    return _chosen_alternative(question, words(reply))


def closed_hit(question: Question, reply: str) -> bool | None:
    """Tell whether the reply chose the reference; None if it chose nothing clearly."""
    chosen = chosen_answer(question, reply)
    if chosen is None:
        return None
    if question.choices:
        return chosen == reference_choice(question)
    if is_yes_no(question.answer):
        return chosen == answer_word(question.answer)
    return chosen == " ".join(words(question.answer))


def chosen_choice(choices: tuple[str, ...], reply: str) -> str | None:
    """Return the choice that a reply names by letter or by its words; None if not exactly one."""
    folded = unicodedata.normalize("NFKC", reply)
    said = words(reply)
    exact = [choice for choice in choices if words(choice) == said]
    if len(exact) == 1:
        return exact[0]
    letter = (
        _LETTER_ALONE.fullmatch(folded)
        or _LETTER_FIRST.match(folded)
        or _LETTER_STATED.search(folded)
    )
    if letter:
        index = ord(next(group for group in letter.groups() if group).upper()) - ord("A")
        if index < len(choices):
            return choices[index]
    named = [choice for choice in choices if contains(said, words(choice))]
    longest = [
        choice
        for choice in named
        if not any(other != choice and contains(words(other), words(choice)) for other in named)
    ]
    return longest[0] if len(longest) == 1 else None


def reference_choice(question: Question) -> str | None:
    """Return the choice that the reference answer names, by its words or its letter."""
    return chosen_choice(question.choices, question.answer)


def _sides(said: tuple[str, ...]) -> set[str]:
    sides = set()
    if not _YES_WORDS.isdisjoint(said):
        sides.add(YES)
    if not _NO_WORDS.isdisjoint(said):
        sides.add(NO)
    return sides


def _chinese_sides(text: str) -> set[str]:
    """Read Chinese yes and no; a negated "is" or "has" is a no, so no is looked for first."""
    if any(mark in text for mark in _NO_ZH):
        return {NO}
    return {YES} if any(text.strip().startswith(mark) for mark in _YES_ZH) else set()


def _chosen_alternative(question: Question, said: tuple[str, ...]) -> str | None:
    """Choose between the reference and the other words offered with "or" in the question."""
    reference = words(question.answer)
    asked = words(question.question)
    offered = {
        asked[i + step]
        for i, word in enumerate(asked)
        if word == "or"
        for step in (-1, 1)
        if 0 <= i + step < len(asked)
    }
    others = {word for word in offered if word not in reference}
    has_reference = contains(said, reference)
    named = others.intersection(said)
    if has_reference:
        return None if named else " ".join(reference)
    if len(named) == 1:
        return next(iter(named))
    return None if named or not said or others else " ".join(said)
