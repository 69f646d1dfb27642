"""Multiple choice: which choice does an answer name, by its letter or by its words?

Letters count only as labels of this question's own choices. The words of the choices are blanked
before letters are looked for, so the A of "vitamin A" is no label.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from medllava.score.normalize import contains, words
from medllava.score.yes_no import HEDGE, NO, YES, answer_word

_BLANK = "\x00"
_NEGATION_BEFORE = re.compile(
    r"\b(?:not?|n't|isn't|wasn't|aren't|without|never|neither|nor|except|exclud\w*|denies|"
    r"rather\s+than|instead\s+of|absence\s+of|ruled?\s+out|rules\s+out|unlikely|unlike|versus|vs|"
    r"against|less\s+likely|cannot\s+be|can't\s+be)\b[\s\"'(]*(?:[\w'-]+\s+){0,3}[\"'(\[]*$",
    re.I,
)
_OUT = (
    r"(?:very\s+|also\s+|much\s+)?(?:un\w*likely|excluded|ruled\s+out|absent|wrong|incorrect|"
    r"less\s+likely|false|improbable)"
)
_NEGATION_AFTER = re.compile(
    rf"^[\"')\]]*\s*(?:{_OUT}"
    r"|(?:[\w'-]+\s+){0,2}?(?:is|are|was|were|seems|looks|can\s+be|does|do|would\s+be)"
    rf"(?:n't|\s+not)\b|(?:[\w'-]+\s+){{0,2}}?(?:is|are|was|were|seems|looks|can\s+be)\s+{_OUT})",
    re.I,
)
_REASON = r"(?=\W*$|\s*[.,;:)\]\"'\n]|\s+(?:because|since|as|which|for|due|given|based)\b)"
_QUOTE = r"[\"'(\[{\u2018\u201c]*"
_CUED = re.compile(
    r"(?i:\b(?:option|choice|answer|letter|alternative)s?\b\s*(?:is\s*)?[:=]?\s*)"
    rf"{_QUOTE}([A-Za-z])(?![\w'])"
    r"|(?i:\b(?:select|selected|choose|chose|pick|picked|go with|going with|opt for|opci\u00f3n|"
    r"option|lettre|buchstabe|lettera|letra|\u0432\u0430\u0440\u0438\u0430\u043d\u0442)\s*:?\s+)"
    rf"{_QUOTE}([A-Z])(?![\w'])"
    rf"|(?:\u9009\u9879|\u9009\u62e9|\u9009|\u9078|\u662f|\u4e3a)\s*:?\s*{_QUOTE}([A-Z])(?![A-Za-z0-9])"
    rf"|(?i:\b(?:is|was|be|es|est|ist|:)\s*){_QUOTE}([A-Z])(?![\w']){_REASON}"
)
_IN_PARENTHESES = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
_LABEL = re.compile(r"(?:^|(?<=[\s\"'(]))([A-Z])[).:](?=\s|$|\x00|[\"'])")
_LISTED = re.compile(
    r"(?<![\w'])([A-Z])(?:\s*(?:,|/|&|\+|;|\band\b|\bor\b|\u3001|\u548c|\u6216)\s*(?:and\s+|or\s+)?"
    r"[(\[]?([A-Z])[)\]]?(?![\w']))+"
)
_AT_END = re.compile(r"\s[\"'(]*([A-Z])[\"').\s\u3002!]*$")
_OPENING = re.compile(
    rf"[\W_]*([A-Za-z])(?:\s*[).:,;\]}}\u3002\u2013\u2014]|\s+-+\s|\s*[\r\n]|\s*$|(?=\s*{_BLANK})"
    r"|(?=\s+(?:because|since|as|which|for|due|given|based)\b))"
)
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_CLASS_BEFORE = re.compile(
    r"\b(?:type|grade|class|group|stage|level|zone|hepatitis|vitamin|influenza|hemophilia|protein|"
    r"factor|strain|stanford|phase|variant|category|figure|panel|image|part)\s+[\"'(]*$",
    re.I,
)


@lru_cache(maxsize=65536)
def choice_named(choices: tuple[str, ...], answer: str) -> str | None:
    """Return the one choice that an answer names; None if it names none or several.

    Args:
        choices: in the order of their letters.
        answer: a final answer, or a reference.
    """
    answer = answer.replace("\u2019", "'").strip()
    said = words(answer)
    if not said:
        return None
    exact = [i for i, choice in enumerate(choices) if words(choice) == said]
    letter = _alone(answer, choices)
    if len(exact) == 1 and letter in (None, exact[0]):
        return choices[exact[0]]
    if letter is not None:
        return None if exact or _is_word_of_another(letter, choices) else choices[letter]
    named = _named(choices, answer)
    return choices[next(iter(named))] if len(named) == 1 else None


def _named(choices: Sequence[str], answer: str) -> set[int]:
    """Return the choices that a text of several words states, none where it is not clear."""
    opened, letters, blanked = _letters(answer, choices)
    if opened is not None:
        return letters | {opened}
    by_words = _by_words(choices, answer)
    if HEDGE.search(blanked) or (letters and by_words and by_words != letters):
        return set()
    return letters or by_words


def _alone(answer: str, choices: Sequence[str]) -> int | None:
    found = _ALONE.fullmatch(answer)
    return _index(found.group(1), choices) if found else None


def _index(letter: str, choices: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if 0 <= index < len(choices) else None


def _is_word_of_another(letter: int, choices: Sequence[str]) -> bool:
    """Tell whether another choice has the letter as a name, as "type B" at the place of A."""
    name = {chr(ord("a") + letter), chr(ord("A") + letter)}
    with_name = {i for i, choice in enumerate(choices) if name & set(words(f"is {choice}"))}
    return bool(with_name) and letter not in with_name


def _letters(answer: str, choices: Sequence[str]) -> tuple[int | None, set[int], str]:
    """Return the label that opens an answer, all labels in it, and the answer without choices."""
    blanked = _without_choices(answer, choices)
    found: set[int] = set()
    for pattern in (_CUED, _IN_PARENTHESES, _LABEL, _LISTED, _AT_END):
        for match in pattern.finditer(blanked):
            for group, letter in enumerate(match.groups(), start=1):
                index = None if letter is None else _index(letter, choices)
                if index is None or _CLASS_BEFORE.search(blanked[: match.start(group)]):
                    continue
                if not _is_denied_at(blanked, match.start(group), match.end(group)):
                    found.add(index)
    opened = _opening_label(blanked, choices)
    if opened is not None and _is_word_of_another(opened, choices):
        opened = None
    return opened, found, blanked


def _opening_label(blanked: str, choices: Sequence[str]) -> int | None:
    """Return the label with which an answer begins; "A mass" begins with an article."""
    opening = _OPENING.match(blanked)
    if opening is None:
        return None
    letter, mark = opening.group(1), blanked[opening.end(1) : opening.end()].strip()
    if not mark and letter in "aA" and blanked[opening.end() :].lstrip()[:1] == _BLANK:
        return None
    if letter.islower() and mark in ("", ",") and opening.end(1) != len(blanked):
        return None
    if mark not in (".", ":", ";") and _NEGATION_AFTER.match(blanked[opening.end() :]):
        return None
    return _index(letter, choices)


def _is_denied_at(text: str, start: int, end: int) -> bool:
    before = _clause(text[max(0, start - 60) : start])
    return bool(_NEGATION_BEFORE.search(before) or _NEGATION_AFTER.match(text[end:]))


def _without_choices(answer: str, choices: Sequence[str]) -> str:
    """Blank the words of every choice where they stand in the answer."""
    for choice in sorted(choices, key=len, reverse=True):
        if len(choice.strip()) > 1 and words(choice):
            answer = _phrase(choice).sub(_BLANK, answer)
    return answer


@lru_cache(maxsize=65536)
def _phrase(choice: str) -> re.Pattern[str]:
    """Return a pattern of a choice's words, whatever stands between them."""
    parts = r"[\W_]+".join(re.escape(part) for part in re.findall(r"\w+", choice)) or r"(?!)"
    return re.compile(rf"(?<!\w){parts}(?!\w)", re.IGNORECASE)


