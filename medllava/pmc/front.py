"""What the front matter of an article says of it: ids, citation, date, journal, keywords.

`article-meta` and `journal-meta` are walked once each; all readers take what was found there by
name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from medllava.language import UNKNOWN, detect_language, language_code
from medllava.pmc.rights import License, read_license
from medllava.pmc.text import child_text, render_text
from medllava.pmc.xml import LANG, Element, child, children_by_name

_PMCID = re.compile(r"(?:PMC)*0*([1-9]\d*)(?:\.(\d+))?", re.IGNORECASE)
"""Some files write the prefix twice."""
_NOTICE = re.compile(
    r"retract|correct|erratum|expression-of-concern|addendum|withdraw|removal", re.IGNORECASE
)
Parts = Mapping[str, Sequence[Element]]
"""Children of an element by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The facts of one article; empty where the XML does not tell."""

    pmcid: str = ""
    version: int = 0
    pmid: str = ""
    doi: str = ""
    title: str = ""
    article_type: str = ""
    citation: str = ""
    license: License = field(default_factory=License)
    language: str = UNKNOWN
    published: str = ""
    """ISO date of the first publication, as exact as it is stated."""
    journal: str = ""
    keywords: tuple[str, ...] = ()
    mesh: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`PMCID.version`, or the DOI where there is no PMCID; empty if neither is there."""
        if self.pmcid:
            return f"{self.pmcid}.{self.version or 1}"
        return f"doi:{self.doi}" if self.doi else ""

    @property
    def retracts(self) -> bool:
        """Whether it is a notice about another: retraction, correction, concern, addendum."""
        return _NOTICE.search(self.article_type) is not None


def read_front(root: Element) -> Front:
    """Return what the front matter of an `article` says."""
    front = child(root, "front")
    meta = child(front, "article-meta")
    parts = {} if meta is None else children_by_name(meta)
    ids = _read_ids(parts)
    pmcid, version = _read_pmcid(ids)
    doi = ids.get("doi", "")
    title = child_text(_first(parts, "title-group"), "article-title")
    language = language_code(root.get(LANG, ""))
    if language == UNKNOWN:
        language = detect_language(f"{title} {render_text(_first(parts, 'abstract'))[:2000]}")
    journal = _read_journal(child(front, "journal-meta"))
    keywords, mesh = _read_keywords(parts)
    return Front(
        pmcid=pmcid,
        version=version,
        pmid=ids.get("pmid", ""),
        doi=doi,
        title=title,
        article_type=root.get("article-type", ""),
        citation=_read_citation(parts, journal, title, doi),
        license=read_license(meta),
        language=language,
        published=_read_date(parts),
        journal=journal,
        keywords=keywords,
        mesh=mesh,
    )


def _first(parts: Parts, name: str) -> Element | None:
    found = parts.get(name)
    return found[0] if found else None


def _read_ids(parts: Parts) -> dict[str, str]:
    ids: dict[str, str] = {}
    for element in parts.get("article-id", ()):
        ids.setdefault(element.get("pub-id-type", ""), "".join(element.itertext()).strip())
    return ids


def _read_pmcid(ids: Mapping[str, str]) -> tuple[str, int]:
    """Return the PMCID with its prefix, and the version; 0 where none is stated."""
    known = _PMCID.fullmatch(ids.get("pmcid", "") or ids.get("pmc", ""))
    pmcid = f"PMC{known[1]}" if known else ""
    version = int(known[2] or 0) if known else 0
    name, _, number = ids.get("pmcid-ver", "").partition(".")
    if number.isdecimal() and name == pmcid:
        version = int(number)
    return pmcid, version


def _read_citation(parts: Parts, journal: str, title: str, doi: str) -> str:
    """Return `Authors. Title. Journal. Year. doi`, with three authors at most."""
    if not parts:
        return ""
    names = [
        " ".join(filter(None, (child_text(name, "surname"), child_text(name, "given-names"))))
        for name in islice(_iter_names(parts), 4)
    ]
    authors = ", ".join(names[:3]) + (" et al" if len(names) > 3 else "")
    years = sorted(filter(None, (child_text(date, "year") for date in parts.get("pub-date", ()))))
    stated = [
        authors,
        title.rstrip("."),
        journal,
        years[0] if years else "",
        f"doi:{doi}" if doi else "",
    ]
    return ". ".join(filter(None, stated))


def _iter_names(parts: Parts) -> Iterator[Element]:
    for group in parts.get("contrib-group", ()):
        for contributor in group.iterchildren("{*}contrib"):
            yield from contributor.iterchildren("{*}name")


def _read_journal(meta: Element | None) -> str:
    titled = child_text(meta, "journal-title-group", "journal-title")
    return titled or child_text(meta, "journal-title")


def _read_date(parts: Parts) -> str:
    """Return the earliest date of publication as far as it is stated: year, month, day."""
    dates: list[str] = []
    for date in parts.get("pub-date", ()):
        year = child_text(date, "year")
        if not (len(year) == 4 and year.isdecimal()):
            continue
        stated = [year]
        for name in ("month", "day"):
            number = child_text(date, name)
            if not number.isdecimal():
                break
            stated.append(f"{int(number):02d}")
        dates.append("-".join(stated))
    # "2020" is no earlier than "2020-03-05": the more exact one of a year wins.
    return min(dates, key=lambda date: f"{date}-99" if len(date) < 8 else date, default="")


def _read_keywords(parts: Parts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the author's keywords and the MeSH terms, in the order of the article."""
    keywords: dict[str, None] = {}
    mesh: dict[str, None] = {}
    for group in parts.get("kwd-group", ()):
        kind = f"{group.get('kwd-group-type', '')} {child_text(group, 'title')}".lower()
        if "abbreviation" not in kind:
            found = mesh if "mesh" in kind else keywords
            found |= dict.fromkeys(filter(None, map(render_text, group.iter("{*}kwd"))))
    return tuple(keywords), tuple(mesh)
