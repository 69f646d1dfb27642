r"""A compound figure's caption becomes one text per panel.

Marks are what journals print: (A), A), A., "A,", a-c, (i), Left, "Upper right". A series of marks
counts only where it runs on without a gap from its first member, so that "vitamin (C)" or "grade
(I)" is none. A mark stands before its words or after them; which, is one choice for the caption.
What comes before the first mark speaks of all panels.
"""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_PANELS = 26
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_LETTERS = tuple(string.ascii_lowercase)
_DASHES = "-\u2010\u2011\u2012\u2013\u2014~\u223c\uff5e"
_ONE = r"(?:[A-Za-z]|[ivxIVX]{1,4})"
_LIST = rf"{_ONE}(?:\s*(?:[{_DASHES},;&]|,?\s*and|to)\s*{_ONE})*"
_OPEN_CLOSED = re.compile(rf"[(\[]\s*(?:panels?\s+)?({_LIST})\s*[)\]]", re.IGNORECASE)
_CLOSED = re.compile(rf"(?<![\w(])({_LIST})\)")
_BARE = re.compile(rf"(?:^|(?<=[.;:?!]\s))(?:Panels?\s+)?({_LIST})(?:[.,:]|\s[{_DASHES}])\s+(?=\S)")
_UNMARKED = re.compile(rf"(?:^|(?<=[.;:?!]\s))({_LIST})\s+(?=[^\W\d_])")
"""At the head of a sentence: "b Survival of the mice.", where print sets the letter in bold."""
_NAMED = re.compile(rf"\b[Pp]anels?\s+({_LIST})\b")
_LOOSE = re.compile(r"(?:(?<=\s)|^)[a-z](?=\s+[^\W\d_])")
_PLACE = re.compile(
    r"(?:^|(?<=[.;:,]\s)|(?<=[(\[]))"
    r"((?:(?:upper|lower|top|bottom|middle|cent(?:er|re))(?:[ -](?:left|right))?|left|right)"
    r"(?:\s+(?:panels?|images?|rows?|columns?|hand side))?)(?=\s*[:,)\]])",
    re.IGNORECASE,
)
_PAIRS = (
    ("left", "right"),
    ("left", "middle", "right"),
    ("left", "center", "right"),
    ("left", "centre", "right"),
    ("top", "bottom"),
    ("upper", "lower"),
    ("top", "middle", "bottom"),
    ("upper", "middle", "lower"),
    ("upper left", "upper right", "lower left", "lower right"),
    ("top left", "top right", "bottom left", "bottom right"),
)
_SENTENCE_END = re.compile(r"[.;]\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelCaptions:
    """What a caption says of its panels."""

    lead: str
    """What is said before the first mark, of all panels."""
    parts: dict[str, str]
    """Label as printed (without brackets) to its words, in the order of the series."""

    def text(self, label: str) -> str:
        """Return the whole caption of one panel: the lead and its own words."""
        return " ".join(part for part in (self.lead, self.parts.get(label, "")) if part)


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    labels: tuple[str, ...]


def split_caption(caption: str) -> PanelCaptions:
    """Return the panels that a caption names; `parts` is empty where it names none."""
    readings = [reading for find in _READINGS if (reading := find(caption))]
    if not readings:
        return PanelCaptions(lead=caption.strip(), parts={})
    # The reading that names most panels is the series; brackets win a draw.
    marks = max(readings, key=lambda reading: len({n for mark in reading for n in mark.labels}))
    return _assign(caption, marks)


def _find_bracketed(caption: str) -> list[_Mark]:
    return _series(caption, _OPEN_CLOSED)


def _find_closed(caption: str) -> list[_Mark]:
    return _series(caption, _CLOSED)


def _find_bare(caption: str) -> list[_Mark]:
    return _series(caption, _BARE)


def _find_named(caption: str) -> list[_Mark]:
    return _series(caption, _NAMED)


def _find_unmarked(caption: str) -> list[_Mark]:
    return _series(caption, _UNMARKED)


def _find_loose(caption: str) -> list[_Mark]:
    """Return letters that stand between words without any mark: "a dark morph b pale morph c egg".

    Their order is all there is to go by: `b`, `c` and so on must stand alone once each, in order,
    behind a word `a`; with fewer than three nothing is believed.
    """
    places: dict[str, list[re.Match[str]]] = {}
    for match in _LOOSE.finditer(caption):
        places.setdefault(match[0], []).append(match)
    found: list[re.Match[str]] = []
    for letter in _LETTERS[1:]:
        here = places.get(letter, [])
        if len(here) != 1 or (found and here[0].start() < found[-1].start()):
            break
        found += here
    first = [match for match in places.get("a", []) if found and match.end() < found[0].start()]
    if len(found) < 2 or not first:
        return []
    return [_Mark(match.start(), match.end(), (match[0],)) for match in (first[-1], *found)]


def _series(caption: str, pattern: re.Pattern[str]) -> list[_Mark]:
    """Return the marks of one pattern whose labels run on without a gap from the first."""
    for alphabet, fold in ((_LETTERS, str.lower), (_ROMAN, str.lower)):
        marks = [
            _Mark(match.start(), match.end(), labels)
            for match in pattern.finditer(caption)
            if (labels := _expand(match[1], alphabet, fold))
        ]
        named = {fold(label) for mark in marks for label in mark.labels}
        count = next((i for i, label in enumerate(alphabet) if label not in named), len(alphabet))
        if count < 2:
            continue
        series = set(alphabet[:count])
        return [mark for mark in marks if all(fold(label) in series for label in mark.labels)]
    return []


def _expand(text: str, alphabet: Sequence[str], fold: Callable[[str], str]) -> tuple[str, ...]:
    """Return the labels of "A", "A, B", "a-c"; empty where one is not in the alphabet."""
    words = re.findall(rf"(?<![A-Za-z]){_ONE}(?![A-Za-z])|to|[{_DASHES}]", text)
    labels: list[str] = []
    ranged = False
    for word in words:
        if word in {"to", *_DASHES}:
            ranged = bool(labels)
            continue
        name = fold(word)
        if name not in alphabet:
            return ()
        if ranged and fold(labels[-1]) in alphabet:
            first, last = alphabet.index(fold(labels[-1])) + 1, alphabet.index(name)
            between = alphabet[first:last]
            labels += [label.upper() if word.isupper() else label for label in between]
        ranged = False
        labels.append(word)
    return tuple(labels)


def _find_places(caption: str) -> list[_Mark]:
    """Return marks that say where a panel stands; they count only as a complete set."""
    found = [
        _Mark(match.start(1), match.end(1), (_place(match[1]),))
        for match in _PLACE.finditer(caption)
    ]
    names = {mark.labels[0] for mark in found}
    wanted = max((p for p in _PAIRS if set(p) <= names), key=len, default=())
    return [mark for mark in found if mark.labels[0] in wanted]


def _place(text: str) -> str:
    words = re.sub(r"\s+(?:panels?|images?|rows?|columns?|hand side)$", "", text.lower())
    return words.replace("-", " ")


def _assign(caption: str, marks: Sequence[_Mark]) -> PanelCaptions:
    """Give each label the words that stand before or after its marks."""
    seen: set[str] = set()
    heads: list[_Mark] = []  # a later mention of a label refers back, it begins nothing new
    for mark in marks:
        if not set(map(str.lower, mark.labels)) <= seen:
            heads.append(mark)
            seen |= set(map(str.lower, mark.labels))
    before = _words_come_first(caption, heads)
    spans = _spans_before(caption, heads) if before else _spans_after(caption, heads)
    parts: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for mark, (start, end) in zip(heads, spans, strict=True):
        words = _tidy(caption[start:end])
        for label in mark.labels:
            name = spelling.setdefault(label.lower(), label)
            parts.setdefault(name, [])
            if words:
                parts[name].append(words)
    lead_end = min(spans[0][0], heads[0].start)
    ordered = sorted(parts, key=_rank) if all(len(label) <= 4 for label in parts) else list(parts)
    return PanelCaptions(
        lead=_tidy(caption[:lead_end]), parts={name: " ".join(parts[name]) for name in ordered}
    )


def _rank(label: str) -> tuple[int, str]:
    name = label.lower()
    if len(name) == 1 and name in _LETTERS:
        return (_LETTERS.index(name), name)
    return (_ROMAN.index(name) if name in _ROMAN else MAX_PANELS, name)


def _words_come_first(caption: str, heads: Sequence[_Mark]) -> bool:
    """Tell whether marks stand after their words: "CT (A) and MRI (B)."""
    opening = 0
    closing = 0
    for mark in heads:
        previous = caption[: mark.start].rstrip()
        following = caption[mark.end :].lstrip()
        opening += not previous or previous[-1] in ".;:?!" or following[:1].isupper()
        closing += not following or following[0] in ".;,)" or following.startswith("and ")
    return closing > opening


def _spans_after(caption: str, heads: Sequence[_Mark]) -> list[tuple[int, int]]:
    """Return for each mark the words up to the next."""
    ends = [*(mark.start for mark in heads[1:]), len(caption)]
    return [(mark.end, end) for mark, end in zip(heads, ends, strict=True)]


def _spans_before(caption: str, heads: Sequence[_Mark]) -> list[tuple[int, int]]:
    """Return for each mark the words back to the last; the last mark's sentence is finished."""
    spans = []
    floor = max((m.end() for m in _SENTENCE_END.finditer(caption, 0, heads[0].start)), default=0)
    for mark in heads:
        spans.append((floor, mark.start))
        floor = mark.end
    return spans


def _tidy(text: str) -> str:
    """Return the words without the punctuation that parted them from their neighbors."""
    text = re.sub(r"^(?:\s|[,;:.)\]]|and\s|&\s)+", "", text.strip())
    return re.sub(r"(?:\s|[,;:(\[]|\band)+$", "", text).strip()


_READINGS = (
    *(_find_bracketed, _find_closed, _find_bare, _find_named, _find_places),
    *(_find_unmarked, _find_loose),
)
"""Ways to read a caption; the first wins a draw."""
