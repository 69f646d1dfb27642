"""One `article` element becomes an `Article`: ids, rights, and every figure with its words.

Both serialisations are read (the 2026 one names images with their extension and carries PMC's own
properties). A figure is found wherever it stands; its place is kept as `context`. Mentions in
running text come from `mentions`; which image file an `href` means is decided by `hrefs`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from medllava.language import UNKNOWN, detect_language, language_code, tell_language
from medllava.pmc.mentions import Target, find_mentions
from medllava.pmc.rights import License, OwnRights, read_license, read_own_rights
from medllava.pmc.text import child_text, render_text
from medllava.pmc.xml import Element, child, local_name

_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
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
_PMCID = re.compile(r"(?:PMC)*0*([1-9]\d*)(?:\.(\d+))?", re.IGNORECASE)
"""Some files write the prefix twice."""
_BEST_FORMS = ("tif", "tiff", "png", "jpg", "jpeg", "webp", "", "gif", "svg", "eps", "pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One `fig` of an article, before anything is decided about it."""

    xml_id: str
    label: str
    caption: str
    """In the language that is kept first: English, else the article's, else the first."""
    context: str
    captions: tuple[tuple[str, str], ...] = ()
    """Language code and text of each language that the caption is printed in."""
    graphics: tuple[tuple[str, ...], ...] = ()
    """Of each image, the names it goes by, best form first."""
    mentions: tuple[str, ...] = ()
    own: OwnRights = field(default_factory=OwnRights)
    """What the figure says of rights of its own."""
    is_supplement: bool = False
    is_inherited: bool = False
    """The caption is the group's."""

    @property
    def permissions(self) -> str:
        """The words of the figure's own permissions."""
        return self.own.permissions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a figure stands."""

    context: str = ""
    """One of `_CONTEXTS`, the nearest, but any sub-article comes first."""
    group: Element | None = None
    scope: Element | None = None
    """The sub-article around it, whose text is what cites it."""
    language: str = ""
    """As `xml:lang` declares it, of the nearest element."""
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
    language: str = UNKNOWN
    published: str = ""
    """ISO date of the first publication, as exact as it is stated."""
    journal: str = ""
    keywords: tuple[str, ...] = ()
    mesh: tuple[str, ...] = ()
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
    known = _PMCID.fullmatch(pmcid)
    pmcid = f"PMC{known[1]}" if known else ""
    version = int(known[2] or 0) if known else 0
    name, _, number = ids.get("pmcid-ver", "").partition(".")
    if number.isdigit() and name == pmcid:
        version = int(number)
    article_type = root.get("article-type", "")
    title = child_text(meta, "title-group", "article-title")
    language = language_code(root.get(_LANG, ""))
    if language == UNKNOWN:
        language = detect_language(f"{title} {child_text(meta, 'abstract')[:2000]}")
    return Article(
        pmcid=pmcid,
        version=version,
        pmid=ids.get("pmid", ""),
        doi=ids.get("doi", ""),
        title=title,
        article_type=article_type,
        citation=_read_citation(root, meta, title, ids.get("doi", "")),
        license=read_license(meta),
        language=language,
        published=_read_date(meta),
        journal=_read_journal(root),
        keywords=_read_keywords(meta, is_mesh=False),
        mesh=_read_keywords(meta, is_mesh=True),
        retracts=is_notice(article_type),
        figures=tuple(_read_figures(root, language)),
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


def _read_citation(root: Element, meta: Element | None, title: str, doi: str) -> str:
    """Return `Authors. Title. Journal. Year. doi`, with three authors at most."""
    if meta is None:
        return ""
    names = [
        " ".join(filter(None, (child_text(name, "surname"), child_text(name, "given-names"))))
        for name in islice(meta.iterfind("{*}contrib-group/{*}contrib/{*}name"), 4)
    ]
    authors = ", ".join(names[:3]) + (" et al" if len(names) > 3 else "")
    journal = _read_journal(root)
    years = sorted(
        filter(None, (child_text(date, "year") for date in meta.iterchildren("{*}pub-date")))
    )
    parts = [
        authors,
        title.rstrip("."),
        journal,
        years[0] if years else "",
        f"doi:{doi}" if doi else "",
    ]
    return ". ".join(filter(None, parts))


def _read_journal(root: Element) -> str:
    meta = child(root, "front", "journal-meta")
    titled = child_text(meta, "journal-title-group", "journal-title")
    return titled or child_text(meta, "journal-title")


def _read_date(meta: Element | None) -> str:
    """Return the earliest date of publication as far as it is stated: year, month, day."""
    dates: list[str] = []
    for date in () if meta is None else meta.iterchildren("{*}pub-date"):
        year = child_text(date, "year")
        if not (len(year) == 4 and year.isdigit()):
            continue
        parts = [year]
        for name in ("month", "day"):
            number = child_text(date, name)
            if not number.isdigit():
                break
            parts.append(f"{int(number):02d}")
        dates.append("-".join(parts))
    # "2020" is no earlier than "2020-03-05": the more exact one of a year wins.
    return min(dates, key=lambda date: f"{date}-99" if len(date) < 8 else date, default="")


def _read_keywords(meta: Element | None, *, is_mesh: bool) -> tuple[str, ...]:
    """Return the author's keywords, or the MeSH terms, in the order of the article."""
    found: dict[str, None] = {}
    for group in () if meta is None else meta.iterchildren("{*}kwd-group"):
        kind = f"{group.get('kwd-group-type', '')} {child_text(group, 'title')}"
        if ("mesh" in kind.lower()) == is_mesh and "abbreviation" not in kind.lower():
            found |= dict.fromkeys(filter(None, map(render_text, group.iter("{*}kwd"))))
    return tuple(found)


