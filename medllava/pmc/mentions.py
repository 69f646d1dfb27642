"""Which sentences of the running text cite which figure.

A tagged reference (`xref`) counts for every id it names and for the figures a range leaves out; a
figure that is only named ("Figure 2") counts by its label, as `figure_names` reads it. Captions,
tables of figures and sub-articles are not running text.
"""

import re
from collections.abc import Iterator, Sequence

from lxml import etree

from medllava.pmc.figure_names import RANGE_GAP, FigureIndex, Target, index_targets
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
_BLOCKS = frozenset({"p", "title", "td", "th", "term", "attrib", "list-item", "disp-quote"})
_EXCLUDED = frozenset(
    {"fig", "fig-group", "table-wrap", "sub-article", "response", "front-stub", "ref-list"}
)
_HOLDERS = ("{*}p", "{*}title")
"""Blocks looked through for figures that are named without a tag."""
_UNTOLD = frozenset({"front", "floats-group", "floats-wrap"})
"""Their blocks are running text, but nothing that stands between those is."""


def find_mentions(
    root: Element, targets: Sequence[Target], language: str = ""
) -> list[tuple[str, ...]]:
    """Return, for each figure, the sentences that cite it, in reading order without repeats.

    Args:
        root: an article or sub-article.
        targets: its figures.
        language: code of its text.
    """
    index = index_targets(targets, language)
    found: list[dict[str, None]] = [{} for _ in targets]
    for block, references in _citing_blocks(root, index).items():
        for sentence, cited in _read_block(block, references, index):
            for number in cited:
                found[number][sentence] = None
    return [tuple(sentences) for sentences in found]


def _citing_blocks(root: Element, index: FigureIndex) -> dict[Element, list[Element]]:
    """Return the blocks that may cite a figure, in reading order, with their tagged references."""
    blocks: dict[Element, list[Element]] = {}
    places = _Places(root)
    for element in root.iter("{*}xref", *(_HOLDERS if index.by_label else ())):
        rid = element.get("rid")
        if rid is None:
            text = element.text
            if len(element):
                text = etree.tostring(element, method="text", encoding="unicode", with_tail=False)
            if text and index.may_name(text) and _reports_names(element, index):
                block = places.find_block(element)
                if block is not None:
                    blocks.setdefault(block, [])
        elif rid in index.by_id or (" " in rid and index.resolve(rid)):
            block = places.find_block(element)
            if block is not None:
                blocks.setdefault(block, []).append(element)
    return blocks


def _reports_names(holder: Element, index: FigureIndex) -> bool:
    """Tell whether the names in a paragraph or title are its own to report.

    Whether they name a figure is seen when its sentences are read.
    """
    if local_name(holder.getparent()) == "caption":
        return False
    # A paragraph around others is theirs to report, unless its own words come first.
    inner = next(holder.iterdescendants(*_HOLDERS), None) if len(holder) else None
    return inner is None or next(index.find_named(holder.text or ""), None) is not None


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
    block: Element, references: list[Element], index: FigureIndex
) -> Iterator[tuple[str, list[int]]]:
    """Yield each citing sentence of a block with the figures it cites."""
    marks = {
        reference: (f"{MARK_OPEN}{chr(_FIRST + number)}", MARK_CLOSE)
        for number, reference in enumerate(references)
    }
    text = render_running_text(block, marks)
    rids = [index.resolve(reference.get("rid")) for reference in references]
    spots = index.find_hints(text)
    if references:
        spots = sorted([*spots, *(match.start() for match in _MARK.finditer(text))])
    for sentence in sentences_around(text, spots):
        cited: dict[int, None] = {}
        plain = sentence
        if MARK_OPEN in sentence:
            cited = dict.fromkeys(_tagged(sentence, rids))
            plain = _ANY_MARK.sub("", sentence)
        plain = normalize_text(plain)
        cited.update(dict.fromkeys(index.find_named(plain)))
        if cited:
            yield plain, list(cited)


def _tagged(sentence: str, rids: list[list[int]]) -> Iterator[int]:
    """Yield the figures of a sentence's references, and those a range between two leaves out."""
    previous: re.Match[str] | None = None
    for match in _MARK.finditer(sentence):
        cited = rids[ord(match[1]) - _FIRST]
        if previous is not None and cited:
            before = rids[ord(previous[1]) - _FIRST]
            if before and RANGE_GAP.fullmatch(sentence, previous.end(), match.start()):
                yield from range(before[-1] + 1, cited[0])
                yield from range(cited[-1] + 1, before[0])  # written backwards: "Figs 4-1"
        yield from cited
        previous = match
