"""Yes or no: what a reply says, in the languages that replies come in; None where it is not clear.

"No" denies as an answer and counts as a determiner: "Yes, no mass is seen" says yes. So a "no" in
front of a noun is an answer only where it opens the reply, or denies what was asked about.
"""

import re
import unicodedata
from functools import lru_cache

from medllava.score.final_answer import final_answer
from medllava.score.normalize import words

YES, NO = "yes", "no"

_YES_WORDS = frozenset({"yes", "yeah", "yep", "yup"})
_NO_WORDS = frozenset({"no", "nope", "nah"})
_OTHER_YES = frozenset(
    [
        "sí",
        "oui",
        "ja",
        "sim",
        "да",
        "evet",
        "tak",
        "ano",
        "da",
        "nai",
        "ναι",  # noqa: RUF001 - of its own alphabet
        "ya",
        "jah",
        "kyllä",
        "igen",
        "نعم",
        "כן",
        "हाँ",
        "हां",
        "হ্যাঁ",
        "vâng",
        "Đúng",
        "đúng",
        "はい",
        "예",
        "네",
        "ใช่",
        "true",
        "affirmative",
    ]
)
_OTHER_NO = frozenset(
    [
        "non",
        "nein",
        "nee",
        "não",
        "нет",
        "hayır",  # noqa: RUF001 - of its own alphabet
        "nie",
        "ne",
        "nej",
        "nei",
        "όχι",
        "tidak",
        "ei",
        "nem",
        "لا",
        "לא",
        "नहीं",
        "না",
        "không",
        "いいえ",
        "아니요",
        "아니오",
        "false",
        "negative",
    ]
)
"""One-word answers; they count only alone or before a comma, full stop or the like."""
_OTHER_NO_PLAIN = _OTHER_NO - {"negative"}

_YES_ZH = (
    *("\u662f\u7684", "\u662f", "\u6709\u7684", "\u6709", "\u5bf9\u7684", "\u5bf9", "\u5305\u542b"),
    *("\u5b58\u5728", "\u6b63\u786e", "\u53ef\u4ee5", "\u80fd", "\u4f1a", "\u5c5e\u4e8e"),
)
_NO_ZH = (
    *("\u4e0d\u662f\u7684", "\u4e0d\u662f", "\u6ca1\u6709", "\u4e0d", "\u6ca1", "\u5426", "\u65e0"),
    *(
        "\u4e0d\u5bf9",
        "\u4e0d\u5305\u542b",
        "\u4e0d\u5b58\u5728",
        "\u4e0d\u6b63\u786e",
        "\u4e0d\u80fd",
    ),
    *(
        "\u4e0d\u4f1a",
        "\u4e0d\u53ef\u4ee5",
        "\u4e0d\u5c5e\u4e8e",
        "\u975e",
        "\u9519\u8bef",
        "\u9519",
    ),
)
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_CLAUSE_END = re.compile(r"[\s,.;:!?\u3002\u3001\uff0c\uff01\uff1f\uff1b]+")

_IDIOMS = re.compile(
    r"\b(?:without\s+(?:a\s+|any\s+)?doubt|(?:there\s+is\s+|with\s+)?no\s+(?:doubt|question|"
    r"problem|longer|matter|wonder|less|more)\b)",
    re.I,
)
HEDGE = re.compile(
    r"\b(?:(?:can\s?not|can't|could\s?n[o']t|could not|unable to|impossible to|not possible to|"
    r"difficult to|hard to|don't|do not|not able to|not enough information to)\s+"
    r"(?:\w+\s+){0,2}?(?:determin\w*|tell|say|answer\w*|assess\w*|identif\w*|know|conclu\w*|"
    r"be\s+determined|be\s+answered|be\s+assessed|confirm\w*|see|make\s+out|provide|diagnos\w*|"
    r"interpret\w*|decide|be\s+sure|evaluat\w*|judge|assist|help|give)"
    r"|unsure|uncertain|unclear|undetermined|indeterminate|unknown|inconclusive|equivocal|"
    r"not\s+(?:sure|certain|clear|visible|known|applicable|enough|specified|determinable)|insufficient|ambiguous|"
    r"maybe|perhaps|possibly|might|n/a|either\s+way|depends|as an ai|cannot be|can't be)\b"
    r"|\u65e0\u6cd5|\u4e0d\u786e\u5b9a|\u4e0d\u77e5\u9053|\u4e0d\u6e05\u695a|\u53ef\u80fd|\u4e5f\u8bb8",
    re.I,
)
"""Words of a reply that commits to nothing."""
_MARKS = "\u0300-\u036f\u0610-\u065f\u0900-\u0dff\u0e00-\u0e7f"
"""Vowel signs and tones that belong to the letter before them."""
_FIRST = re.compile(rf"[\W_]*?([^\W\d_](?:[^\W\d_]|[{_MARKS}']\b|[{_MARKS}])*)(.*)", re.DOTALL)
_JOINS_OTHER = re.compile(r"\s*(?:,|\.|;|:|-|/|or|and|but|&)*\s*", re.I)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|without|isn't|is not|wasn't|rather than|cannot|can't|don't)\b"
    r"(?:\s+(?:a|an|the|say|be|necessarily|really|simply|just|clearly|definitely|quite))*\s*[\"'(]*$",
    re.I,
)
_NO_ALONE = re.compile(
    r"(?<![\w-])(?:no|nope)(?=\s*(?:$|[.,;:!?)\"'/]|\s(?:on|in|for|at|to|because|since|as|"
    r"and|or|but)\b))",
    re.I,
)
_NO_BEFORE_NOUN = re.compile(r"(?<![\w-])no\s+((?:[^\W\d_]+[\s-]*){1,4})", re.I)
_FILLER = frozenset(
    [
        "evidence",
        "sign",
        "signs",
        "of",
        "any",
        "visible",
        "obvious",
        "significant",
        "clear",
        "such",
        "other",
        "acute",
        "the",
        "in",
        "on",
        "is",
        "are",
        "seen",
        "present",
        "image",
        "this",
        "scan",
    ]
)


