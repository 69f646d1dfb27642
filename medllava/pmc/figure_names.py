"""How a figure is called in running text: "Figs. 2A-4", "Abb. 3", "Figures 2 through 4".

The labels of an article's figures go in; out comes an index that says which of them a reference's
id means and which ones some words name. Names of other things stay out: "Supplementary Fig. 1",
"Fig. S1", "Fig. 1 of ref. 12".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

_DASH = "[-\u2010-\u2015\u2212~\u301c\uff5e]"
_TO_WORDS = (
    r"to|through|thru|until|bis|al?|\u00e0|at\u00e9|hasta|fino a|tot|t/m|till?|sampai|\u043f\u043e"
)
_TO = rf"(?:{_DASH}|\b(?:{_TO_WORDS})\b|\u81f3|\u5230|\u304b\u3089|\ubd80\ud130)"
RANGE_GAP = re.compile(rf"\s*{_TO}\s*")
"""What stands between the two ends of a range."""
_FIGURE_WORDS = {
    "fig": "[Ff]ig(?:u?ur(?:e|a|er|en|erna|erne)?|g)?[sS]?|FIG(?:UR[EA])?S?",
    "abb": "[Aa]bb(?:ildung(?:en)?)?|[Bb]ild(?:er|ern)?",
    "\u56fe": "[\u56fe\u5716\u56f3]",
    "\u0440\u0438\u0441": "[\u0420\u0440]\u0438\u0441(?:\u0443\u043d\\w*)?",
    "\u0444\u0438\u0433": "[\u0424\u0444]\u0438\u0433(?:\u0443\u0440\\w*)?",
    "rys": "[Rr]ys(?:un\\w*)?|[Rr]yc(?:in\\w*)?",
    "obr": "[Oo]br(?:\u00e1z\\w*)?",
    "\u015fekil": "[\u015e\u015f]ekil",
    "\uadf8\ub9bc": "\uadf8\ub9bc",
    "afbeelding": "[Aa]fbeelding(?:en)?",
    "slika": "[Ss]lik[aeiu]",
    "gambar": "[Gg]ambar",
    "h\u00ecnh": "[Hh]\u00ecnh",
    "kuva": "[Kk]uva[nt]?",
    "\u03b5\u03b9\u03ba": "[\u0395\u03b5]\u03b9\u03ba(?:\u03cc\u03bd\\w*)?",
    "\u0634\u0643\u0644": "\u0634[\u0643\u06a9]\u0644",
}
"""How the word for a figure is written, by how it begins in one language."""
_WORDS_OF = {
    "de": "abb",
    "zh": "\u56fe",
    "ja": "\u56fe",
    "ru": "\u0440\u0438\u0441",
    "pl": "rys",
    "cs": "obr",
    "tr": "\u015fekil",
    "ko": "\uadf8\ub9bc",
    "nl": "afbeelding",
}
"""Words that the text of a language may have where the labels are in English."""
_OTHER_KINDS = (
    *("scheme", "plate", "chart", "graph", "map", "photo", "diagram", "illustration", "image"),
    *("box", "exhibit", "tafel", "panel", "video"),
    *("imagen", "imagem", "foto", "esquema", "gr\u00e1fico"),
)
_ROMAN = "[IVX]+"
_KEY = rf"S?\d+[A-Za-z]?(?:[.\-\u2010-\u2013]\d+)*|[A-Z]\.?\d+|{_ROMAN}"
_LABEL = re.compile(rf"([^\W\d_]+)\.?\s*({_KEY})\W*")
"""A word, a number and nothing but marks: "Figure 1:", "Abb. 2", "FIGURE 3.-", "Fig. II"."""
_PANEL_OF = re.compile(r"(\d+)([A-Za-z])")
"""A label such as "1A": a figure of its own that is also a part of Figure 1."""
_NUMBER = (
    r"\d+(?![.\-\u2010-\u2013]?\d*S\b)(?!\.\d)"
    r"(?:\s?\(?(?i:[a-z])(?!\s+\d)(?:\)?\s?(?:{d}|,)\s?\(?(?i:[a-z]))*\b\)?)?"
).replace("{d}", _DASH)
_AND = (
    "and|und|et|y|e|&|och|og|ve|\u0438|\u03ba\u03b1\u03b9|\u0648"
    "|\u548c|\u53ca|\u4e0e|\u3068|\uc640|\uacfc"
)
"""Not "or": what follows it is seldom a figure ("in Figure 5A or 4 days later")."""
_SEPARATOR = rf"\s*(?:,\s*and|,|;|/|\u3001|\uff0c|{_AND}|{_TO})\s*"
_NUMBERS_NAMED = (
    rf"\.?\s*(?P<numbers>{_NUMBER}"
    rf"(?:{_SEPARATOR}{_NUMBER}|\s*{_TO}\s*(?:WORDS)\.?\s*{_NUMBER})*)"
)
"""With the word again after what makes a range: "Fig. 1 to Fig. 3"."""
_AFTER = re.compile(
    r"\s+(?i:sup?plementari)|\s+(?:of|in|from|by)\s+(?i:the\s+)?(?:(?i:refs?\b|references?\b)|\["
    r"|[A-Z]\w+\s+(?:et al|and (?:co-?workers|colleagues|[A-Z]\w+\s*[\[(])|[(\[](?:19|20)?\d))"
)
"""Says that the figure is of another work: "of ref. 12", "in [5]", "in Smith et al."."""
_ELSEWHERE = re.compile(
    r"sup?pl|supp\b|^\W*e-$|additional|extended|appendix|appendices|online|file|response|reviewer|anexo|anhang"
    r"|\u8865\u5145|\u9644|^(?-i:\W*S\d*)$",
    re.IGNORECASE,
)
_TOKENS = re.compile(rf"(?P<number>{_NUMBER})|(?P<to>{_TO})", re.IGNORECASE)
_LETTERS = re.compile(rf"([a-z])(?:\s?{_DASH}\s?([a-z]))?", re.IGNORECASE)
_SINGULAR = re.compile(r"[Ff]ig(?:ure|ura)?|FIG(?:URE|URA)?")
"""Before a range that runs backwards: "Figure 12-3" is a number of chapter and figure."""
_STARTS_WITH_LABEL = re.compile(
    rf"(?P<label>(?P<kind>[^\W\d_]+)\.?\s*(?:{_KEY}))\s*(?:[.:|\u2014\u2013]|$)"
)
_MOST_IN_A_RANGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that can be cited."""

    ids: frozenset[str]
    """Its own id and that of its group."""
    label: str


