"""Who may use what: license codes from XML, the allow-list, and words that name a third party.

The archive's own code (`CC BY`, `CC BY-NC`, ..., `CC0`, `TDM`) is the spelling used everywhere.
Every place that states a license is read: PMC's property, each `license` with its address, its type
and its wording, the copyright statement. Where they differ, the most restrictive holds if one of
them is at least as strict as all others; else none does. A code comes with the words that it rests
on, and so does every doubt about a figure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from medllava.pmc.rights_words import (
    ATTRIBUTION,
    BOTH_USES,
    CODE_RUN,
    COMMONS,
    CREDIT,
    GIVEN,
    LICENSED,
    PERMISSION,
    RESTRICTIONS,
    THIRD_PARTY,
)
from medllava.pmc.text import render_text, sentence_at
from medllava.pmc.xml import Element, child, local_name

KNOWN_CODES = (
    *("CC0", "CC BY", "CC BY-SA", "CC BY-ND", "CC BY-NC", "CC BY-NC-SA", "CC BY-NC-ND", "TDM"),
)
"""In the archive's spelling."""
_WRITTEN_CODE = re.compile(
    r"(?:(?P<zero>CC[\s_-]*(?:0|ZERO))|(?P<tdm>TDM)|(?:CC[\s_-]*)BY(?P<rest>(?:[\s_-]*(?:NC|ND|SA))*))"
    r"(?:[\s_-]*V?[1-4]\.[05](?:[\s_-]+(?:IGO|INTERNATIONAL|UNPORTED|[A-Z]{2}))?)?"
)
_ADDRESS = re.compile(
    r"creative-?commons\.org/(?:licen[cs]es?|publicdomain)/(?:cc[-_])?([a-z0-9-]+)", re.IGNORECASE
)
_WRITTEN_ADDRESS = re.compile(r"https?://(?:www\.)?creative-?commons\.org/[\w./-]+[\w/]", re.I)
_RIGHTS_NAMES = (
    *("{*}permissions", "{*}attrib"),
    *("{*}copyright-statement", "{*}copyright-holder", "{*}copyright-year"),
)
_NOTES = ("{*}p", "{*}fn", "{*}fn-group")
"""Words of a figure beside its caption, which may speak of rights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """A license as a code and, where stated, its address."""

    code: str | None = None
    url: str | None = None
    basis: str = ""
    """The words that the code rests on; where there is none, those that contradict each other."""
    is_element: bool = False
    """Stated by a `license` element."""
    is_contradicting: bool = False
    """Licenses are stated, and none of them is as strict as all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRights:
    """What a figure says of its own rights, in all places that may."""

    license: License = field(default_factory=License)
    permissions: str = ""
    """Words of its permissions and copyright lines, and those of its group and images."""
    credit: str = ""
    """Its `attrib` lines."""


def read_license(meta: Element | None) -> License:
    """Return the license that `article-meta`, or a figure, states."""
    if meta is None:
        return License()
    stated = list(_iter_stated(meta))
    elements = {one.code for one in stated if one.is_element and one.code}
    if len(elements) > 1:  # nothing says which of two licenses is the figures'
        return _contradiction(stated)
    return combine(stated)


def combine(stated: Sequence[License]) -> License:
    """Return the license that holds where several are stated.

    The most restrictive, if one of them is at least as strict as all others; else none.
    """
    if any(one.is_contradicting for one in stated):
        return _contradiction(stated)
    known = [one for one in stated if one.code in KNOWN_CODES]
    if not known:
        return next((one for one in stated if one.code), License())
    codes = {str(one.code) for one in known}
    if "TDM" in codes:
        code: str | None = "TDM"
    else:
        parts = {
            code: set(code.removeprefix("CC BY").strip("-").split("-")) - {""} for code in codes
        }
        parts["CC0"] = set()
        union = set().union(*(parts[code] for code in codes))
        strictest = [c for c in codes if parts[c] == union and (c != "CC0" or codes == {"CC0"})]
        code = strictest[0] if strictest else None
    if code is None:
        return _contradiction(known)
    holding = [one for one in known if one.code == code]
    url = next((one.url for one in holding if one.url), None)
    return License(code=code, url=url, basis=holding[0].basis)


