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
_DASH = "[-\u2010-\u2015\u2212]"
_RANGE_GAP = re.compile(rf"\s*(?:{_DASH}|to|through)\s*")
_BLOCKS = frozenset({"p", "title", "td", "th", "term", "attrib", "list-item", "disp-quote"})
_EXCLUDED = frozenset(
    {"fig", "fig-group", "table-wrap", "sub-article", "response", "front-stub", "ref-list"}
)
_HOLDERS = ("{*}p", "{*}title")
"""Blocks looked through for figures that are named without a tag."""
_TEXT_OF = etree.XPath("string()", smart_strings=False)
_UNTOLD = frozenset({"front", "floats-group", "floats-wrap"})
"""Their blocks are running text, but nothing that stands between those is."""
_KINDS = (
    "fig|figs|figure|figures|scheme|schemes|plate|plates|chart|charts|graph|graphs|map|maps"
    "|photo|diagram|illustration|image|box"
)
_LABEL = re.compile(rf"({_KINDS})\.?\s*(\d+)\s*[.:]?", re.IGNORECASE)
_NUMBER = r"\d+(?!\.\d)(?:\s?\(?[A-Za-z](?:\s?(?:{d}|,)\s?[A-Za-z])*\b\)?)?".replace("{d}", _DASH)
_NUMBERS_NAMED = (
    rf"\b\.?\s*(?P<numbers>{_NUMBER}(?:\s*(?:,\s*and|,|;|and|&|to|through|{_DASH})\s*{_NUMBER})*)"
    r"(?P<after>\s+(?i:of|in|from)\s+(?i:the\s+)?(?i:refs?\b|references?\b|\[))?"
)
_ELSEWHERE = re.compile(
    r"supp|additional|extended|appendix|appendices|online|file|response|reviewer"
    r"|^(?-i:\W*S\d*)$",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    rf"(\d+)[^\d]*?(?:(?:{_DASH}|\bto\b|\bthrough\b)\s*(\d+))?(?=\D*|$)", re.IGNORECASE
)


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
    by_label: dict[tuple[str, int], int]
    name: re.Pattern[str]
    """Finds a word for a kind of figure that is there, and numbers."""
    hints: tuple[re.Pattern[str], ...]
    """Patterns that begin with plain letters, which `re` finds far faster; one fits where `name`
    does."""

    def may_name(self, text: str) -> bool:
        """Tell whether a text is worth the search for names."""
        return any(hint.search(text) for hint in self.hints)

    def resolve(self, rid: str) -> list[int]:
        """Return the figures that a reference's `rid` names."""
        if " " not in rid:
            return self.by_id.get(rid, [])
        return [number for name in rid.split() for number in self.by_id.get(name, ())]


def _index_targets(targets: Sequence[Target]) -> _Index:
    by_id: dict[str, list[int]] = {}
    by_label: dict[tuple[str, int], int] = {}
    for index, target in enumerate(targets):
        for name in target.ids:
            by_id.setdefault(name, []).append(index)
        label = _LABEL.fullmatch(target.label)
        if label:
            by_label.setdefault((_kind(label[1]), int(label[2])), index)
    kinds = frozenset(kind for kind, _ in by_label)
    pattern, hints = _compile_names(kinds)
    return _Index(by_id=by_id, by_label=by_label, name=pattern, hints=hints)


@lru_cache(maxsize=64)
def _compile_names(kinds: frozenset[str]) -> tuple[re.Pattern[str], tuple[re.Pattern[str], ...]]:
    """Return the pattern for names of these kinds of figure, and the hints at it."""
    initials = "".join(sorted({kind[0] + kind[0].upper() for kind in kinds}))
    tails = ["ig(?:ure)?" if kind == "figure" else kind[1:] for kind in sorted(kinds)]
    tails += ["IG(?:URE)?" if kind == "figure" else kind[1:].upper() for kind in sorted(kinds)]
    word = f"[{initials}](?:{'|'.join(tails)})[sS]?" if kinds else "(?!)"
    hints = [re.compile(rf"{tail}[sS]?\.?\s*\d") for tail in tails]
    return re.compile(f"(?P<kind>{word}){_NUMBERS_NAMED}"), tuple(hints)


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
    places = _Places()
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
    """Tell whether the words of a paragraph or title name a figure, and are its own to report."""
    text = _TEXT_OF(holder) if len(holder) else holder.text or ""
    if not index.may_name(text) or next(_named(text, index), None) is None:
        return False
    if local_name(holder.getparent()) == "caption":
        return False
    # A paragraph around others is theirs to report, unless its own words come first.
    inner = next(holder.iterdescendants(*_HOLDERS), None)
    return inner is None or index.name.search(holder.text or "") is not None


class _Places:
    """Where elements stand, remembering the way up that neighbours share."""

    def __init__(self) -> None:
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
        if node is None:
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
    for match in index.name.finditer(text):
        start = match.start()
        head = text[max(0, start - 40) : start]
        is_word = head[-1:].isalnum() or head[-1:] == "_"
        if is_word or match["after"] or _is_elsewhere(_last_word(head)):
            continue
        kind = _kind(match["kind"])
        for first, last in _find_numbers(match["numbers"]):
            for number in range(first, last + 1):
                if (kind, number) in index.by_label:
                    yield index.by_label[kind, number]


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
    return [
        (int(first), min(int(last or first), int(first) + 50))
        for first, last in _NUMBERS.findall(text)
    ]


@lru_cache(maxsize=256)
def _kind(word: str) -> str:
    """Return one spelling for the words that name the same kind of figure."""
    word = word.lower().rstrip("s")
    return "figure" if word in {"fig", "figure"} else word