@dataclass(frozen=True, slots=True)
class _Hint:
    """A pattern that begins with plain letters, which `re` finds far faster than a choice."""

    pattern: re.Pattern[str]
    back: int
    """Letters of the word that stand before the pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureIndex:
    """How the figures of an article can be cited."""

    by_id: dict[str, list[int]]
    by_label: dict[tuple[str, str], int]
    """By kind of figure and number, or whatever stands in its place: "2", "S1", "1-3", "2.1"."""
    panels: dict[tuple[str, str], list[tuple[str, int]]]
    """Letter and figure of "1A" and "1B" by kind and "1", where no figure has that number alone."""
    name: re.Pattern[str]
    """Finds a word for a kind of figure that is there, and numbers."""
    is_roman: bool
    odd_name: re.Pattern[str] | None
    """Finds such a word before a label's own odd number, such as "1-3"."""
    hints: tuple[_Hint, ...]
    """One fits wherever `name` does."""

    def may_name(self, text: str) -> bool:
        """Tell whether a text is worth the search for names."""
        for hint in self.hints:  # noqa: SIM110 - a generator for each paragraph costs more
            if hint.pattern.search(text) is not None:
                return True
        return False

    def find_hints(self, text: str) -> list[int]:
        """Return the places at which a name may begin, in order."""
        spots = [m.start() - hint.back for hint in self.hints for m in hint.pattern.finditer(text)]
        spots.sort()
        return spots

    def resolve(self, rid: str) -> list[int]:
        """Return the figures that a reference's `rid` names."""
        if " " not in rid:
            return self.by_id.get(rid, [])
        return [number for name in rid.split() for number in self.by_id.get(name, ())]

    def find_named(self, text: str) -> Iterator[int]:
        """Yield the figures that a text names by label, ranges included."""
        if self.odd_name is not None:
            for match in self.odd_name.finditer(text):
                key = (_kind(match["kind"]), _plain_key(match["key"]))
                if key in self.by_label and _is_own(match):
                    yield self.by_label[key]
        if self.is_roman:
            text = _arabic_numbers(text)
        done = 0
        for spot in self.find_hints(text):
            found = self.name.match(text, spot) if spot >= done else None
            if found is not None:
                done = found.end()
                if _is_own(found):
                    yield from self._find_numbered(found["kind"], found["numbers"])

    def _find_numbered(self, word: str, numbers: str) -> Iterator[int]:
        """Yield the figures of the numbers after a name."""
        kind = _kind(word)
        runs_back = _SINGULAR.fullmatch(word) is None
        for first, last, letters in _find_numbers(numbers, runs_back=runs_back):
            for number in range(first, last + 1):
                key = (kind, str(number))
                if key in self.by_label:
                    yield self.by_label[key]
                else:
                    for letter, index in self.panels.get(key, ()):
                        if not letters or letter in letters:
                            yield index


