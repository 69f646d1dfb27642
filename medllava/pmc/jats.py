"""One `article` element becomes an `Article`: ids, rights, and every figure with its words.

Both serialisations are read (the 2026 one names images with their extension and carries PMC's own
properties). A figure is found wherever it stands; its place is kept as `context`. Mentions in
running text come from `mentions`; which image file an `href` means is decided by `hrefs`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from medllava.pmc.mentions import Target, find_mentions
from medllava.pmc.rights import License, read_license
from medllava.pmc.text import child_text, render_text
from medllava.pmc.xml import Element, child, local_name

_CONTEXTS = {
    "sub-article": "sub-article",
    "response": "sub-article",
    "boxed-text": "boxed-text",
    "floats-group": "floats",
    "floats-wrap": "floats",
    "app": "back",
    "back": "back",
    "abstract": "abstract",
    "trans-abstract": "abstract",
    "body": "body",
}
_NOT_FIGURE_PARTS = frozenset({"table-wrap", "disp-formula", "inline-formula", "caption", "fig"})
_SUPPLEMENT = re.compile(
    r"(?<!figure )supp(l|\b)|supporting|additional file|extended data|author response|reviewer"
    r"|\b(fig(ure)?s?\.?|scheme) ?s\d",
    re.IGNORECASE,
)
_BEST_FORMS = ("tif", "tiff", "png", "jpg", "jpeg", "webp", "", "gif", "svg", "eps", "pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One `fig` of an article, before anything is decided about it."""

    xml_id: str
    label: str
    caption: str
    context: str
    graphics: tuple[tuple[str, ...], ...] = ()
    """Of each image, the names it goes by, best form first."""
    mentions: tuple[str, ...] = ()
    permissions: str = ""
    """What the figure's own `permissions` say."""
    is_supplement: bool = False
    is_inherited: bool = False
    """The caption is the group's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a figure stands."""

    context: str = ""
    """One of `_CONTEXTS`, the nearest, but any sub-article comes first."""
    group: Element | None = None
    is_supplement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """What the XML of one article says."""

    pmcid: str = ""
    version: int = 0
    pmid: str = ""
    doi: str = ""
    title: str = ""
    article_type: str = ""
    citation: str = ""
    license: License = field(default_factory=License)
    retracts: bool = False
    """The article is a notice about another: retraction, correction, concern, addendum."""
    figures: tuple[Figure, ...] = ()

    @property
    def key(self) -> str:
        """`PMCID.version`, or the DOI where there is no PMCID; empty if neither is there."""
        if self.pmcid:
            return f"{self.pmcid}.{self.version or 1}"
        return f"doi:{self.doi}" if self.doi else ""


def read_article(root: Element) -> Article:
    """Extract everything that is used of an `article` element."""
    meta = child(root, "front", "article-meta")
    ids = _read_ids(meta)
    pmcid, version = ids.get("pmcid", "") or ids.get("pmc", ""), 0
    if pmcid:
        digits, _, number = pmcid.upper().removeprefix("PMC").partition(".")
        pmcid = f"PMC{digits}"
        version = int(number) if number.isdigit() else 0
    name, _, number = ids.get("pmcid-ver", "").partition(".")
    if number.isdigit() and name == pmcid:
        version = int(number)
    article_type = root.get("article-type", "")
    return Article(
        pmcid=pmcid,
        version=version,
        pmid=ids.get("pmid", ""),
        doi=ids.get("doi", ""),
        title=child_text(meta, "title-group", "article-title"),
        article_type=article_type,
        citation=_read_citation(root, meta, ids.get("doi", "")),
        license=read_license(meta),
        retracts=is_notice(article_type),
        figures=tuple(_read_figures(root)),
    )


def is_notice(article_type: str) -> bool:
    """Tell whether an article of this type only speaks about another one."""
    return bool(
        re.search(
            r"retract|correct|erratum|expression-of-concern|addendum|withdraw|removal",
            article_type,
            re.IGNORECASE,
        )
    )


def _read_ids(meta: Element | None) -> dict[str, str]:
    ids: dict[str, str] = {}
    for element in () if meta is None else meta.iterchildren("{*}article-id"):
        ids.setdefault(element.get("pub-id-type", ""), "".join(element.itertext()).strip())
    return ids


def _read_citation(root: Element, meta: Element | None, doi: str) -> str:
    """Return `Authors. Title. Journal. Year. doi`, with three authors at most."""
    if meta is None:
        return ""
    names = [
        " ".join(filter(None, (child_text(name, "surname"), child_text(name, "given-names"))))
        for name in islice(meta.iterfind("{*}contrib-group/{*}contrib/{*}name"), 4)
    ]
    authors = ", ".join(names[:3]) + (" et al" if len(names) > 3 else "")
    journal_meta = child(root, "front", "journal-meta")
    journal = child_text(journal_meta, "journal-title-group", "journal-title") or child_text(
        journal_meta, "journal-title"
    )
    years = sorted(
        filter(None, (child_text(date, "year") for date in meta.iterchildren("{*}pub-date")))
    )
    title = child_text(meta, "title-group", "article-title").rstrip(".")
    parts = [authors, title, journal, years[0] if years else "", f"doi:{doi}" if doi else ""]
    return ". ".join(filter(None, parts))


