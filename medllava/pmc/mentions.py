"""Which sentences of the running text cite which figure.

A tagged reference (`xref`) counts for every id it names and for the figures a range leaves out; a
figure that is only named ("Figure 2") counts by its label. Names of other things stay out:
"Supplementary Fig. 1", "Fig. S1", "Fig. 1 of ref. 12". Captions, tables of figures and sub-articles
are not running text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lxml import etree

from medllava.pmc.text import (
    MARK_CLOSE,
    MARK_OPEN,
    normalize_text,
    render_running_text,
    sentences_around,
)
from medllava.pmc.xml import Element, local_name

_FIRST = 0xE100
"""The character after a mark's first numbers the reference."""
_MARK = re.compile("\x01(.)([^\x02]*)\x02", re.DOTALL)
_ANY_MARK = re.compile("\x01.|\x02", re.DOTALL)
_DASH = "[-\u2010-\u2015\u2212~\uff5e]"
_TO = rf"(?:{_DASH}|\b(?:to|through|thru|until|bis|al?|\u00e0)\b|\u81f3|\u5230)"
_RANGE_GAP = re.compile(rf"\s*{_TO}\s*")
_BLOCKS = frozenset({"p", "title", "td", "th", "term", "attrib", "list-item", "disp-quote"})
_EXCLUDED = frozenset(
    {"fig", "fig-group", "table-wrap", "sub-article", "response", "front-stub", "ref-list"}
)
_HOLDERS = ("{*}p", "{*}title")
"""Blocks looked through for figures that are named without a tag."""
_TEXT_OF = etree.XPath("string()", smart_strings=False)
_UNTOLD = frozenset({"front", "floats-group", "floats-wrap"})
"""Their blocks are running text, but nothing that stands between those is."""
_FIGURE_WORDS = {
    "fig": "[Ff]ig(?:ure)?[sS]?|FIG(?:URE)?S?",
    "figura": "[Ff]iguras?|FIGURAS?|[Ff]igg?",
    "abb": "[Aa]bb(?:ildung(?:en)?)?|[Bb]ild(?:er|ern)?",
    "\u56fe": "[\u56fe\u5716\u56f3]",
    "\u0440\u0438\u0441": "[\u0420\u0440]\u0438\u0441(?:\u0443\u043d\\w*)?",
    "rys": "[Rr]ys(?:un\\w*)?|[Rr]yc(?:in\\w*)?",
    "obr": "[Oo]br(?:\u00e1z\\w*)?",
    "\u015fekil": "[\u015e\u015f]ekil",
    "\uadf8\ub9bc": "\uadf8\ub9bc",
}
"""How the word for a figure is written, by how it begins in one language."""
_OTHER_KINDS = (
    *("scheme", "plate", "chart", "graph", "map", "photo", "diagram", "illustration", "image"),
    *("box", "exhibit", "tafel", "panel", "video"),
)
_ROMAN = "[IVX]+"
_KEY = rf"S?\d+[A-Za-z]?(?:[.\-\u2010-\u2013]\d+)*|[A-Z]\.?\d+|{_ROMAN}"
_LABEL = re.compile(rf"([^\W\d_]+)\.?\s*({_KEY})\W*")
"""A word, a number and nothing but marks: "Figure 1:", "Abb. 2", "FIGURE 3.-", "Fig. II"."""
_NUMBER = (
    r"\d+(?![.\-\u2010-\u2013]?\d*S\b)(?!\.\d)"
    r"(?:\s?\(?(?i:[a-z])(?!\s+\d)(?:\s?(?:{d}|,)\s?(?i:[a-z]))*\b\)?)?"
).replace("{d}", _DASH)
_SEPARATOR = rf"\s*(?:,\s*and|,|;|\u3001|\uff0c|and|und|et|y|e|&|\u548c|\u53ca|\u4e0e|{_TO})\s*"
_NUMBERS_NAMED = rf"\.?\s*(?P<numbers>{_NUMBER}(?:{_SEPARATOR}{_NUMBER})*)"
_AFTER = re.compile(
    r"\s+(?:of|in|from|by)\s+(?i:the\s+)?(?:(?i:refs?\b|references?\b)|\["
    r"|[A-Z]\w+\s+(?:et al|and (?:co-?workers|colleagues|[A-Z]\w+\s*[\[(])|[(\[](?:19|20)?\d))"
)
"""Says that the figure is of another work: "of ref. 12", "in [5]", "in Smith et al."."""
_ELSEWHERE = re.compile(
    r"suppl?|additional|extended|appendix|appendices|online|file|response|reviewer|anexo|anhang"
    r"|\u8865\u5145|\u9644|^(?-i:\W*S\d*)$",
    re.IGNORECASE,
)
_TOKENS = re.compile(rf"(?P<number>{_NUMBER})|(?P<to>{_TO})", re.IGNORECASE)
_MOST_IN_A_RANGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that can be cited."""

    ids: frozenset[str]
    """Its own id and that of its group."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """How the figures of an article can be cited."""

    by_id: dict[str, list[int]]
    by_label: dict[tuple[str, str], int]
    """By kind of figure and number, or whatever stands in its place: "2", "S1", "1-3", "2.1"."""
    name: re.Pattern[str]
    """Finds a word for a kind of figure that is there, and numbers."""
    is_roman: bool
    odd_name: re.Pattern[str] | None
    """Finds such a word before a label's own odd number, such as "1-3"."""
    hints: tuple[re.Pattern[str], ...]
    """Patterns that begin with plain letters, which `re` finds far faster; one fits where `name`
    does."""

    def may_name(self, text: str) -> bool:
        """Tell whether a text is worth the search for names."""
        for hint in self.hints:  # noqa: SIM110 - a generator for each paragraph costs more
            if hint.search(text) is not None:
                return True
        return False

    def resolve(self, rid: str) -> list[int]:
        """Return the figures that a reference's `rid` names."""
        if " " not in rid:
            return self.by_id.get(rid, [])
        return [number for name in rid.split() for number in self.by_id.get(name, ())]