def index_targets(targets: Sequence[Target], language: str = "") -> FigureIndex:
    """Return how these figures can be cited.

    Args:
        targets: the figures.
        language: code of the text that cites them, whose words may not be the labels'.
    """
    by_id: dict[str, list[int]] = {}
    by_label: dict[tuple[str, str], int] = {}
    panels: dict[tuple[str, str], list[tuple[str, int]]] = {}
    words: set[str] = set()
    is_roman = False
    for index, target in enumerate(targets):
        for ident in target.ids:
            by_id.setdefault(ident, []).append(index)
        label = _LABEL.fullmatch(target.label)
        kind = _kind(label[1]) if label else ""
        if label and kind:
            key = _arabic(label[2])
            is_roman = is_roman or key != label[2]
            words.add(_family(label[1]))
            by_label.setdefault((kind, _plain_key(key)), index)
            panel = _PANEL_OF.fullmatch(key)
            if panel:
                panels.setdefault((kind, panel[1]), []).append((panel[2].lower(), index))
    if words & _FIGURE_WORDS.keys():
        words |= {"fig", _WORDS_OF.get(language, "fig")}
    odd = sorted({key for _, key in by_label if not key.isdecimal()}, key=len, reverse=True)
    name, odd_name, hints = _compile_names(frozenset(words), tuple(odd), is_roman)
    return FigureIndex(
        by_id=by_id,
        by_label=by_label,
        panels=panels,
        name=name,
        is_roman=is_roman,
        odd_name=odd_name,
        hints=hints,
    )


def label_in_front(text: str) -> str:
    """Return the label that a caption begins with, "Figure 2" of "Figure 2. Scan"; else nothing."""
    match = _STARTS_WITH_LABEL.match(text)
    return match["label"] if match is not None and _kind(match["kind"]) else ""


@lru_cache(maxsize=256)
def _compile_names(
    words: frozenset[str],
    odd: tuple[str, ...],
    is_roman: bool,  # noqa: FBT001 - of a cache's key
) -> tuple[re.Pattern[str], re.Pattern[str] | None, tuple[_Hint, ...]]:
    """Return the pattern for names of these kinds of figure, that for odd numbers, and the hints.

    Args:
        words: how the labels begin: a key of `_FIGURE_WORDS` or one of `_OTHER_KINDS`.
        odd: what stands in labels in place of a number.
        is_roman: labels are numbered in roman.
    """
    if not words:
        return re.compile("(?!)"), None, ()
    written = [_FIGURE_WORDS[word] for word in sorted(words & _FIGURE_WORDS.keys())]
    written += [
        f"[{word[0]}{word[0].upper()}]{word[1:]}s?|{word.upper()}S?"
        for word in sorted(words - _FIGURE_WORDS.keys())
    ]
    number = rf"(?:\d|{_ROMAN}\b)" if is_roman else r"\d"
    start = number if not odd else rf"(?:{number}|[A-Z]\.?\d)"
    hints = tuple(
        _Hint(re.compile(rf"{tail}(?:en|[sS])?\.?\s*{start}"), 0 if word in _WHOLE_HINTS else 1)
        for word in sorted(words)
        for tail in _HINTS.get(word, (word[1:], word[1:].upper()))
    )
    word = f"(?P<kind>{'|'.join(written)})"
    keys = "|".join(re.escape(key).replace("\\-", _DASH) for key in odd)
    odd_name = re.compile(rf"{word}\.?\s*(?P<key>{keys})(?!\w)") if odd else None
    numbers = _NUMBERS_NAMED.replace("WORDS", "|".join(written))
    return re.compile(word + numbers), odd_name, hints


_HINTS = {
    "fig": ("ig(?:u?ur(?:e|a|er|en|erna|erne)?|g)?", "IG(?:UR[EA])?"),
    "abb": ("bb(?:ildung)?", "ild(?:ern?)?"),
    "\u56fe": ("[\u56fe\u5716\u56f3]",),
    "\u0440\u0438\u0441": ("\u0438\u0441(?:\u0443\u043d\\w*)?",),
    "\u0444\u0438\u0433": ("\u0438\u0433(?:\u0443\u0440\\w*)?",),
    "rys": ("ys(?:un\\w*)?", "yc(?:in\\w*)?"),
    "obr": ("br(?:\u00e1z\\w*)?",),
    "\u015fekil": ("ekil",),
    "slika": ("lik[aeiu]",),
    "kuva": ("uva[nt]?",),
    "\u03b5\u03b9\u03ba": ("\u03b9\u03ba(?:\u03cc\u03bd\\w*)?",),
    "\u0634\u0643\u0644": ("[\u0643\u06a9]\u0644",),
}
"""Ends of the words: `re` finds plain letters far faster than a choice of two."""
_WHOLE_HINTS = frozenset({"\u56fe"})
"""Words that are no longer than their hint."""