def _read_figures(root: Element) -> Iterator[Figure]:
    elements = list(root.iter("{*}fig"))
    if not elements:
        return
    targets: list[Target] = []
    labels: list[str] = []
    places: list[_Place] = []
    known: dict[Element, _Place] = {}
    for element in elements:
        place = _find_place(element.getparent(), known)
        group = place.group
        label = child_text(element, "label")
        ids = {element.get("id", ""), "" if group is None else group.get("id", "")} - {""}
        targets.append(Target(ids=frozenset(ids), label=label or child_text(group, "label")))
        labels.append(label)
        places.append(place)
    mentions = find_mentions(root, targets)
    for element, place, target, label, found in zip(
        elements, places, targets, labels, mentions, strict=True
    ):
        caption, is_inherited = _read_caption(element), False
        if not caption and place.group is not None:
            caption, is_inherited = _read_caption(place.group), True
        context = place.context or "body"
        permissions = child(element, "permissions")
        yield Figure(
            xml_id=element.get("id", ""),
            label=label or target.label,
            caption=caption,
            context=context,
            graphics=tuple(_read_graphics(element)),
            mentions=found,
            permissions="" if permissions is None else _read_permissions(permissions),
            is_supplement=context == "sub-article"
            or place.is_supplement
            or _SUPPLEMENT.search(f"{label} {element.get('fig-type', '')}") is not None,
            is_inherited=is_inherited and bool(caption),
        )


def _read_caption(element: Element) -> str:
    """Return the captions of a figure, or those of its images where only they have one."""
    captions = list(element.iterchildren("{*}caption"))
    if not captions and local_name(element) == "fig":
        captions = list(element.iterfind(".//{*}graphic/{*}caption"))
    return " ".join(filter(None, map(render_text, captions)))


def _read_permissions(element: Element) -> str:
    license_ = read_license_of(element)
    return license_ or render_text_of(element) or "own permissions"


def read_license_of(permissions: Element) -> str:
    """Return the code of a figure's own licence, or an empty string."""
    return read_license(permissions.getparent()).code or ""


def render_text_of(permissions: Element) -> str:
    """Return the words of a figure's own permissions."""
    return " ".join(filter(None, (render_text(part) for part in permissions)))


def _find_place(element: Element | None, known: dict[Element, _Place]) -> _Place:
    """Return what the elements around a figure say, from its parent up.

    Args:
        element: the parent; None above the root.
        known: places found before; figures share most of the way.
    """
    if element is None:
        return _Place()
    place = known.get(element)
    if place is None:
        name = local_name(element)
        around = _find_place(element.getparent(), known)
        context = _CONTEXTS.get(name, "")
        if not context or around.context == "sub-article":
            context = around.context
        place = known[element] = _Place(
            context=context,
            group=element if name == "fig-group" else around.group,
            is_supplement=around.is_supplement or name == "supplementary-material",
        )
    return place


def _read_graphics(element: Element) -> Iterator[tuple[str, ...]]:
    """Yield, for each image of a figure, its names: one, or several where it has alternatives."""
    forms: dict[Element, list[str]] = {}
    by_id: dict[str | None, Element] = {}
    for graphic in element.iter("{*}graphic"):
        holder = graphic
        for ancestor in graphic.iterancestors():
            if ancestor is element:
                break
            name = local_name(ancestor)
            if name in _NOT_FIGURE_PARTS:
                holder = None
                break
            if name == "alternatives":
                holder = ancestor
        href = _read_href(graphic)
        if holder is None or not href:
            continue
        holder = by_id.get(graphic.get("alternate-form-of"), holder)
        if graphic.get("id"):
            by_id[graphic.get("id")] = holder
        forms.setdefault(holder, []).append(href)
    for names in forms.values():
        yield tuple(sorted(dict.fromkeys(names), key=_form_rank))


def _read_href(graphic: Element) -> str:
    """Return `xlink:href` whatever the order of attributes or the prefix."""
    for name, value in graphic.items():
        if name == "href" or name.endswith("}href"):
            return str(value).strip()
    return ""


def _form_rank(href: str) -> int:
    extension = href.rpartition(".")[2].lower() if "." in href else ""
    return _BEST_FORMS.index(extension) if extension in _BEST_FORMS else _BEST_FORMS.index("")