def _index_targets(targets: Sequence[Target]) -> _Index:
    by_id: dict[str, list[int]] = {}
    by_label: dict[tuple[str, str], int] = {}
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
    odd = sorted({key for _, key in by_label if not key.isdigit()}, key=len, reverse=True)
    name, odd_name, hints = _compile_names(frozenset(words), tuple(odd), is_roman)
    return _Index(
        by_id=by_id, by_label=by_label, name=name, is_roman=is_roman, odd_name=odd_name, hints=hints
    )


@lru_cache(maxsize=256)
def _compile_names(
    words: frozenset[str],
    odd: tuple[str, ...],
    is_roman: bool,  # noqa: FBT001 - of a cache's key
) -> tuple[re.Pattern[str], re.Pattern[str] | None, tuple[re.Pattern[str], ...]]:
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
    tails = [
        tail for word in sorted(words) for tail in _HINTS.get(word, (word[1:], word[1:].upper()))
    ]
    number = rf"(?:\d|{_ROMAN}\b)" if is_roman else r"\d"
    start = number if not odd else rf"(?:{number}|[A-Z]\.?\d)"
    hints = tuple(re.compile(rf"{tail}(?:en|[sS])?\.?\s*{start}") for tail in tails)
    word = f"(?P<kind>{'|'.join(written)})"
    keys = "|".join(re.escape(key).replace("\\-", _DASH) for key in odd)
    odd_name = re.compile(rf"{word}\.?\s*(?P<key>{keys})(?!\w)") if odd else None
    return re.compile(word + _NUMBERS_NAMED), odd_name, hints


_HINTS = {
    "fig": ("ig(?:ure)?", "IG(?:URE)?"),
    "figura": ("ig(?:ura)?", "igg", "IG(?:URA)?"),
    "abb": ("bb(?:ildung)?", "ild(?:er)?"),
    "\u56fe": ("[\u56fe\u5716\u56f3]",),
    "\u0440\u0438\u0441": ("\u0438\u0441(?:\u0443\u043d\\w*)?",),
    "rys": ("ys(?:un\\w*)?", "yc(?:in\\w*)?"),
    "obr": ("br(?:\u00e1z\\w*)?",),
    "\u015fekil": ("ekil",),
}
"""Ends of the words: `re` finds plain letters far faster than a choice of two."""


