"""XML from strangers: parsed without entities, DTD or network, with size and depth caps.

Bytes or a stream go in, `article` elements come out, whatever the envelope: a bare article, an
article set, an OAI record. Everything matches on local names, because the envelope may put JATS
into a default namespace. Depth is capped by libxml2 (256 levels) as long as `huge_tree` stays off.
"""

import io
import re
from collections.abc import Iterator
from typing import IO, Any, TypeAlias, cast

from lxml import etree

from medllava.errors import DataError

Element: TypeAlias = Any
"""An lxml element; lxml ships no types."""

MAX_XML_BYTES = 64 * 1024 * 1024
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
_UNREAD = {
    name: re.compile(rb"<(?:fig|!|%s[\s>/])" % name) for name in (b"ref-list", b"table-wrap")
}
"""Elements that are cut out of an article before the parse, a third to half of its markup, by what
inside forbids it: a figure, another of its kind, a comment or CDATA."""


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
        # A parser is cheap beside the parse and cannot be shared between threads.
        root = etree.fromstring(data, etree.XMLParser(**_OPTIONS))
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
    for name, obstacle in _UNREAD.items():
        data = _cut(data, name, obstacle)
    return parse_xml(data)


def _cut(data: bytes, name: bytes, obstacle: re.Pattern[bytes]) -> bytes:
    """Return a document without the elements of a name, but for those that hold an obstacle."""
    opening, closing = b"<" + name, b"</" + name + b">"
    kept: list[bytes] = []
    done = 0
    start = data.find(opening)
    while start >= 0:
        inside = data.find(b">", start) + 1
        end = data.find(closing, inside)
        if end < 0 or not inside:
            break
        is_element = data[start + len(opening)] in b" >\n\t\r" and data[inside - 2] != ord("/")
        end += len(closing)
        if is_element and obstacle.search(data, inside, end) is None:
            kept.append(data[done:start])
            done = end
        start = data.find(opening, end)
    kept.append(data[done:])
    return b"".join(kept)


def iter_articles(stream: IO[bytes]) -> Iterator[Element]:
    """Yield every `article` element of a file, one in memory at a time.

    Raises:
        XmlError: as `parse_xml`; articles before the damage were yielded.
    """
    head = stream.read(65536)
    match = _ROOT.search(head)
    if match is None or match[1] == b"article":
        yield parse_article(head + stream.read(MAX_XML_BYTES + 1 - len(head)))
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


def local_name(element: Element) -> str:
    """Return the tag without its namespace."""
    tag: str = element.tag
    return tag.rpartition("}")[2] if tag[0] == "{" else tag


def child(element: Element | None, *names: str) -> Element | None:
    """Follow local names down, first child each; None where the path breaks."""
    for name in names:
        if element is None:
            return None
        element = next(element.iterchildren("{*}" + name), None)
    return element


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
