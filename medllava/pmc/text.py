"""An element of JATS becomes the words a reader sees.

Blocks (title, paragraphs, list items) are joined by a space, inline markup by nothing, so that a
word in two typefaces stays one word. Superscripts and subscripts become Unicode where every
character has a form, else `^` and `_`; of a formula's alternatives one is taken.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from medllava.pmc.xml import Element, child, local_name

_SUPERSCRIPTS = dict(
    zip(
        "0123456789+-\u2212=()abcdefghijklmnoprstuvwxyz",
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207b\u207c\u207d"
        "\u207e\u1d43\u1d47\u1d9c\u1d48\u1d49\u1da0\u1d4d\u02b0\u2071\u02b2\u1d4f\u02e1\u1d50\u207f"
        "\u1d52\u1d56\u02b3\u02e2\u1d57\u1d58\u1d5b\u02b7\u02e3\u02b8\u1dbb",
        strict=True,
    )
)
_SUBSCRIPTS = dict(
    zip(
        "0123456789+-\u2212=()aehijklmnoprstuvx",
        "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u208b\u208c\u208d"
        "\u208e\u2090\u2091\u2095\u1d62\u2c7c\u2096\u2097\u2098\u2099\u2092\u209a\u1d63\u209b\u209c"
        "\u1d64\u1d65\u2093",
        strict=True,
    )
)
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_BLOCK_NAMES = """
    p title subtitle list list-item def-list def-item def term sec disp-formula disp-quote statement
    boxed-text verse-group verse-line speech table thead tbody tfoot tr td th caption label fn
    fn-group attrib break array
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_SKIPPED_NAMES = """
    fig fig-group table-wrap table-wrap-group floats-group graphic media inline-graphic alt-text
    long-desc object-id permissions index-term supplementary-material annotation processing-meta
    milestone-start milestone-end
"""
_SKIPPED = frozenset(_SKIPPED_NAMES.split())
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_TEX_BODY = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_BARE_BRACKETS = re.compile(r"[\[(][\s,;\u2013-]*[\])]")
"""What is left of a numeric citation; the set of letters in front makes it fast to find."""
_NUMERIC = re.compile(r"[\s\d,;\u2013-]*")
_PUNCTUATION = re.compile(r"[\s,;\u2013\u2212-]*")

MARK_OPEN, MARK_CLOSE = "\x01", "\x02"
"""Mark where a reference begins and ends: characters that XML cannot hold."""
_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017f\u0370-\u03ff\u0400-\u042f\u1e00-\u1eff"
_CASELESS = "\u0590-\u06ff\u0900-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Hebrew and Arabic, the scripts of India and Thailand, and those of East Asia."""
_SENTENCE_END = re.compile(
    r"[.!?\u3002\uff01\uff1f\uff0e\u061f\u06d4\u0964](?:(?<=[.!?])"
    rf"[\"'\u201d\u2019)\]]*\x02?\s+(?=[\x01\"'\u201c\u2018\u00bf\u00a1(\[]?.?[{_UPPER}{_CASELESS}0-9])"
    r"|(?<![.!?])[\u201d\u2019\u300d\u300f\uff09)\]]*\x02?\s*(?=.))"
)
"""A mark, closing quotes, and what may begin a sentence after it; CJK marks need no space. All
marks stand in one set in front, because `re` finds a set far faster than a choice."""
_ABBREVIATION_WORDS = """
    fig figs figg abb afb bild rys ryc obr ref refs eq eqs eqn tab tabs al vs cf ca approx resp dr
    prof no nos
    vol sp spp var st vgl bzw nr bzgl ggf evtl inkl ej pag p\u00e1g n\u00fam aprox env np tzn
    inc ltd co jr sup supp suppl sec chap p pp subsp ssp viz mr mrs ms incl max min temp ser cat
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split()) | {
    *("\u0440\u0438\u0441", "\u0444\u0438\u0433", "\u03b5\u03b9\u03ba"),
}
_LAST_WORD = re.compile(r"[^\W\d_]+\Z")
_LONGEST_ABBREVIATION = max(map(len, _ABBREVIATIONS))

Marks: TypeAlias = Mapping[Element, tuple[str, str]]
"""Text put before and after an element, by element."""
Renderer: TypeAlias = Callable[[Element, list[str], Marks | None], None]
"""Appends the text of an element to the pieces."""


def render_text(element: Element | None) -> str:
    """Return the text of an element, without the text after it; nothing of None."""
    if element is None:
        return ""
    if not len(element):
        text = element.text
        return normalize_text(text) if text else ""
    pieces: list[str] = []
    _render_content(element, pieces, None)
    return normalize_text("".join(pieces))


def render_running_text(element: Element, marks: Marks) -> str:
    """Return the text of a paragraph without numeric citations, not yet normalized.

    Args:
        element: the paragraph.
        marks: put around elements, so that a caller can find where they ended up.
    """
    pieces: list[str] = []
    _render_content(element, pieces, marks)
    parts = _BARE_BRACKETS.split(_remove_invisible("".join(pieces)))
    last = parts.pop()
    return "".join([part.rstrip() for part in parts]) + last


def normalize_text(text: str) -> str:
    """Return NFC text with single spaces and without invisible characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _remove_invisible(text))
    return " ".join(text.split())


