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
    r"creativecommons\.org/(?:licenses|publicdomain)/(?:cc[-_])?([a-z0-9-]+)", re.IGNORECASE
)
_WRITTEN_ADDRESS = re.compile(r"https?://(?:www\.)?creativecommons\.org/[\w./-]+[\w/]", re.I)
_COMMONS = re.compile(r"creative\s?commons|\bcc[ -]by\b|\bcc0\b|public domain dedication", re.I)
_ATTRIBUTION = re.compile(
    r"attribution|atribuci[o\u00f3]n|atribui[c\u00e7][a\u00e3]o|attribuzione|paternit[e\u00e9]|namensnennung"
    r"|\bcc[ -]by\b",
    re.IGNORECASE,
)
_BOTH_USES = re.compile(
    r"\b(?:commercial\w*,? (?:and|or|as well as) non-?\s?commercial\w*"
    r"|non-?\s?commercial\w*,? (?:and|or|as well as) commercial\w*)",
    re.IGNORECASE,
)
"""Speaks of non-commercial use and forbids nothing."""
_NO = r"(?:not|no|n[a\u00e3]o|pas|nicht|non)"
_RESTRICTIONS = {
    "NC": re.compile(
        r"non-?\s?commercial|\bno[- ]?comercial|n[a\u00e3]o-?\s?comercial|nicht[- ]?kommerziell"
        r"|pas d.utilisation commerciale|utilisation non commerciale|(?<![\w])nc\b"
        rf"|commercial (?:re-?)?use[sd]?\b[^.;]{{0,40}}"
        rf"\b(?:{_NO} (?:be )?(?:permitted|allowed|granted)"
        r"|prohibited|forbidden|requires?|needs?)|not[^.;]{0,30}\bfor (?:any )?commercial",
        re.IGNORECASE,
    ),
    "SA": re.compile(
        r"share-?\s?alike|compartir-?\s?igual|compartilha-?\s?igual|(?<![\w])sa\b"
        r"|partage dans les m[e\u00ea]mes|weitergabe unter gleichen|condividi allo stesso",
        re.IGNORECASE,
    ),
    "ND": re.compile(
        r"no-?\s?deriv|non-?\s?deriv|without deriv|sin-?\s?(?:obra)?s?-?\s?deriv|sem-?\s?deriv"
        r"|pas de modification|keine[- ]?bearbeitung|non opere derivate|(?<![\w])nd\b"
        r"|derivative works?[^.;]{0,30}\b(?:not|prohibited)|(?:not|never)[^.;]{0,20}\bshare adapted"
        r"|not[^.;]{0,25}\b(?:altered|transformed|built upon|changed in any way|modified)",
        re.IGNORECASE,
    ),
}
_STRONG = (
    r"with (?:kind |the |written )*permission|permission (?:from|of)|courtesy of"
    r"|all rights reserved"
)
_THIRD_PARTY = re.compile(
    rf"{_STRONG}|\u00a9|\bcopyright\b|\(c\) (?:19|20)\d\d"
    r"|\b(?:reprinted|reproduced|republished|adapted|redrawn) from\b",
    re.IGNORECASE,
)
_STRONG_PATTERN = re.compile(_STRONG, re.IGNORECASE)
_CREDIT = re.compile(
    rf"{_THIRD_PARTY.pattern}|\b(?:credits?|photo(?:graph)?s? by|courtesy)\b|\bphoto(?:graph)?s?:"
    r"|\bsource:?\s+(?!.{0,20}\b(?:authors?|own|this study|elaborat))",
    re.IGNORECASE,
)
"""In a line that only says where a figure comes from, less is enough than in a caption."""
_RIGHTS_NAMES = (
    *("{*}permissions", "{*}attrib"),
    *("{*}copyright-statement", "{*}copyright-holder", "{*}copyright-year"),
)


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
    kind = normalize_code(element.get("license-type"))
    if kind in KNOWN_CODES:
        stated.append(License(code=kind, basis=f"license-type: {element.get('license-type')}"))
    links = [
        str(v)
        for link in element.iter("{*}ext-link", "{*}uri")
        for k, v in link.items()
        if k == "href" or k.endswith("}href")
    ]
    links += _WRITTEN_ADDRESS.findall(text)
    linked = [License(code=code_of_address(a), url=a, basis=a) for a in links]
    named = License(code=code_of_wording(text), basis=_basis(text))
    if named.code is None and any(one.code for one in stated):
        # The address names the license; the words may still restrict it.
        named = replace(named, code=code_of_wording(f"CC BY {text}"))
    return combine([*stated, *linked, named])


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
    if _COMMONS.search(text) is None:
        return None
    words = _BOTH_USES.sub("", text)
    extra = [code for code, sign in _RESTRICTIONS.items() if sign.search(words)]
    if _ATTRIBUTION.search(words) or extra:
        code = "-".join(["CC BY", *extra])
        return code if code in KNOWN_CODES else None
    if re.search(r"\bcc0\b|public domain dedication|creative\s?commons zero", words, re.IGNORECASE):
        return "CC0"
    return None


def is_allowed(code: str | None, allowed: Sequence[str]) -> bool:
    """Tell whether a code is on the allow-list; `any` on the list allows everything."""
    return "any" in allowed or code in allowed


def read_own_rights(places: Iterable[Element]) -> OwnRights:
    """Return what a figure, its group and its images state about rights of their own.

    Args:
        places: the elements whose children are looked at, the figure first.
    """
    stated: list[License] = []
    words: list[str] = []
    credits_: list[str] = []
    for place in places:
        for part in place.iterchildren(*_RIGHTS_NAMES):
            name = local_name(part)
            if name == "permissions":
                stated.append(read_license(place))
                words.append(" ".join(filter(None, map(render_text, part))) or "own permissions")
            elif name == "attrib":
                credits_.append(render_text(part))
            else:
                words.append(render_text(part))
    return OwnRights(
        license=combine(stated),
        permissions=" ".join(dict.fromkeys(filter(None, words))),
        credit=" ".join(dict.fromkeys(filter(None, credits_))),
    )


def find_rights_flag(caption: str, own: OwnRights) -> str | None:
    """Return why a figure may not be covered by the article's license, None if nothing says so.

    A Creative Commons license of its own, in its permissions or in the sentence that names the
    source, frees a figure, unless the same words speak of a permission that was given.
    """
    for kind, text, pattern in (
        ("wording", caption, _THIRD_PARTY),
        ("credit", own.credit, _CREDIT),
        ("own permissions", own.permissions, _THIRD_PARTY),
    ):
        for match in pattern.finditer(text):
            sentence = sentence_at(text, match.start())
            is_strong = _STRONG_PATTERN.search(sentence) is not None
            if is_strong or (own.license.code is None and code_of_wording(sentence) is None):
                return f"{kind}: {sentence[:200]}"
    if own.permissions and own.license.code is None:
        return f"own permissions: {own.permissions[:200]}"
    return None


def find_own_license(caption: str, own: OwnRights) -> License:
    """Return the license that a figure has of its own; without a code if it has none."""
    if own.license.code is not None:
        return own.license
    for text in (own.credit, caption):
        for match in _CREDIT.finditer(text):
            sentence = sentence_at(text, match.start())
            code = code_of_wording(sentence)
            if code is not None:
                address = _WRITTEN_ADDRESS.search(sentence)
                return License(code=code, url=address and address[0], basis=sentence[:300])
    return own.license


def _basis(text: str) -> str:
    """Return the sentence of a wording that names the license."""
    match = _COMMONS.search(text)
    return sentence_at(text, match.start())[:300] if match else text[:300]