def _contradiction(stated: Sequence[License]) -> License:
    bases = dict.fromkeys(one.basis for one in stated if one.basis)
    return License(basis=" | ".join(bases)[:300], is_contradicting=True)


def _iter_stated(meta: Element) -> Iterator[License]:
    """Yield the license that each place states."""
    for custom in meta.iterfind("{*}custom-meta-group/{*}custom-meta"):
        if render_text(child(custom, "meta-name")) == "pmc-license-ref":
            value = render_text(child(custom, "meta-value"))
            yield License(code=normalize_code(value), basis=f"pmc-license-ref: {value}")
    places = [meta, *meta.iterchildren("{*}permissions")]
    licenses = [element for place in places for element in place.iterchildren("{*}license")]
    yield from (replace(_read_element(element), is_element=True) for element in licenses)
    for place in places:
        for reference in place.iterchildren("{*}license_ref"):
            address = "".join(reference.itertext()).strip()
            yield License(code=code_of_address(address), url=address, basis=address)
        for statement in place.iterchildren("{*}copyright-statement"):
            text = render_text(statement)
            yield License(code=code_of_wording(text), basis=_basis(text))


def _read_element(element: Element) -> License:
    """Return what one `license` states: its address and type, what it links to, and its words.

    A link or a sentence about data (a CC0 waiver, mostly) is not about the article where the
    license names another one.
    """
    text = render_text(element)
    attributes = [str(v) for k, v in element.items() if k == "href" or k.endswith("}href")]
    references = ["".join(r.itertext()).strip() for r in element.iter("{*}license_ref")]
    addresses = [*attributes, *references]
    stated = [License(code=code_of_address(a), url=a, basis=a) for a in addresses]
    links = [
        str(v)
        for link in element.iter("{*}ext-link", "{*}uri")
        for k, v in link.items()
        if k == "href" or k.endswith("}href")
    ]
    links += _WRITTEN_ADDRESS.findall(text)
    stated += [License(code=code_of_address(a), url=a, basis=a) for a in links]
    kind = element.get("license-type", "")
    code = normalize_code(re.sub(r"creative[\s_-]?commons|^(?=by\b)", "CC", kind, flags=re.I))
    if code in KNOWN_CODES:
        stated.append(License(code=code, basis=f"license-type: {kind}"))
    named = License(code=code_of_wording(text), basis=_basis(text))
    if named.code is None and any(one.code for one in stated):
        # The address names the license; the words may still restrict it.
        code = code_of_wording(f"CC BY {text}")
        named = replace(named, code=None if code == "CC BY" else code)
    return combine([*stated, named])


def normalize_code(code: str | None) -> str | None:
    """Return a license code in the archive's spelling, None for a blank.

    Options and file lists write `cc-by`, `CC_BY`, `CC BY 4.0`; all mean the same.
    """
    if code is None or not code.strip():
        return None
    match = _WRITTEN_CODE.fullmatch(code.strip().upper()) if len(code) < 40 else None
    if match is None:
        return None if code.strip() in {"NO-CC CODE", "none"} else code.strip()
    if match["zero"]:
        return "CC0"
    if match["tdm"]:
        return "TDM"
    parts = set(re.findall("NC|ND|SA", match["rest"]))
    if {"ND", "SA"} <= parts:
        return code.strip()  # no such license
    return "-".join(["CC BY", *(part for part in ("NC", "SA", "ND") if part in parts)])


def check_code(code: str) -> str:
    """Return a code that a user gave in the archive's spelling, or `any`.

    Raises:
        ValueError: no such license.
    """
    found = "any" if code.strip().lower() == "any" else normalize_code(code)
    if found not in {*KNOWN_CODES, "any"}:
        raise ValueError(f"{code!r} is not a license; use one of {', '.join(KNOWN_CODES)}, any")
    return str(found)


def code_of_address(address: str) -> str | None:
    """Return the code of a Creative Commons address, None for any other."""
    match = _ADDRESS.search(address)
    if match is None:
        return None
    name = match[1].lower()
    if name in {"zero", "publicdomain", "mark"}:
        return "CC0"
    code = normalize_code(f"CC {name}") if name.startswith("by") else None
    return code if code in KNOWN_CODES else None