def _remove_invisible(text: str) -> str:
    for character in _INVISIBLE:
        if character in text:
            text = text.replace(character, "")
    return text


def _render_content(element: Element, pieces: list[str], marks: Marks | None) -> None:
    text = element.text
    if text:
        pieces.append(text)
    for node in element:
        _renderer_of(node.tag)(node, pieces, marks)
        tail = node.tail
        if tail:
            pieces.append(tail)


@lru_cache(maxsize=1024)
def _renderer_of(tag: object) -> Renderer:
    """Return what renders an element of a tag."""
    if not isinstance(tag, str):
        return _render_entity
    name = tag.rpartition("}")[2]
    if name in _SKIPPED:
        return _skip
    return _render_block if name in _BLOCKS else _SPECIAL.get(name, _render_content)


def _skip(node: Element, pieces: list[str], marks: Marks | None) -> None:
    del node, pieces, marks


def _render_entity(node: Element, pieces: list[str], _: Marks | None) -> None:
    """Render an entity of a DTD that is never loaded by its name."""
    pieces.append(html.unescape(node.text or ""))


def _render_block(node: Element, pieces: list[str], marks: Marks | None) -> None:
    pieces.append(" ")
    _render_content(node, pieces, marks)
    pieces.append(" ")


def _render_xref(node: Element, pieces: list[str], marks: Marks | None) -> None:
    if marks is None:
        _render_content(node, pieces, marks)
    elif node in marks:
        before, after = marks[node]
        pieces.append(before)
        _render_content(node, pieces, marks)
        pieces.append(after)
    elif node.get("ref-type") != "bibr" or not _NUMERIC.fullmatch(
        "".join(node.itertext()) if len(node) else node.text or ""
    ):
        _render_content(node, pieces, marks)


def _script(table: Mapping[str, str], sign: str) -> Renderer:
    def render(node: Element, pieces: list[str], marks: Marks | None) -> None:
        inner: list[str] = []
        _render_content(node, inner, marks)
        text = "".join(inner)
        if marks is not None and _PUNCTUATION.fullmatch(text) and len(node):
            return  # only citations stood here
        pieces.append(render_script(text, table, sign))

    return render


def render_script(text: str, table: Mapping[str, str], sign: str) -> str:
    """Return text in raised or lowered characters, or behind `sign` where that is not readable.

    Digits, signs and single letters become Unicode; longer words, such as the max of C_{max}, are
    marked instead, because a word in raised letters is a word to no reader or tokenizer.
    """
    core = text.strip()
    if not core or core in _ORDINALS or any(character < " " for character in core):
        return text
    shown = core.replace("\u2013", "\u2212") if core[0] == "\u2013" else core
    if all(c in table for c in shown) and (len(shown) == 1 or not any(map(str.isalpha, shown))):
        return text.replace(core, "".join(table[character] for character in shown))
    if len(core) == 1 and not core.isalnum():
        return text  # a trademark sign or an asterisk is raised by nature
    return text.replace(core, f"{sign}{core}" if len(core) == 1 else f"{sign}{{{core}}}")


def _render_formula(node: Element, pieces: list[str], marks: Marks | None) -> None:
    """Render a formula, taking one of its alternatives: MathML, then TeX, then text."""
    options = {
        local_name(option): option for option in reversed(node) if isinstance(option.tag, str)
    }
    for name in ("math", "tex-math", "textual-form"):
        if name in options:
            _renderer_of(options[name].tag)(options[name], pieces, marks)
            return
    _render_content(node, pieces, marks)


def _render_alternatives(node: Element, pieces: list[str], marks: Marks | None) -> None:
    _render_formula(node, pieces, marks)


def _render_tex(node: Element, pieces: list[str], _: Marks | None) -> None:
    text = "".join(node.itertext())
    body = _TEX_BODY.search(text)
    pieces.append((body[1] if body else text).strip().strip("$").strip())


