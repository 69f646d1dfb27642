"""Licences as far as publishing depends on them: what each allows, and which is the strictest.

`parse_license` reads the many spellings that circulate (archive codes, SPDX, hub tags, plain words)
into `Terms`. This is a table of common facts for the license report, not legal advice: what it does
not know is reported under its own words and ranks as unknown.
"""

import re
from dataclasses import dataclass

from medllava.records import is_own


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one licence allows."""

    name: str
    """As it was stated, in one spelling."""
    rank: int
    """Strictness; the highest of all that apply decides."""
    hub_tag: str | None = None
    """Licence tag of the hub; None: the hub calls it `other`."""
    published_name: str = ""
    """Where it differs from `name`: the form under which a result is published."""
    url: str = ""
    may_redistribute: bool = True
    may_derive: bool = True
    is_commercial: bool = True
    is_share_alike: bool = False
    is_known: bool = True
    note: str = ""

    @property
    def slug(self) -> str:
        """Name for the hub's `license_name`: lower case, no spaces."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


UNKNOWN = Terms(name="unknown", rank=10, may_redistribute=False, is_known=False)
OWN_WORK = Terms(name="no third-party terms", rank=0)

OWN_DATA = Terms(
    name="own data",
    rank=12,
    may_redistribute=False,
    note="of whoever made it, stays private",
)
"""What users say of pictures that are theirs, such as a hospital's own."""
FOR_CODE = frozenset(("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause"))
"""Hub tags of licenses that packages have for their code; data in them may have other terms."""

_PUBLIC = Terms(
    name="CC0 1.0",
    rank=0,
    hub_tag="cc0-1.0",
    url="https://creativecommons.org/publicdomain/zero/1.0/",
)
_MIT = Terms(name="MIT", rank=1, hub_tag="mit", url="https://opensource.org/license/mit")
_APACHE = Terms(
    name="Apache-2.0",
    rank=2,
    hub_tag="apache-2.0",
    url="https://www.apache.org/licenses/LICENSE-2.0",
)
_RESEARCH_ONLY = Terms(
    name="Microsoft Research licence",
    rank=11,
    may_redistribute=False,
    is_commercial=False,
    note="research use, no redistribution",
)
_RESERVED = Terms(
    name="all rights reserved",
    rank=11,
    may_redistribute=False,
    may_derive=False,
    is_commercial=False,
)

_USE_LIMITS = "use restrictions travel with derivatives"

_EXACT: dict[str, Terms] = {
    "cc0": _PUBLIC,
    "cc0-1.0": _PUBLIC,
    "public-domain": Terms(name="public domain", rank=0, hub_tag="cc0-1.0"),
    "no-known-copyright-restrictions": Terms(name="no known copyright restrictions", rank=0),
    "unlicense": Terms(name="Unlicense", rank=0, hub_tag="unlicense"),
    "mit": _MIT,
    "isc": Terms(name="ISC", rank=1, hub_tag="isc"),
    "bsd": Terms(name="BSD", rank=1, hub_tag="bsd"),
    "bsd-2-clause": Terms(name="BSD-2-Clause", rank=1, hub_tag="bsd-2-clause"),
    "bsd-3": Terms(name="BSD-3-Clause", rank=1, hub_tag="bsd-3-clause"),
    "bsd-3-clause": Terms(name="BSD-3-Clause", rank=1, hub_tag="bsd-3-clause"),
    "apache": _APACHE,
    "apache-2": _APACHE,
    "apache-2.0": _APACHE,
    "apache-license-2.0": _APACHE,
    "lgpl-3.0": Terms(name="LGPL-3.0", rank=4, hub_tag="lgpl-3.0", is_share_alike=True),
    "gpl-2": Terms(name="GPL-2.0", rank=4, hub_tag="gpl-2.0", is_share_alike=True),
    "gpl-2.0": Terms(name="GPL-2.0", rank=4, hub_tag="gpl-2.0", is_share_alike=True),
    "gpl-3.0": Terms(name="GPL-3.0", rank=4, hub_tag="gpl-3.0", is_share_alike=True),
    "agpl-3.0": Terms(name="AGPL-3.0", rank=4, hub_tag="agpl-3.0", is_share_alike=True),
    "openrail": Terms(name="OpenRAIL", rank=5, hub_tag="openrail", note=_USE_LIMITS),
    "gemma": Terms(name="Gemma", rank=5, hub_tag="gemma", note=_USE_LIMITS),
    "hai-def": Terms(name="HAI-DEF", rank=5, note=_USE_LIMITS),
    "llama2": Terms(name="Llama 2", rank=5, hub_tag="llama2", note=_USE_LIMITS),
    "llama3": Terms(name="Llama 3", rank=5, hub_tag="llama3", note=_USE_LIMITS),
    "llama3.1": Terms(name="Llama 3.1", rank=5, hub_tag="llama3.1", note=_USE_LIMITS),
    "llama3.2": Terms(name="Llama 3.2", rank=5, hub_tag="llama3.2", note=_USE_LIMITS),
    "llama3.3": Terms(name="Llama 3.3", rank=5, hub_tag="llama3.3", note=_USE_LIMITS),
    "research-only": Terms(name="research only", rank=6, is_commercial=False),
    "msrla": _RESEARCH_ONLY,
    "microsoft-research-license": _RESEARCH_ONLY,
    "tdm": Terms(
        name="text and data mining only",
        rank=11,
        may_redistribute=False,
        may_derive=False,
        is_commercial=False,
    ),
    "all-rights-reserved": _RESERVED,
    "no-cc-code": _RESERVED,
    "unknown": UNKNOWN,
    "none": UNKNOWN,
    "null": UNKNOWN,
    "": UNKNOWN,
}