@lru_cache(maxsize=1024)
def code_of_wording(text: str) -> str | None:
    """Return the code that a license's wording amounts to, None if it names no such license."""
    if COMMONS.search(text) is None:
        return None
    words = BOTH_USES.sub("", text)
    written = "".join(CODE_RUN.findall(words)).upper()
    extra = [code for code, sign in RESTRICTIONS.items() if code in written or sign.search(words)]
    if ATTRIBUTION.search(words) or extra:
        code = "-".join(["CC BY", *extra])
        return code if code in KNOWN_CODES else None
    if re.search(r"\bcc0\b|public domain dedication|creative\s?commons zero", words, re.IGNORECASE):
        return "CC0"
    return None


def is_allowed(code: str | None, allowed: Sequence[str]) -> bool:
    """Tell whether a code is on the allow-list; `any` on the list allows everything."""
    return "any" in allowed or code in allowed


def read_own_rights(places: Iterable[Element]) -> OwnRights:
    """Return what a figure, its images and what is around it state about rights of their own.

    Args:
        places: the elements whose children are looked at, the figure first.
    """
    stated: list[License] = []
    words: list[str] = []
    credits_: list[str] = []
    names: tuple[str, ...] = (*_RIGHTS_NAMES, *_NOTES)
    for place in places:
        for part in place.iterchildren(*names):
            name = local_name(part)
            if name == "permissions":
                stated.append(read_license(place))
                words.append(" ".join(filter(None, map(render_text, part))) or "own permissions")
            elif name == "attrib":
                credits_.append(render_text(part))
            elif name.startswith("copyright"):
                words.append(render_text(part))
            elif CREDIT.search(text := render_text(part)) is not None:
                credits_.append(text)
        names = _RIGHTS_NAMES  # the paragraphs of what is around are not about the figure
    return OwnRights(
        license=combine(stated),
        permissions=" ".join(dict.fromkeys(filter(None, words))),
        credit=" ".join(dict.fromkeys(filter(None, credits_))),
    )


def find_rights_flag(caption: str, own: OwnRights, mentions: Sequence[str] = ()) -> str | None:
    """Return why a figure may not be covered by the article's license, None if nothing says so.

    A Creative Commons license of its own, in its permissions or in the sentence that names the
    source, frees a figure, unless the same words speak of a permission that was given, or say that
    the license does not hold.

    Args:
        caption: in all languages.
        own: what the figure states.
        mentions: sentences that cite it.
    """
    for kind, text, pattern in (
        ("wording", caption, THIRD_PARTY),
        ("credit", own.credit, CREDIT),
        ("own permissions", own.permissions, THIRD_PARTY),
    ):
        for match in pattern.finditer(text):
            sentence = sentence_at(text, match.start())
            is_strong = PERMISSION.search(sentence) is not None
            if is_strong or (own.license.code is None and code_of_wording(sentence) is None):
                return f"{kind}: {sentence[:200]}"
    if own.permissions and own.license.code is None:
        return f"own permissions: {own.permissions[:200]}"
    given = next((sentence for sentence in mentions if GIVEN.search(sentence)), None)
    return given and f"mention: {given[:200]}"


def find_own_license(caption: str, own: OwnRights) -> License:
    """Return the license that a figure has of its own; without a code if it has none.

    Every sentence of its credit line and caption that names a license counts, and the strictest of
    them holds, as with an article's.
    """
    stated = [
        License(code=code, url=address and address[0], basis=sentence[:300])
        for text in (own.credit, caption)
        for sentence in dict.fromkeys(sentence_at(text, m.start()) for m in LICENSED.finditer(text))
        for code, address in [(code_of_wording(sentence), _WRITTEN_ADDRESS.search(sentence))]
        if code is not None
    ]
    return combine([own.license, *stated]) if stated else own.license


def _basis(text: str) -> str:
    """Return the sentence of a wording that names the license."""
    match = COMMONS.search(text)
    return sentence_at(text, match.start())[:300] if match else text[:300]
