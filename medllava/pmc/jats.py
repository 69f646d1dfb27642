"""One `article` element becomes an `Article`: its front matter, and every figure with its words.

Both serialisations are read (the 2026 one names images with their extension and carries PMC's own
properties). A figure is found wherever it stands; its place is kept as `context`. Mentions in
running text come from `mentions`; which image file an `href` means `archive` decides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from medllava.language import UNKNOWN, detect_language, language_code, tell_language
from medllava.pmc.figure_names import Target, label_in_front
from medllava.pmc.front import Front, read_front
from medllava.pmc.mentions import find_mentions
from medllava.pmc.rights import OwnRights, read_own_rights
from medllava.pmc.text import render_text
from medllava.pmc.xml import LANG, Element, children_by_name, local_name

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
_HOLDERS = frozenset({"fig-group", "boxed-text", "disp-quote"})
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
    holders: tuple[Element, ...] = ()
    """Elements around it that may speak of its rights, the nearest first."""
    scope: Element | None = None
    """The sub-article around it, whose text is what cites it."""
    language: str = ""
    """As `xml:lang` declares it, of the nearest element."""
    is_supplement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Article(Front):
    """What the XML of one article says."""

    figures: tuple[Figure, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A figure whose mentions are not known yet."""

    element: Element
    place: _Place
    parts: Mapping[str, Sequence[Element]]
    """Its children by name."""
    group: Mapping[str, Sequence[Element]]
    """Those of its group."""
    label: str
    captions: tuple[tuple[str, str], ...]
    is_inherited: bool

    @property
    def target(self) -> Target:
        ids = {self.element.get("id", "")}
        if self.place.group is not None:
            ids.add(self.place.group.get("id", ""))
        return Target(ids=frozenset(ids - {""}), label=self.label)


def read_article(root: Element, *, with_mentions: bool = True) -> Article:
    """Extract everything that is used of an `article` element.

    Args:
        root: the element.
        with_mentions: look for the sentences that cite each figure, half of the work.
    """
    front = read_front(root)
    drafts = _read_drafts(root, front.language)
    mentions = _find_mentions(root, drafts, front.language) if with_mentions else [()] * len(drafts)
    figures = [
        _read_figure(draft, found, front.language)
        for draft, found in zip(drafts, mentions, strict=True)
    ]
    facts = {fact.name: getattr(front, fact.name) for fact in fields(front)}
    return Article(figures=tuple(figures), **facts)


def _read_drafts(root: Element, language: str) -> list[_Draft]:
    drafts: list[_Draft] = []
    places: dict[Element, _Place] = {}
    groups: dict[Element | None, dict[str, list[Element]]] = {None: {}}
    for element in root.iter("{*}fig"):
        place = _find_place(element.getparent(), places)
        parts = children_by_name(element)
        if place.group not in groups:
            groups[place.group] = children_by_name(place.group)
        group = groups[place.group]
        captions, is_inherited = _read_captions(element, parts, place.language, language), False
        if not captions and place.group is not None:
            captions = _read_captions(place.group, group, place.language, language)
            is_inherited = bool(captions)
        drafts.append(
            _Draft(
                element=element,
                place=place,
                parts=parts,
                group=group,
                label=_read_label(parts, group, captions),
                captions=captions,
                is_inherited=is_inherited,
            )
        )
    return drafts


def _read_label(
    parts: Mapping[str, Sequence[Element]],
    group: Mapping[str, Sequence[Element]],
    captions: Sequence[tuple[str, str]],
) -> str:
    """Return a figure's label, else its group's, else what its caption begins with."""
    for holder in (parts, group):
        if "label" in holder and (label := render_text(holder["label"][0])):
            return label
    return label_in_front(captions[0][1]) if captions else ""


def _read_figure(draft: _Draft, mentions: tuple[str, ...], language: str) -> Figure:
    element, place = draft.element, draft.place
    graphics = _find_graphics(element)
    return Figure(
        xml_id=element.get("id", ""),
        label=draft.label,
        caption=first_caption(draft.captions, ("en", language)),
        captions=draft.captions,
        context=place.context or "body",
        graphics=tuple(_read_graphics(element, graphics)),
        mentions=mentions,
        own=read_own_rights([element, *graphics, *place.holders]),
        is_supplement=_is_review(place)
        or place.is_supplement
        or _SUPPLEMENT.search(f"{draft.label} {element.get('fig-type', '')}") is not None,
        is_inherited=draft.is_inherited,
    )


def _find_mentions(root: Element, drafts: Sequence[_Draft], language: str) -> list[tuple[str, ...]]:
    """Return the citing sentences of each figure, from the text of its own (sub-)article."""
    found: list[tuple[str, ...]] = [()] * len(drafts)
    for scope in dict.fromkeys(draft.place.scope for draft in drafts):
        numbers = [n for n, draft in enumerate(drafts) if draft.place.scope is scope]
        targets = [drafts[n].target for n in numbers]
        declared = language if scope is None else language_code(scope.get(LANG, language))
        own = find_mentions(root if scope is None else scope, targets, declared)
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
    if len(captions) < 2:
        return captions[0][1] if captions else ""
    by_language = dict(reversed(captions))
    for language in languages:
        if language in by_language:
            return by_language[language]
    return captions[0][1]


def _read_captions(
    element: Element, parts: Mapping[str, Sequence[Element]], declared: str, article: str
) -> tuple[tuple[str, str], ...]:
    """Return language and text of a figure's captions, or those of its images' where it has none.

    Captions, or paragraphs of one, in different languages are taken apart; all others belong
    together.

    Args:
        element: the figure or its group.
        parts: its children by name.
        declared: what `xml:lang` says of the place.
        article: the article's language, for words that do not tell.
    """
    captions = parts.get("caption", ())
    if not captions and local_name(element) == "fig":
        captions = [
            caption
            for graphic in element.iter("{*}graphic")
            for caption in graphic.iterchildren("{*}caption")
        ]
    found: list[tuple[str, str]] = []
    for caption in captions:
        said = caption.get(LANG, "")
        if not said:
            found += _split_languages(caption)
        elif text := render_text(caption):
            found.append((tell_language(text, said), text))
    joined: dict[str, list[str]] = {}
    for language, text in found:
        joined.setdefault(language, []).append(text)
    if len(joined) == 1 and UNKNOWN in joined:
        declared = element.get(LANG, declared)
        joined = {language_code(declared) if declared else article: joined[UNKNOWN]}
    return tuple((language, " ".join(texts)) for language, texts in joined.items())


def _split_languages(caption: Element) -> list[tuple[str, str]]:
    """Return a caption by language, in one part unless its paragraphs are clearly in several."""
    text = render_text(caption)
    if not text:
        return []
    if text.isascii():
        return [(detect_language(text), text)]
    blocks = [part for part in caption if isinstance(part.tag, str)]
    if len(blocks) < 2:
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
            holders=(element, *around.holders) if name in _HOLDERS else around.holders,
            scope=element if name in {"sub-article", "response"} else around.scope,
            language=element.get(LANG, around.language),
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