def _read_figures(root: Element, language: str) -> Iterator[Figure]:
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
    mentions = _find_mentions(root, targets, places)
    for element, place, target, label, found in zip(
        elements, places, targets, labels, mentions, strict=True
    ):
        captions, is_inherited = _read_captions(element, place.language, language), False
        if not captions and place.group is not None:
            captions, is_inherited = _read_captions(place.group, place.language, language), True
        context = place.context or "body"
        graphics = _find_graphics(element)
        around = [] if place.group is None else [place.group]
        yield Figure(
            xml_id=element.get("id", ""),
            label=label or target.label,
            caption=first_caption(captions, ("en", language)),
            captions=captions,
            context=context,
            graphics=tuple(_read_graphics(element, graphics)),
            mentions=found,
            own=read_own_rights([element, *graphics, *around]),
            is_supplement=_is_review(place)
            or place.is_supplement
            or _SUPPLEMENT.search(f"{label} {element.get('fig-type', '')}") is not None,
            is_inherited=is_inherited and bool(captions),
        )


def _find_mentions(
    root: Element, targets: list[Target], places: list[_Place]
) -> list[tuple[str, ...]]:
    """Return the citing sentences of each figure, from the text of its own (sub-)article."""
    found: list[tuple[str, ...]] = [()] * len(targets)
    for scope in dict.fromkeys(place.scope for place in places):
        numbers = [n for n, place in enumerate(places) if place.scope is scope]
        own = find_mentions(root if scope is None else scope, [targets[n] for n in numbers])
        for number, sentences in zip(numbers, own, strict=True):
            found[number] = sentences
    return found


def _is_review(place: _Place) -> bool:
    """Tell whether a figure belongs to a review or a response, not to a translation."""
    if place.scope is None:
        return False
    return bool(place.scope.get("article-type") != "translation")


def first_caption(captions: Sequence[tuple[str, str]], languages: Sequence[str]) -> str:
    """Return the caption in the first of these languages that there is, else the first caption."""
    by_language = dict(reversed(captions))
    for language in languages:
        if language in by_language:
            return by_language[language]
    return captions[0][1] if captions else ""


def _read_captions(element: Element, declared: str, article: str) -> tuple[tuple[str, str], ...]:
    """Return language and text of a figure's captions, or those of its images' where it has none.

    Captions, or paragraphs of one, in different languages are taken apart; all others belong
    together.

    Args:
        element: the figure or its group.
        declared: what `xml:lang` says of the place.
        article: the article's language, for words that do not tell.
    """
    captions = list(element.iterchildren("{*}caption"))
    if not captions and local_name(element) == "fig":
        captions = list(element.iterfind(".//{*}graphic/{*}caption"))
    declared = element.get(_LANG, declared)
    parts: list[tuple[str, str]] = []
    for caption in captions:
        said = caption.get(_LANG, "")
        text = render_text(caption)
        if text and said:
            parts.append((tell_language(text, said), text))
        elif text:
            parts += _split_languages(caption, text)
    joined: dict[str, list[str]] = {}
    for language, text in parts:
        joined.setdefault(language, []).append(text)
    if len(joined) == 1 and UNKNOWN in joined:
        joined = {language_code(declared) if declared else article: joined[UNKNOWN]}
    return tuple((language, " ".join(texts)) for language, texts in joined.items())


def _split_languages(caption: Element, text: str) -> list[tuple[str, str]]:
    """Return a caption by language, if its paragraphs are clearly in several."""
    blocks = [part for part in caption if isinstance(part.tag, str)]
    if len(blocks) < 2 or text.isascii():
        return [(detect_language(text), text)]
    rendered = [render_text(block) for block in blocks]
    found = [detect_language(words) for words in rendered]
    known = {language for language in found if language != UNKNOWN}
    if len(known) < 2 or " ".join(filter(None, rendered)) != text:
        return [(detect_language(text), text)]
    parts: list[tuple[str, str]] = []
    current = next(language for language in found if language != UNKNOWN)
    for language, words in zip(found, rendered, strict=True):
        current = language if language != UNKNOWN else current
        if words:
            parts.append((current, words))
    return parts


def _find_place(element: Element | None, known: dict[Element, _Place]) -> _Place:
    """Return what the elements around a figure say, from its parent up.

    Args:
        element: the parent; None above the root.
        known: places found before; figures share most of the way.
    """
    if element is None or element.getparent() is None:
        return _Place()  # of the root's language the article knows
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
            scope=element if name in {"sub-article", "response"} else around.scope,
            language=element.get(_LANG, around.language),
            is_supplement=around.is_supplement or name == "supplementary-material",
        )
    return place


def _find_graphics(element: Element) -> list[Element]:
    """Return the images of a figure, and files that are images though they stand as media."""
    return [
        graphic
        for graphic in element.iter("{*}graphic", "{*}media")
        if local_name(graphic) == "graphic" or graphic.get("mimetype") == "image"
    ]


def _read_graphics(element: Element, graphics: Sequence[Element]) -> Iterator[tuple[str, ...]]:
    """Yield, for each image of a figure, its names: one, or several where it has alternatives."""
    forms: dict[Element, list[str]] = {}
    by_id: dict[str | None, Element] = {}
    for graphic in graphics:
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