def find_mentions(root: Element, targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """Return, for each figure, the sentences that cite it, in reading order without repeats."""
    index = _index_targets(targets)
    found: list[dict[str, None]] = [{} for _ in targets]
    for block, references in _citing_blocks(root, index).items():
        for sentence, cited in _read_block(block, references, index):
            for number in cited:
                found[number][sentence] = None
    return [tuple(sentences) for sentences in found]


def _citing_blocks(root: Element, index: _Index) -> dict[Element, list[Element]]:
    """Return the blocks that may cite a figure, in reading order, with their tagged references."""
    blocks: dict[Element, list[Element]] = {}
    places = _Places(root)
    for element in root.iter("{*}xref", *(_HOLDERS if index.by_label else ())):
        rid = element.get("rid")
        if rid is None:
            if _names_figure(element, index):
                block = places.find_block(element)
                if block is not None:
                    blocks.setdefault(block, [])
        elif index.resolve(rid):
            block = places.find_block(element)
            if block is not None:
                blocks.setdefault(block, []).append(element)
    return blocks


def _names_figure(holder: Element, index: _Index) -> bool:
    """Tell whether the words of a paragraph or title may name a figure, and are its own to report.

    Whether they do is seen when its sentences are read.
    """
    text = _TEXT_OF(holder) if len(holder) else holder.text or ""
    if not index.may_name(text) or local_name(holder.getparent()) == "caption":
        return False
    # A paragraph around others is theirs to report, unless its own words come first.
    inner = next(holder.iterdescendants(*_HOLDERS), None) if len(holder) else None
    return inner is None or next(_named(holder.text or "", index), None) is not None


class _Places:
    """Where elements stand, remembering the way up that neighbors share."""

    def __init__(self, root: Element) -> None:
        self._root = root
        self._excluded: dict[Element, bool] = {}

    def find_block(self, element: Element) -> Element | None:
        """Return the nearest block of running text around an element; None elsewhere."""
        node = element
        while node is not None:
            name = local_name(node)
            if name in _BLOCKS:
                return None if self._is_excluded(node) else node
            if name in _EXCLUDED or name in _UNTOLD:
                return None
            node = node.getparent()
        return None

    def _is_excluded(self, node: Element | None) -> bool:
        """Tell whether an element is, or is within, one that holds no running text."""
        if node is None or node is self._root:
            return False
        known = self._excluded.get(node)
        if known is None:
            known = local_name(node) in _EXCLUDED or self._is_excluded(node.getparent())
            self._excluded[node] = known
        return known


def _read_block(
    block: Element, references: list[Element], index: _Index
) -> Iterator[tuple[str, list[int]]]:
    """Yield each citing sentence of a block with the figures it cites."""
    marks = {
        reference: (f"{MARK_OPEN}{chr(_FIRST + number)}", MARK_CLOSE)
        for number, reference in enumerate(references)
    }
    text = render_running_text(block, marks)
    rids = [index.resolve(reference.get("rid")) for reference in references]
    spots = [match.start() for match in _MARK.finditer(text)] if references else []
    spots += [match.start() for hint in index.hints for match in hint.finditer(text)]
    for sentence in sentences_around(text, sorted(spots)):
        plain = normalize_text(_ANY_MARK.sub("", sentence))
        cited = dict.fromkeys(_tagged(sentence, rids))
        cited.update(dict.fromkeys(_named(plain, index)))
        if cited:
            yield plain, list(cited)


def _tagged(sentence: str, rids: list[list[int]]) -> Iterator[int]:
    """Yield the figures of a sentence's references, and those a range between two leaves out."""
    previous: re.Match[str] | None = None
    for match in _MARK.finditer(sentence):
        cited = rids[ord(match[1]) - _FIRST]
        if previous is not None and cited:
            before = rids[ord(previous[1]) - _FIRST]
            if before and _RANGE_GAP.fullmatch(sentence, previous.end(), match.start()):
                yield from range(before[-1] + 1, cited[0])
        yield from cited
        previous = match


def _named(text: str, index: _Index) -> Iterator[int]:
    """Yield the figures that a text names by label, ranges included."""
    if index.odd_name is not None:
        for match in index.odd_name.finditer(text):
            key = (_kind(match["kind"]), _plain_key(match["key"]))
            if key in index.by_label and _is_own(match):
                yield index.by_label[key]
    for match in index.name.finditer(_arabic_numbers(text, index)):
        if not _is_own(match):
            continue
        kind = _kind(match["kind"])
        for first, last in _find_numbers(match["numbers"]):
            for number in range(first, last + 1):
                if (kind, str(number)) in index.by_label:
                    yield index.by_label[kind, str(number)]


def _is_own(match: re.Match[str]) -> bool:
    """Tell whether a name is of a figure of this article, by what stands around it."""
    start = match.start()
    head = match.string[max(0, start - 40) : start]
    is_word = head[-1:].isascii() and (head[-1:].isalnum() or head[-1:] == "_")
    if is_word or _is_elsewhere(_last_word(head)):
        return False
    return _AFTER.match(match.string, match.end()) is None


def _arabic_numbers(text: str, index: _Index) -> str:
    """Return a text with roman numbers of figures in digits, where the labels are roman."""
    if not index.is_roman:
        return text
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
def _find_numbers(text: str) -> list[tuple[int, int]]:
    """Return the ranges of numbers in the words after the name, each of 51 numbers at most."""
    ranges: list[tuple[int, int]] = []
    is_range = False
    for token in _TOKENS.finditer(text):
        if token["to"]:
            is_range = bool(ranges)
            continue
        digits = _DIGITS.match(token["number"])
        number = int(digits[0]) if digits else 0
        first = ranges[-1][1] if is_range else number
        if is_range and first < number <= first + _MOST_IN_A_RANGE:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
        is_range = False
    return ranges


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
    return re.sub(_DASH, "-", key)


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