def is_yes_no(answer: str) -> bool:
    """Tell whether a reference answer is a plain yes or no, in English or Chinese."""
    said = words(answer)
    if len(said) > 2:
        return False
    return bool(_english_sides(said)) or answer.strip(" .\u3002") in (*_YES_ZH, *_NO_ZH)


@lru_cache(maxsize=65536)
def answer_word(text: str, asked: str = "") -> str | None:
    """Return `yes`, `no`, or None where the text says neither, both, or hedges.

    Args:
        text: a reply or a reference.
        asked: the question; a "no" before one of its words denies it.
    """
    said = unicodedata.normalize("NFKC", final_answer(text)).replace("\u2019", "'")
    said = _IDIOMS.sub(" ", said).strip()
    opening = _FIRST.fullmatch(said)
    if opening is None:
        return None
    if _HAN.match(said.lstrip(" \"'(,.:;")):
        return _chinese(said, asked)
    first, rest = opening.group(1).casefold(), opening.group(2)
    alone = not rest.strip(" .,;:!?)\"'")
    if first in ("y", "n") and alone:
        return YES if first == "y" else NO
    side = _opening_side(first, rest)
    if side is not None:
        return side if _stands(side, rest) else None
    return _side_inside(said, asked)


def _opening_side(first: str, rest: str) -> str | None:
    """Return what the first word answers, whatever follows; None if it is no answer."""
    if first in _YES_WORDS:
        return YES
    if first in _NO_WORDS:
        return NO
    is_set_apart = not rest.strip(" .,;:!?)\"'") or re.match(r"\s*[,.;:!\u2013\u2014]|\s+-", rest)
    if first in _OTHER_YES and is_set_apart:
        return YES
    return NO if first in _OTHER_NO_PLAIN and is_set_apart else None


def _stands(side: str, rest: str) -> bool:
    """Tell whether what follows leaves an opening yes or no as it is."""
    if HEDGE.match(rest.lstrip(" ,.;:-")):
        return False
    tail = rest[_match_end(_JOINS_OTHER, rest) :]
    following = _FIRST.fullmatch(tail)
    next_word = following.group(1).casefold() if following else ""
    if side == YES:
        joined = rest[: len(rest) - len(tail)].casefold()
        if next_word in _NO_WORDS and re.search(r"or|and|but|/|&", joined):
            return False
        return _NO_ALONE.search(rest) is None
    # Nobody who means no says yes as well.
    return next_word not in _YES_WORDS and _YES_WORDS.isdisjoint(words(rest))


def _match_end(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0


def _side_inside(said: str, asked: str) -> str | None:
    """Read a sentence that does not begin with its answer; one side must be stated, undenied."""
    if HEDGE.search(said):
        return None
    yes = list(re.finditer(r"(?<![\w-])(?:yes|yeah|yep)(?![\w-])", said, re.I))
    if yes:
        denied = any(_DENIED.search(said[: mark.start()]) for mark in yes)
        no_too = _NO_ALONE.search(said) or _NO_WORDS.intersection(_before(said, yes[0].start()))
        return None if denied or no_too else YES
    alone = _NO_ALONE.search(said)
    if alone:
        return None if _DENIED.search(said[: alone.start()]) else NO
    denies = _NO_BEFORE_NOUN.search(said)
    if denies:
        topic = {w for w in words(denies.group(1)) if w not in _FILLER}
        about = set(words(asked))
        return NO if topic and topic & about else None
    return None


def _before(said: str, end: int) -> tuple[str, ...]:
    return words(said[:end])[-1:]


def _english_sides(said: tuple[str, ...]) -> set[str]:
    sides = set()
    if not _YES_WORDS.isdisjoint(said):
        sides.add(YES)
    if not _NO_WORDS.isdisjoint(said):
        sides.add(NO)
    return sides if len(sides) == 1 else set()


def _chinese(said: str, asked: str) -> str | None:
    """Read Chinese: the first clause answers if it is an answer word, or denies what was asked."""
    clauses = [part for part in _CLAUSE_END.split(said.strip(" \"'()")) if part]
    if not clauses or HEDGE.search(clauses[0]):
        return None
    first = clauses[0]
    sides = {YES if part in _YES_ZH else NO for part in clauses if part in (*_YES_ZH, *_NO_ZH)}
    if (
        len(sides) > 1
        or "\u8fd8\u662f" in first
        or re.search(r"\u662f(?:\u4e0d\u662f|\u5426)", first)
    ):
        return None
    if first in _NO_ZH:
        return NO
    if first in _YES_ZH or first.startswith("\u662f\u7684"):
        return YES
    for marks, side in (
        (("\u6ca1\u6709", "\u4e0d\u662f", "\u65e0"), NO),
        (("\u6709", "\u662f"), YES),
    ):
        mark = next((m for m in marks if first.startswith(m)), None)
        if mark:
            topic = first[len(mark) :].strip("\u7684")
            return side if topic and topic in asked else None
    return None