_CREATIVE_COMMONS = re.compile(
    r"(?:cc-)?by(?P<nc>-nc)?(?P<tail>-sa|-nd)?(?:-(?P<version>\d\.\d))?(?:-international|-igo)?"
)
_CC_ADDRESS = re.compile(
    r"https?://creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)"
)
_CC_RANKS = {
    (False, None): 3,
    (False, "-sa"): 4,
    (True, None): 6,
    (True, "-sa"): 7,
    (False, "-nd"): 8,
    (True, "-nd"): 9,
}

_HOSTED = "its provider's terms forbid using replies to build competing models"
_TEACHERS: tuple[tuple[str, Terms], ...] = (
    ("template", OWN_WORK),
    ("recorded", UNKNOWN),
    ("gpt", Terms(name="OpenAI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("chatgpt", Terms(name="OpenAI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("o1", Terms(name="OpenAI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("o3", Terms(name="OpenAI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("o4", Terms(name="OpenAI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("claude", Terms(name="Anthropic terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("gemini", Terms(name="Google AI terms", rank=6, is_commercial=False, note=_HOSTED)),
    ("smollm", _APACHE),
    ("qwen3", _APACHE),
)


def parse_license(text: str | None) -> Terms:
    """Read one licence, or several joined by AND (all apply) or OR (the user's choice).

    A text that the table does not hold keeps its own words and ranks as unknown.
    """
    text = (text or "").strip()
    for separator, pick in ((r"\s+and\s+|;\s*", max), (r"\s+or\s+", min)):
        parts = [part for part in re.split(separator, text, flags=re.IGNORECASE) if part.strip()]
        if len(parts) > 1:
            return pick(map(parse_license, parts), key=lambda terms: terms.rank)
    address = _CC_ADDRESS.match(text.lower())
    if address:
        kind, version = address.groups()
        return _PUBLIC if kind == "zero" else parse_license(f"cc-{kind}-{version}")
    key = re.sub(r"[\s_/]+", "-", text.lower()).removesuffix("-license").removesuffix("-licence")
    if is_own(text):
        return OWN_DATA
    if key in _EXACT:
        return _EXACT[key]
    match = _CREATIVE_COMMONS.fullmatch(key)
    if match:
        return _creative_commons(match)
    return Terms(name=text, rank=UNKNOWN.rank, may_redistribute=False, is_known=False)


def teacher_terms(teacher: str) -> Terms:
    """Return the terms that bind what a teacher wrote, by the model's name."""
    name = teacher.lower().rsplit("/", 1)[-1]
    return next((terms for prefix, terms in _TEACHERS if name.startswith(prefix)), UNKNOWN)


def _creative_commons(match: re.Match[str]) -> Terms:
    nc, tail, version = bool(match["nc"]), match["tail"], match["version"]
    kind = f"by{'-nc' if nc else ''}{tail or ''}"
    return Terms(
        name=f"CC {kind.upper()}{f' {version}' if version else ''}",
        rank=_CC_RANKS[nc, tail],
        # Where no version is stated, the current one is the form in which the terms are passed on.
        published_name=f"CC {kind.upper()} {version or '4.0'}",
        hub_tag=f"cc-{kind}-{version or '4.0'}",
        url=f"https://creativecommons.org/licenses/{kind}/{version or '4.0'}/",
        may_derive=tail != "-nd",
        is_commercial=not nc,
        is_share_alike=tail == "-sa",
    )
