"""Which sentences of the running text cite which figure.

A tagged reference (`xref`) counts for every id it names and for the figures a range leaves out; a
figure that is only named ("Figure 2") counts by its label. Names of other things stay out:
"Supplementary Fig. 1", "Fig. S1", "Fig. 1 of ref. 12". Captions, tables of figures and sub-articles
are not running text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lxml import etree

from medllava.pmc.text import render_text
from medllava.pmc.xml import Element, local_name

_OPEN, _CLOSE, _FIRST = "\ue000", "\ue001", 0xE100
"""Private characters that mark where a reference begins and ends; the second one numbers it."""
_MARK = re.compile("\ue000(.)([^\ue001]*)\ue001", re.DOTALL)
_ANY_MARK = re.compile("\ue000.|\ue001", re.DOTALL)
_DASH = "[-\u2010-\u2015\u2212]"
_RANGE_GAP = re.compile(rf"\s*(?:{_DASH}|to|through)\s*")
_BLOCKS = frozenset({"p", "title", "td", "th", "term", "attrib", "list-item", "disp-quote"})
_EXCLUDED = frozenset(
    {"fig", "fig-group", "table-wrap", "sub-article", "response", "front-stub", "ref-list"}
)
_NAMED = etree.XPath(
    "descendant::text()[contains(., 'ig.') or contains(., 'igure') or contains(., 'igs')"
    " or contains(., 'FIG')]"
)
_KINDS = (
    "fig|figs|figure|figures|scheme|schemes|plate|plates|chart|charts|graph|graphs|map|maps"
    "|photo|diagram|illustration|image|box"
)
_LABEL = re.compile(rf"({_KINDS})\.?\s*(\d+)\s*[.:]?", re.IGNORECASE)
_NUMBER = r"\d+(?!\.\d)(?:\s?\(?[A-Za-z](?:\s?(?:{d}|,)\s?[A-Za-z])*\b\)?)?".replace("{d}", _DASH)
_NAME = re.compile(
    rf"(?P<before>[\w.]+\s+|[\w.]*)\b(?P<kind>{_KINDS})\b\.?\s*"
    rf"(?P<numbers>{_NUMBER}(?:\s*(?:,\s*and|,|;|and|&|to|through|{_DASH})\s*{_NUMBER})*)"
    r"(?P<after>\s+(?:of|in|from)\s+(?:the\s+)?(?:refs?\b|references?\b|\[))?",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"supp|additional|extended|appendix|appendices|online|file|s\d*$|response|reviewer",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    rf"(\d+)[^\d]*?(?:(?:{_DASH}|\bto\b|\bthrough\b)\s*(\d+))?(?=\D*|$)", re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"[.!?][\"'\u201d\u2019)\]]*\ue001?\s+(?=[\ue000\"'\u201c\u2018(\[]?.?[A-Z0-9\u0370-\u03ff])"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:figs?|refs?|eqs?|eqn|tabs?|al|e\.g|i\.e|vs|cf|ca|approx|resp|dr|prof|nos?|vol|spp?|var"
    r"|st|inc|ltd|co|jr|suppl?|sec|chap|pp?|subsp|ssp|viz|mr|mrs|ms|incl|max|min|temp|ser|cat)"
    r"|\b[A-Z]|\be\.g|\bi\.e)\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that can be cited."""

    ids: frozenset[str]
    """Its own id and that of its group."""
    label: str


def find_mentions(root: Element, targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """Return, for each figure, the sentences that cite it, in reading order without repeats."""
    by_id: dict[str, list[int]] = {}
    by_label: dict[tuple[str, int], int] = {}
    for index, target in enumerate(targets):
        for name in target.ids:
            by_id.setdefault(name, []).append(index)
        label = _LABEL.fullmatch(target.label)
        if label:
            by_label.setdefault((_kind(label[1]), int(label[2])), index)
    found: list[dict[str, None]] = [{} for _ in targets]
    for block, references in _citing_blocks(root, by_id):
        for sentence, cited in _read_block(block, references, by_id, by_label):
            for index in cited:
                found[index][sentence] = None
    return [tuple(sentences) for sentences in found]


def _citing_blocks(
    root: Element, by_id: dict[str, list[int]]
) -> Iterator[tuple[Element, list[Element]]]:
    """Yield the blocks that may cite a figure, in document order, with their tagged references."""
    blocks: dict[Element, list[Element]] = {}
    for reference in root.iter("{*}xref"):
        if any(name in by_id for name in reference.get("rid", "").split()):
            block = _block_of(reference)
            if block is not None:
                blocks.setdefault(block, []).append(reference)
    tagged = len(blocks)
    for text in _NAMED(root):
        parent = text.getparent()
        if text.is_tail:
            parent = parent.getparent()
        if parent is not None and parent.tag is not etree.Entity:
            block = _block_of(parent)
            if block is not None:
                blocks.setdefault(block, [])
    if len(blocks) == tagged:
        yield from blocks.items()
        return
    order = {element: position for position, element in enumerate(root.iter())} if blocks else {}
    yield from sorted(blocks.items(), key=lambda item: order[item[0]])


def _block_of(element: Element) -> Element | None:
    """Return the nearest block of running text around an element, None if it stands elsewhere."""
    block = None
    node = element
    while node is not None:
        name = local_name(node)
        if name in _EXCLUDED:
            return None
        if block is None and name in _BLOCKS:
            block = node
        if name in {"front", "floats-group", "floats-wrap"} and block is None:
            return None
        node = node.getparent()
    return block


def _read_block(
    block: Element,
    references: list[Element],
    by_id: dict[str, list[int]],
    by_label: dict[tuple[str, int], int],
) -> Iterator[tuple[str, list[int]]]:
    """Yield each citing sentence of a block with the figures it cites."""
    marks = {
        reference: (f"{_OPEN}{chr(_FIRST + number)}", _CLOSE)
        for number, reference in enumerate(references)
    }
    text = render_text(block, marks=marks)
    rids = [
        [index for name in reference.get("rid", "").split() for index in by_id.get(name, ())]
        for reference in references
    ]
    for sentence in split_sentences(text):
        plain = _ANY_MARK.sub("", sentence)
        cited = dict.fromkeys(_tagged(sentence, rids))
        cited.update(dict.fromkeys(_named(plain, by_label)))
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


def _named(sentence: str, by_label: dict[tuple[str, int], int]) -> Iterator[int]:
    """Yield the figures that a sentence names by label, ranges included."""
    for match in _NAME.finditer(sentence):
        if match["after"] or _ELSEWHERE.search(match["before"].strip()):
            continue
        kind = _kind(match["kind"])
        for first, last in _NUMBERS.findall(match["numbers"]):
            end = int(last) if last else int(first)
            for number in range(int(first), min(end, int(first) + 50) + 1):
                if (kind, number) in by_label:
                    yield by_label[kind, number]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a paragraph; "Fig. 2", "et al.", "E. coli" and decimals hold."""
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        head = _ANY_MARK.sub("", text[max(start, match.start() - 12) : match.start() + 1])
        if match[0][0] == "." and _ABBREVIATION.search(head):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    if text[start:].strip():
        sentences.append(text[start:].strip())
    return sentences


def _kind(word: str) -> str:
    """Return one spelling for the words that name the same kind of figure."""
    word = word.lower().rstrip("s")
    return "figure" if word in {"fig", "figure"} else word