def _by_words(choices: Sequence[str], answer: str) -> set[int]:
    """Return the choices whose words stand in the answer and are not denied."""
    yes_no = {i: side for i, c in enumerate(choices) if (side := _plain_side(c)) is not None}
    if len(yes_no) == 2 and len(set(yes_no.values())) == 2:
        side = answer_word(answer)
        others = _stated(tuple(choices), answer) - yes_no.keys()
        if others:
            return others | {i for i, own in yes_no.items() if own == side}
        return {i for i, own in yes_no.items() if own == side}
    return _stated(tuple(choices), answer)


def _plain_side(choice: str) -> str | None:
    return {"yes": YES, "no": NO}.get(" ".join(words(choice)))


def _stated(choices: tuple[str, ...], answer: str) -> set[int]:
    said = words(answer)
    named = [i for i, choice in enumerate(choices) if contains(said, words(choice))]
    longest = {i for i in named if not any(_is_part(choices[i], choices[j]) for j in named)}
    stated = {i for i in longest if not _is_denied(choices[i], answer)}
    if len(stated) == 1:
        own = set(words(choices[next(iter(stated))]))
        # "Left and right lung" names the left lung too, though not in its own words.
        stated |= {
            i
            for i, choice in enumerate(choices)
            if i not in named and own & set(words(choice)) and _differs_by(choice, own) & set(said)
        }
    return stated


def _is_part(choice: str, other: str) -> bool:
    return words(choice) != words(other) and contains(words(other), words(choice))


def _differs_by(choice: str, own: set[str]) -> set[str]:
    return set(words(choice)) - own


def _is_denied(choice: str, answer: str) -> bool:
    """Tell whether every mention of a choice in an answer is denied."""
    mentions = list(_phrase(choice).finditer(answer))
    if not mentions:
        return False
    return all(_is_denied_at(answer, *mention.span()) for mention in mentions)


def _clause(before: str) -> str:
    """Return what stands before a word in its own clause."""
    return re.split(r"[,;.:!?\n]|\b[Bb]ut\b", before)[-1]
