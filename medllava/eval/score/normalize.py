"""Text to words, once, for every metric of the strict protocol.

A reply or a reference enters, a tuple of comparable words leaves. Unlike the reference's rules
(`legacy`), a decision never depends on the rest of the string, and Chinese is read character by
character. Nothing here knows about closed or open questions.
"""

import re
import unicodedata
from functools import lru_cache

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_WORD = re.compile(rf"\d+(?:\.\d+)+%?|[{_CJK}]|[^\W_{_CJK}]+(?:'[^\W_{_CJK}]+)*%?")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Return the words of `text` in comparable form.

    Compatibility forms are unified (NFKC), case is folded, punctuation separates words, articles
    go, zero to ten become digits, `1,000` is one number, `U.S.A.` one word, and a Chinese, Japanese
    or Korean character is a word of its own.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    folded = _INITIALS.sub(lambda match: match.group().replace(".", ""), folded)
    found = _WORD.findall(_GROUPED.sub("", folded))
    kept = [_NUMBERS.get(word, word) for word in found if word not in _ARTICLES]
    return tuple(kept or (_NUMBERS.get(word, word) for word in found))


def contains(inside: tuple[str, ...], phrase: tuple[str, ...]) -> bool:
    """Tell whether `phrase` occurs in `inside` as whole words, in order and without gaps."""
    length = len(phrase)
    return length > 0 and any(
        inside[i : i + length] == phrase for i in range(len(inside) - length + 1)
    )