def _render_math(node: Element, pieces: list[str], marks: Marks | None) -> None:
    """Render MathML: tokens as they stand, scripts and fractions as marked text."""
    name = local_name(node)
    parts = [part for part in node if isinstance(part.tag, str)]
    if name == "semantics" and parts:
        _render_math(parts[0], pieces, marks)
    elif name in _MATH_SCRIPTS and len(parts) == len(_MATH_SCRIPTS[name]) + 1:
        _render_math(parts[0], pieces, marks)
        for part, (table, sign) in zip(parts[1:], _MATH_SCRIPTS[name], strict=True):
            pieces.append(render_script(_math_text(part), table, sign))
    elif name == "mfrac" and len(parts) == 2:
        pieces.append("/".join(_bracketed(_math_text(part)) for part in parts))
    elif name in {"msqrt", "mroot"} and parts:
        inside = parts[:1] if name == "mroot" else parts
        degree = _math_text(parts[1]) if name == "mroot" and len(parts) > 1 else ""
        pieces.append(render_script(degree, _SUPERSCRIPTS, "^") if degree else "")
        pieces.append("\u221a" + _bracketed("".join(map(_math_text, inside))))
    elif name == "annotation":
        return
    else:
        pieces.append((node.text or "").strip())
        for part in parts:
            _render_math(part, pieces, marks)


def _math_text(node: Element) -> str:
    inner: list[str] = []
    _render_math(node, inner, None)
    return "".join(inner)


def _bracketed(text: str) -> str:
    """Return a term that keeps its meaning beside another operator: (a+b) of a fraction (a+b)/c."""
    is_one = len(text) < 2 or text.isalnum() or _NUMBER_WITH_DOT.fullmatch(text) is not None
    return text if is_one or _is_enclosed(text) else f"({text})"


def _is_enclosed(text: str) -> bool:
    """Tell whether one pair of brackets is around all of a term."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth <= 0:
            return position == len(text) - 1 and text[0] == "("
    return False


_NUMBER_WITH_DOT = re.compile(r"\d+[.,]\d+")
_MATH_SCRIPTS = {
    "msup": [(_SUPERSCRIPTS, "^")],
    "msub": [(_SUBSCRIPTS, "_")],
    "msubsup": [(_SUBSCRIPTS, "_"), (_SUPERSCRIPTS, "^")],
    "munder": [(_SUBSCRIPTS, "_")],
    "mover": [(_SUPERSCRIPTS, "^")],
    "munderover": [(_SUBSCRIPTS, "_"), (_SUPERSCRIPTS, "^")],
}
_SPECIAL: dict[str, Renderer] = {
    "xref": _render_xref,
    "sup": _script(_SUPERSCRIPTS, "^"),
    "sub": _script(_SUBSCRIPTS, "_"),
    "inline-formula": _render_formula,
    "alternatives": _render_alternatives,
    "tex-math": _render_tex,
    "math": _render_math,
}


def child_text(element: Element | None, *names: str) -> str:
    """Return the text at a path of local names, or an empty string."""
    return render_text(child(element, *names))


def sentences_around(text: str, spots: Sequence[int]) -> Iterator[str]:
    """Yield the sentences of a paragraph that hold one of these places, each once.

    "Fig. 2", "et al.", "E. coli" and decimals do not end a sentence.

    Args:
        text: a paragraph.
        spots: places in it, in order.
    """
    ends = [(match.start(), match.end()) for match in _SENTENCE_END.finditer(text)] if spots else []
    start, position = 0, 0
    for spot in spots:
        if spot < start:
            continue
        while position < len(ends) and ends[position][1] <= spot:
            position += 1
        first = position
        while first and not _ends_sentence(text, ends[first - 1][0]):
            first -= 1
        while position < len(ends) and not _ends_sentence(text, ends[position][0]):
            position += 1
        end = ends[position][1] if position < len(ends) else len(text)
        yield text[ends[first - 1][1] if first else 0 : end].strip()
        start = end


def _ends_sentence(text: str, stop: int) -> bool:
    """Tell whether the mark at `stop` ends a sentence, not an abbreviation or an initial."""
    if text[stop] != ".":
        return True
    tail = text[max(0, stop - _LONGEST_ABBREVIATION - 2) : stop].replace(MARK_CLOSE, "")
    found = _LAST_WORD.search(tail)
    word = found[0] if found else ""
    head = tail[: len(tail) - len(word)]
    if not word or head[-1:].isalnum() or head[-1:] == "_":
        return True
    return len(word) > 1 and word.lower() not in _ABBREVIATIONS


def sentence_at(text: str, spot: int) -> str:
    """Return the sentence of a text that holds a place."""
    return next(sentences_around(text, [spot]), "")
