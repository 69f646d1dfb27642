"""Who may use what: licence codes from XML, the allow-list, and words that name a third party.

The archive's own code (`CC BY`, `CC BY-NC`, ..., `CC0`, `TDM`) is the spelling used everywhere. In
XML it is looked for, in order, in PMC's property, the licence reference, the licence's address, a
link inside it, and the wording, where NC, ND and SA are looked for before anything is called CC BY.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medllava.pmc.text import render_text
from medllava.pmc.xml import Element, child

KNOWN_CODES = (
    *("CC0", "CC BY", "CC BY-SA", "CC BY-ND", "CC BY-NC", "CC BY-NC-SA", "CC BY-NC-ND", "TDM"),
)
"""In the archive's spelling."""
_WRITTEN_CODE = re.compile(
    r"(?:(?P<zero>CC[\s_-]*(?:0|ZERO))|(?P<tdm>TDM)|(?:CC[\s_-]*)BY(?P<rest>(?:[\s_-]*(?:NC|ND|SA))*))"
    r"(?:[\s_-]*V?[1-4]\.[05](?:[\s_-]+(?:IGO|INTERNATIONAL|UNPORTED|[A-Z]{2}))?)?"
)
_ADDRESS = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z0-9-]+)", re.IGNORECASE)
_WRITTEN_ADDRESS = re.compile(r"https?://creativecommons\.org/[\w./-]+[\w/]", re.IGNORECASE)
_THIRD_PARTY = re.compile(
    r"with (?:kind |the )?permission|permission (?:from|of)|courtesy of|all rights reserved"
    r"|\u00a9|\bcopyright\b|\(c\) (?:19|20)\d\d"
    r"|\b(?:reprinted|reproduced|republished|adapted|redrawn) from\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """A licence as a code and, where stated, its address."""

    code: str | None = None
    url: str | None = None


def read_license(meta: Element | None) -> License:
    """Return the licence that `article-meta`, or a figure, states in its permissions."""
    property_code = _read_property(meta)
    permissions = child(meta, "permissions")
    if permissions is None and child(meta, "license") is not None:
        permissions = meta  # before JATS, the licence stood in the metadata itself
    if permissions is None:
        return License(code=property_code)
    url = next((u for u in _iter_addresses(permissions) if "creativecommons.org/" in u), None)
    code = (
        property_code or code_of_address(url or "") or code_of_wording(render_text_all(permissions))
    )
    return License(code=code, url=url)


def normalize_code(code: str | None) -> str | None:
    """Return a licence code in the archive's spelling, None for a blank.

    Options and file lists write `cc-by`, `CC_BY`, `CC BY 4.0`; all mean the same.
    """
    if code is None or not code.strip():
        return None
    match = _WRITTEN_CODE.fullmatch(code.strip().upper())
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
    return normalize_code(f"CC {name}") if name.startswith("by") else None


def code_of_wording(text: str) -> str | None:
    """Return the code that a licence's wording amounts to, None if it names no such licence."""
    words = text.lower()
    if "cc0" in words or "public domain dedication" in words:
        return "CC0"
    if "creative commons" not in words and not re.search(r"\bcc[ -]by", words):
        return None
    extra = [
        code
        for code, sign in (
            ("NC", r"non-?\s?commercial|\bnc\b"),
            ("SA", r"share-?\s?alike|\bsa\b"),
            ("ND", r"no-?\s?deriv|\bnd\b"),
        )
        if re.search(sign, words)
    ]
    if "attribution" in words or re.search(r"\bcc[ -]by", words):
        return "-".join(["CC BY", *extra])
    return None


def is_allowed(code: str | None, allowed: Sequence[str]) -> bool:
    """Tell whether a code is on the allow-list; `any` on the list allows everything."""
    return "any" in allowed or code in allowed


def find_rights_flag(caption: str, permissions: str) -> str | None:
    """Return why a figure may not be covered by the article's licence, None if nothing says so."""
    if permissions:
        return f"own permissions: {permissions[:200]}"
    match = _THIRD_PARTY.search(caption)
    return f"wording: {match[0]}" if match else None


def render_text_all(permissions: Element) -> str:
    """Return the words of a permissions element, licence and copyright statement."""
    return " ".join(render_text(part) for part in permissions)


def _read_property(meta: Element | None) -> str | None:
    """Return PMC's own `pmc-license-ref` of `article-meta`."""
    for custom in () if meta is None else meta.iterfind("{*}custom-meta-group/{*}custom-meta"):
        if render_text(child(custom, "meta-name")) == "pmc-license-ref":
            return normalize_code(render_text(child(custom, "meta-value")))
    return None


def _iter_addresses(permissions: Element) -> Iterator[str]:
    for reference in permissions.iter("{*}license_ref"):
        yield "".join(reference.itertext()).strip()
    for element in permissions.iter("{*}license", "{*}ext-link", "{*}uri"):
        for name, value in element.items():
            if name == "href" or name.endswith("}href"):
                yield str(value)
    for element in permissions.iter("{*}license"):
        yield from _WRITTEN_ADDRESS.findall("".join(element.itertext()))