def _is_own(match: re.Match[str]) -> bool:
    """Tell whether a name is of a figure of this article, by what stands around it."""
    start = match.start()
    head = match.string[max(0, start - 40) : start]
    is_word = head[-1:].isascii() and (head[-1:].isalnum() or head[-1:] == "_")
    if is_word or _is_elsewhere(_last_word(head)):
        return False
    return _AFTER.match(match.string, match.end()) is None


def _arabic_numbers(text: str) -> str:
    """Return a text with roman numbers in digits."""
    return _ROMAN_RUN.sub(lambda run: _ROMAN_NUMBER.sub(lambda n: _arabic(n[0]), run[0]), text)


_ROMAN_NUMBER = re.compile(rf"\b{_ROMAN}\b")
_ROMAN_RUN = re.compile(rf"(?<=[\s.]){_ROMAN}\b(?:{_SEPARATOR}{_ROMAN}\b)*")


def _last_word(head: str) -> str:
    head = head.rstrip().removesuffix(" Data").removesuffix(" data")
    return head[head.rfind(" ") + 1 :]


@lru_cache(maxsize=4096)
def _is_elsewhere(word: str) -> bool:
    """Tell whether a word before a name says that the figure is not one of the article's own."""
    return _ELSEWHERE.search(word) is not None


@lru_cache(maxsize=4096)
def _find_numbers(text: str, *, runs_back: bool) -> list[tuple[int, int, str]]:
    """Return the ranges of numbers in the words after the name, each of 51 numbers at most.

    Args:
        text: numbers, letters of panels, and what parts them.
        runs_back: a range may be written from its end.

    Returns:
        First and last number, and the letters that follow a single number, in lower case.
    """
    ranges: list[tuple[int, int, str]] = []
    is_range = False
    for token in _TOKENS.finditer(text):
        if token["to"]:
            is_range = bool(ranges)
            continue
        digits = _DIGITS.match(token["number"])
        number = int(digits[0]) if digits else 0
        letters = _expand_letters(token["number"][digits.end() :]) if digits else ""
        low, high = (ranges[-1][1], number) if is_range else (number, number)
        if is_range and high < low and runs_back:
            low, high = high, low
        if low < high <= low + _MOST_IN_A_RANGE:
            ranges[-1] = (min(ranges[-1][0], low), high, "")
        else:
            ranges.append((number, number, letters))
        is_range = False
    return ranges


def _expand_letters(text: str) -> str:
    """Return the letters of "A", "(a, c)" or "A-C", in lower case."""
    found = ""
    for match in _LETTERS.finditer(re.sub("[()]", "", text.lower())):
        last = match[2] or match[1]
        found += "".join(map(chr, range(ord(match[1]), ord(last) + 1)))
    return found


_DIGITS = re.compile(r"\d+")


def _arabic(number: str) -> str:
    """Return a roman number in digits, anything else as it is."""
    if not re.fullmatch(_ROMAN, number):
        return number
    values = [_ROMAN_VALUES[letter] for letter in number]
    following = [*values[1:], 0]
    return str(sum(-v if v < n else v for v, n in zip(values, following, strict=True)))


_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10}


def _plain_key(key: str) -> str:
    """Return a number in ASCII digits without leading zeros, else with plain dashes."""
    return str(int(key)) if key.isdecimal() else re.sub(_DASH, "-", key)


@lru_cache(maxsize=256)
def _kind(word: str) -> str:
    """Return one spelling for the words that name the same kind of figure; empty for others."""
    family = _family(word)
    return "figure" if family in _FIGURE_WORDS else family


@lru_cache(maxsize=256)
def _family(word: str) -> str:
    """Return a key of `_FIGURE_WORDS`, one of `_OTHER_KINDS`, or nothing."""
    for family, pattern in _FIGURE_WORDS.items():
        if re.fullmatch(pattern, word) or re.fullmatch(pattern, word.capitalize()):
            return family
    word = word.lower()
    return next((kind for kind in _OTHER_KINDS if word in {kind, f"{kind}s", f"{kind}es"}), "")
