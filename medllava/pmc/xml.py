"""XML from strangers: parsed without entities, DTD or network, with size and depth caps.

Bytes or a stream go in, `article` elements come out, whatever the envelope: a bare article, an
article set, an OAI record. Everything matches on local names, because the envelope may put JATS
into a default namespace. Depth is capped by libxml2 (256 levels) as long as `huge_tree` stays off.
"""

import io
import re
import threading
from collections.abc import Iterator
from typing import IO, Any, TypeAlias, cast

from lxml import etree

from medllava.errors import DataError

Element: TypeAlias = Any
"""An lxml element; lxml ships no types."""

LANG = "{http://www.w3.org/XML/1998/namespace}lang"
"""The attribute `xml:lang`."""
MAX_XML_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 256 * 1024
"""Most articles fit into one."""
_ROOT = re.compile(rb"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)[\s/>]")
_OPTIONS: dict[str, Any] = {
    "resolve_entities": False,
    "load_dtd": False,
    "no_network": True,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
"""`collect_ids` must stay on: switched off, lxml 6.1 reads the external DTD, even a `file:` one."""
_UNREAD = (b"ref-list", b"table-wrap")
"""Elements that are cut out of an article before the parse, a third to half of its markup. A
figure, another of its kind, a comment or CDATA inside forbids it."""
_PARTS = frozenset({"front", "body", "back", "floats-group", "floats-wrap"})
_AFTER_NAME = b" >\n\t\r/"
_local = threading.local()


class XmlError(DataError):
    """An XML file cannot be used; `reason` is the word it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason apart from the sentence."""
        super().__init__(f"{detail}. The file is skipped.")
        self.reason = reason
        self.detail = detail


def parse_xml(data: bytes) -> Element:
    """Return the root element of a small document.

    Raises:
        XmlError: too large, too deep, not well-formed, or it declares entities.
    """
    if len(data) > MAX_XML_BYTES:
        raise XmlError("xml-too-large", f"XML of {len(data):,} bytes")
    try:
        root = etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        raise _syntax_error(error) from None
    if root is None:
        raise XmlError("xml-malformed", "XML without a root element")
    _refuse_entities(root)
    return root


def parse_article(data: bytes) -> Element:
    """Return an `article` element without the reference lists and tables that hold no figure.

    Nothing is read of those; leaving them out halves the time of the parse.

    Raises:
        XmlError: as `parse_xml`.
    """
    if len(data) > MAX_XML_BYTES:
        raise XmlError("xml-too-large", f"XML of {len(data):,} bytes")
    spans = sorted(span for name in _UNREAD for span in _iter_unread(data, name))
    if not spans:
        return parse_xml(data)
    kept: list[bytes] = []
    done = 0
    for start, end in spans:
        if start >= done:  # one of them may stand in another
            kept.append(data[done:start])
            done = end
    kept.append(data[done:])
    return parse_xml(b"".join(kept))


def _iter_unread(data: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """Yield where elements of a name begin and end, but for those that hold an obstacle."""
    opening, closing = b"<" + name, b"</" + name + b">"
    start = data.find(opening)
    while start >= 0:
        inside = data.find(b">", start) + 1
        end = data.find(closing, inside)
        if end < 0 or not inside:
            return
        is_element = data[start + len(opening)] in _AFTER_NAME and data[inside - 2] != ord("/")
        if is_element and not _holds_obstacle(data, opening, inside, end):
            yield start, end + len(closing)
        start = data.find(opening, end)


def _holds_obstacle(data: bytes, opening: bytes, start: int, end: int) -> bool:
    # The bare mark is found at the speed of memory and is seldom there.
    has_mark = data.find(b"!", start, end) >= 0 and data.find(b"<!", start, end) >= 0
    if has_mark or data.find(b"<fig", start, end) >= 0:
        return True
    inner = data.find(opening, start, end)
    while inner >= 0 and data[inner + len(opening)] not in _AFTER_NAME:
        inner = data.find(opening, inner + 1, end)
    return inner >= 0


def _parser() -> etree.XMLParser:
    """Return this thread's parser: it cannot be shared between threads."""
    parser: etree.XMLParser | None = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = etree.XMLParser(**_OPTIONS)
    return parser


def iter_articles(stream: IO[bytes]) -> Iterator[Element]:
    """Yield every `article` element of a file, one in memory at a time.

    Raises:
        XmlError: as `parse_xml`; articles before the damage were yielded.
    """
    head = stream.read(_BLOCK_BYTES)
    match = _ROOT.search(head)
    if match is None or match[1] == b"article":
        root = parse_article(_read_rest(head, stream))
        # A comment or an encoding of two bytes hides an envelope from the search in bytes.
        yield from [root] if local_name(root) == "article" else root.iter("{*}article")
        return
    joined = _Chained(head, stream)
    try:
        events = etree.iterparse(
            cast("IO[bytes]", joined), events=("end",), tag="{*}article", **_OPTIONS
        )
        for _, element in events:
            if element.getroottree().docinfo.internalDTD is not None:
                _refuse_entities(element)
            yield element
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise _syntax_error(error) from None


def _read_rest(head: bytes, stream: IO[bytes]) -> bytes:
    """Return a whole file, or as much of it as shows that it is too large.

    Block by block: a file asked for all that it may hold sets aside that much memory each time.
    """
    blocks = [head]
    left = MAX_XML_BYTES + 1 - len(head)
    while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
        blocks.append(block)
        left -= len(block)
    return head if len(blocks) == 1 else b"".join(blocks)


def local_name(element: Element) -> str:
    """Return the tag without its namespace."""
    tag: str = element.tag
    return tag.rpartition("}")[2] if tag[0] == "{" else tag


def is_jats(article: Element) -> bool:
    """Tell whether an `article` is one of JATS, not of a web page or another vocabulary."""
    return not _PARTS.isdisjoint(children_by_name(article))


def child(element: Element | None, *names: str) -> Element | None:
    """Follow local names down, first child each; None where the path breaks."""
    for name in names:
        if element is None:
            return None
        element = next(element.iterchildren("{*}" + name), None)
    return element


def children_by_name(element: Element) -> dict[str, list[Element]]:
    """Return the child elements by local name, each list in the order of the document."""
    parts: dict[str, list[Element]] = {}
    for part in element:
        tag = part.tag
        if isinstance(tag, str):  # an entity reference has no name
            parts.setdefault(tag.rpartition("}")[2] if tag[0] == "{" else tag, []).append(part)
    return parts


class _Chained(io.RawIOBase):
    """Bytes already read, then the rest of the stream."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._rest.read(size)


def _refuse_entities(root: Element) -> None:
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and next(dtd.iterentities(), None) is not None:
        raise XmlError("xml-entities", "XML that declares entities of its own")


def _syntax_error(error: etree.XMLSyntaxError) -> XmlError:
    message = str(error.msg or "")
    if "depth" in message:
        return XmlError("xml-too-deep", f"XML nested too deeply ({message})")
    if "ntit" in message and "not defined" not in message:
        return XmlError("xml-entities", f"XML that plays with entities ({message})")
    return XmlError("xml-malformed", f"XML that is not well-formed ({message})")
