"""Questions that offer their answers with "or": which of the phrases does an answer take up?

A question, its reference and an answer enter; the words of what was chosen leave, or None. The
phrases are compared by what tells them apart: of "the left or right kidney" the words left and
right, of "a contrast CT or a non-contrast CT" the words contrast and non-contrast.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from medllava.score.normalize import contains, words
from medllava.score.yes_no import HEDGE

_NON = re.compile(r"\bnon[\s-]+(?=\w)", re.I)
_SMALL = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "be",
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "it",
        "in",
        "on",
        "at",
        "of",
        "to",
        "for",
        "as",
        "with",
        "by",
        "from",
        "image",
        "picture",
        "scan",
        "film",
        "view",
        "side",
        "shown",
        "seen",
        "located",
        "taken",
        "more",
        "most",
        "likely",
        "primarily",
        "mainly",
        "either",
        "do",
        "does",
        "did",
        "has",
        "have",
        "been",
        "being",
    ]
) - {"with"}
_MAX_PHRASE = 4
_DENIED = re.compile(
    r"\b(?:not|no|never|isn't|wasn't|neither|nor|rather than|instead of)\s+(?:\w+\s+)?$"
)


def alternative_named(question: str, reference: str, answer: str) -> str | None:
    """Return the words of the alternative that an answer takes; None if not exactly one.

    The reference's own words stand for its alternative, so that they can be compared with it.
    """
    said = _tokens(answer)
    gold = " ".join(words(reference))
    if not said or HEDGE.search(answer):
        return None
    phrases = offered(question)
    own = _own_phrase(phrases, _tokens(reference))
    if own is None:
        return _by_reference(phrases, words(reference), answer)
    chosen = {
        i
        for i, keys in enumerate(phrases)
        if any(key in said and not _is_denied(key, answer) for key in keys)
    }
    if len(chosen) != 1:
        return None
    (number,) = chosen
    return gold if number == own else " ".join(sorted(phrases[number]))


def stated_alternative(
    alternatives: Sequence[Sequence[str]], reference: str, answer: str
) -> str | None:
    """Return the words of the stated alternative that an answer takes; None if not exactly one.

    Args:
        alternatives: the wordings of each; the longest wording wins, so that "no contrast" is no
            "contrast".
        reference: its own words stand for its alternative.
        answer: without reasoning.
    """
    if HEDGE.search(answer):
        return None
    chosen = _stated(alternatives, answer)
    if len(chosen) != 1:
        return None
    (number,) = chosen
    if chosen == _stated(alternatives, reference):
        return " ".join(words(reference))
    return " ".join(words(alternatives[number][0]))


def _stated(alternatives: Sequence[Sequence[str]], text: str) -> set[int]:
    """Return the alternatives whose wordings stand in a text, not denied, longest first."""
    wordings = sorted(
        ((_tokens(wording), number) for number, one in enumerate(alternatives) for wording in one),
        key=lambda pair: -len(pair[0]),
    )
    left = list(_tokens(text))
    found: set[int] = set()
    for wording, number in wordings:
        size = len(wording)
        for start in range(len(left) - size + 1):
            if tuple(left[start : start + size]) == wording:
                if not _DENIED.search(" ".join(left[:start]) + " "):
                    found.add(number)
                left[start : start + size] = ["|"] * size
    return found


@lru_cache(maxsize=4096)
def offered(question: str) -> tuple[frozenset[str], ...]:
    """Return for each alternative of an "or" question the words that tell it from the others."""
    text = _NON.sub("non-", question.casefold())
    parts = re.split(r"\bor\b", text)
    if len(parts) < 2:
        return ()
    phrases: list[list[str]] = []
    for i, part in enumerate(parts):
        pieces = [_tokens(piece) for piece in re.split(r"[,;:?]", part)]
        pieces = [piece for piece in pieces if piece]
        if not pieces:
            continue
        if i == 0:
            phrases += [list(piece) for piece in pieces[:-1] if len(pieces) > 1 and len(piece) <= 3]
            phrases.append(list(pieces[-1]))
        else:
            phrases.append(list(pieces[0]))
    return _distinct(phrases)


def _distinct(phrases: list[list[str]]) -> tuple[frozenset[str], ...]:
    """Cut the phrases to what differs: the tail before "or", the head after it."""
    if len(phrases) < 2:
        return ()
    head = phrases[-1]
    first = phrases[0]
    length = _length_of_first(first, head)
    first = first[-length:] if length else first[-1:]
    later = [phrase[: max(len(first), 1)] for phrase in phrases[1:]]
    cut = [first, *later]
    shared = set.intersection(*(set(phrase) for phrase in cut))
    keys = [frozenset(w for w in phrase if w not in shared and w not in _SMALL) for phrase in cut]
    return tuple(keys) if all(keys) else ()


def _length_of_first(first: list[str], head: list[str]) -> int:
    """Return how many words before "or" belong to the first alternative.

    A noun that both sides end with tells it ("upper lobe or lower lobe"); without one it is a word.
    """
    for length in range(1, min(len(first), _MAX_PHRASE) + 1):
        if length <= len(head) and first[-1] == head[length - 1] and length > 1:
            return length
    return 1


def _own_phrase(phrases: tuple[frozenset[str], ...], gold: tuple[str, ...]) -> int | None:
    own = [i for i, keys in enumerate(phrases) if keys & set(gold)]
    return own[0] if len(own) == 1 else None


def _by_reference(
    phrases: tuple[frozenset[str], ...], reference: tuple[str, ...], answer: str
) -> str | None:
    """Compare with the reference itself, where the question does not offer it."""
    said = words(answer)
    named = {word for keys in phrases for word in keys if word not in reference} & set(said)
    if contains(said, reference):
        is_denied = _DENIED.search(answer.casefold().split(reference[0])[0] if reference else "")
        return None if named or is_denied else " ".join(reference)
    if len(named) == 1:
        return next(iter(named))
    return None if named or phrases else " ".join(said)


def _tokens(text: str) -> tuple[str, ...]:
    """Return comparable words, in which "non-contrast" is one."""
    joined = _NON.sub("non", text.casefold())
    return tuple(words(joined.replace("non-", "non")))


def _is_denied(key: str, answer: str) -> bool:
    """Tell whether every mention of a word is denied."""
    text = " ".join(_NON.sub("non", answer.casefold()).replace("non-", "non").split())
    mentions = list(re.finditer(rf"(?<![\w]){re.escape(key)}(?!\w)", text))
    return bool(mentions) and all(_DENIED.search(text[: m.start()]) for m in mentions)
