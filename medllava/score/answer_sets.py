"""Several right answers at once: which of them does a reply name?

The reference set and a reply enter; the names in the reply leave, those of the reference in its own
spelling and order first, so that two equal sets are equal texts. Of choices, letters are read too.
"""

import re
import string
from collections.abc import Sequence

from medllava.score.choices import choice_named
from medllava.score.final_answer import final_answer
from medllava.score.normalize import words

_SEPARATOR = re.compile(r"\s*(?:[,;\n\u3001\uff0c\uff1b]|\band\b|&)\s*")
_BULLET = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")
_LETTERS_ONLY = re.compile(r"[\s(\[]*[A-H](?:[\s,;/&.)\]]*(?:and\s+)?[A-H])*[\s.)\]]*")


def named_set(answers: Sequence[str], choices: Sequence[str], reply: str) -> tuple[str, ...]:
    """Return what a reply names, each once.

    Args:
        answers: the reference.
        choices: of a multiple-choice item, else empty; what is none of them is left out.
        reply: in full; reasoning is taken off.
    """
    text = final_answer(reply)
    named = _chosen(choices, text) if choices else _members(answers, text)
    known = {words(answer): answer for answer in answers}
    found = dict.fromkeys(known.get(words(one), one) for one in named)
    first = [answer for answer in answers if answer in found]
    return (*first, *sorted(one for one in found if one not in answers))


def set_f1(answers: Sequence[str], named: Sequence[str]) -> float:
    """Return the harmonic mean of how many named are right and how many right are named."""
    shared = len(set(answers) & set(named))
    return 2 * shared / (len(set(answers)) + len(set(named))) if shared else 0.0


def _members(answers: Sequence[str], text: str) -> list[str]:
    """Part a list as people write it; a name of the reference with a separator stays whole."""
    held: list[str] = []
    for answer in sorted(answers, key=len, reverse=True):
        if _SEPARATOR.search(answer):
            pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.I)
            if pattern.search(text):
                held.append(answer)
                text = pattern.sub(",", text)
    parts = (_BULLET.sub("", part).strip(" .") for part in _SEPARATOR.split(text))
    return [*held, *(part for part in parts if words(part))]


def _chosen(choices: Sequence[str], text: str) -> list[str]:
    if _LETTERS_ONLY.fullmatch(text):
        letters = [string.ascii_uppercase.index(c) for c in re.findall(r"[A-H]", text)]
        return [choices[i] for i in letters if i < len(choices)]
    parts = (choice_named(tuple(choices), part) for part in _SEPARATOR.split(text) if part.strip())
    return [part for part in parts if part is not None]
