"""Gates that hold a pair against what its figure's own words say; no model is needed.

`filters` looks at the words of a pair alone. Here the caption and the sentences of the article are
at hand: a pair that contradicts them, tells what they do not know, or gives its answer away is
dropped with the gate's name. A gate says no only where the words leave no doubt; whether the picture
shows what the pair says is for `verify`.
"""

import re
from collections.abc import Callable
from functools import cache

from medllava.instruct.context import COMPARED, NEGATION, WORD, Context, is_related, stem_of
from medllava.instruct.examples import EXAMPLES
from medllava.instruct.facts import named_values
from medllava.instruct.filters import count_words, fold, language_of
from medllava.instruct.option_gates import failed_option_gate
from medllava.instruct.parse import Dropped, Pair
from medllava.instruct.phrases import ENGLISH, PHRASES
from medllava.instruct.vocabulary import BODY_PART
from medllava.language import UNKNOWN

WRONG_FACT, FLIPPED_SIDE, MEASUREMENT = "contradicts_caption", "flipped_side", "measurement"
UNSUPPORTED, BLIND, COPIED = "unsupported_finding", "answerable_blind", "copied_example"
REPETITION, INCONSISTENT, UNGROUNDED = "repetition", "inconsistent_pairs", "ungrounded"

_LEFT, _RIGHT = re.compile(r"\bleft\b", re.I), re.compile(r"\bright\b", re.I)
_IN_PICTURE = re.compile(
    r"\b(?:left|right)(?:most|\s+(?:side|half|part|corner|edge|of)\s+(?:of\s+)?(?:the\s+)?"
    r"(?:image|picture|panel|frame|figure)|[-\s](?:hand\s+)?(?:panels?|images?|columns?|corner))",
    re.I,
)
_MEASURE = re.compile(
    r"(?<![\w.])(\d+(?:[.,]\d+)?)\s*(?:x\s*\d+(?:[.,]\d+)?\s*)*(?:-?\s*)"
    r"(mm|cm|\u00b5m|\u03bcm|um|nm|ml|cc|hu|hounsfield|millimet\w+|centimet\w+|micromet\w+|microns?"
    r"|\u6beb\u7c73|\u5398\u7c73|\u5fae\u7c73|%|percent|degrees?|\u00b0)(?![\w])",
    re.I,
)
FINDING = re.compile(
    r"\b(?:\w{3,}(?:omas?|itis|osis|oses|ectasis|megaly|plasia|rrhages?|thorax|celes?|lithiasis|"
    r"stenosis|ptosis)|fractures?|effusions?|metastas[ei]s|metastatic|emboli(?:sm)?|thrombus|"
    r"infarct\w*|abscess\w*|edema|oedema|pneumonia|tumou?rs?|neoplasm\w*|cancer\w*|malignan\w+|"
    r"cysts?|aneurysms?|dissection|calcifications?|hernia\w*|ulcer\w*|polyps?|mass(?:es)?|nodules?)\b",
    re.I,
)
_NO_FINDING = frozenset(
    [
        "diagnosis",
        "stroma",
        "chromosome",
        "glucose",
        "cytosis",
        "thorax",
        "hemithorax",
        "anastomosis",
        "mitosis",
        "meiosis",
        "apoptosis",
        "prognosis",
        "symptoms",
        "syndrome",
    ]
)
_SAME = (
    ("tumo", "neopl", "cance", "malig", "carci", "mass", "lesio", "metas"),
    ("edema", "oedem"),
    ("mass", "tumo", "nodul", "lesio"),
    ("nodul", "lesio", "mass"),
    ("cyst", "lesio", "cysti"),
    ("embol", "throm"),
    ("hemor", "haemo", "bleed", "hemat", "haema"),
)
"""Beginnings of words for things of which one may be said where the caption says another."""
_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "there",
        "any",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "with",
        "by",
        "from",
        "and",
        "or",
        "this",
        "that",
        "these",
        "those",
        "it",
        "its",
        "as",
        "you",
        "can",
        "could",
        "see",
        "seen",
        "show",
        "shows",
        "shown",
        "image",
        "picture",
        "figure",
        "scan",
        "visible",
        "present",
        "here",
        "which",
        "what",
        "where",
        "how",
        "yes",
        "no",
        "not",
        "none",
        "without",
    ]
)
_DEICTIC = re.compile(
    r"\b(?:this|these|that|those|image|picture|figure|scan|slide|radiograph|film|section|micrograph|"
    r"photo(?:graph)?|view|shown?|see|seen|visible|visuali[sz]ed|appear\w*|look\w*|depict\w*|display\w*|"
    r"here|arrow\w*|panel\w*|marked|highlighted|present|located|lie|lies|there|stain(?:ed)?|specimen|"
    r"plane|modality|projection|patient)\b",
    re.I,
)
_GENERAL = re.compile(
    r"^\s*(?:what\s+(?:is|are|does|do|causes?)\s+(?:the\s+)?(?:\w+\s+){0,3}?(?:function|purpose|role|definition|"
    r"meaning|abbreviation|cause|causes|symptoms?|treatment|prognosis|risk\s+factors?|advantages?|"
    r"difference\s+between|stand\s+for|unit)\b|what\s+(?:does|do)\s+[\w-]+\s+(?:stand\s+for|mean|do)\b|"
    r"what\s+causes\b|how\s+(?:is|are|does|do)\s+(?:an?\s+)?[\w\s-]{2,40}\s+(?:treated|work|performed|diagnosed|"
    r"produced|generated|acquired|prepared|formed)\b|"
    r"(?:is|are|does|do|can)\s+(?:an?\s+)?[\w-]+(?:\s+[\w-]+)?\s+(?:use|uses|a\s+(?:type|kind|form|part)\s+of|emit|"
    r"involve|require|cause|produce)\b|"
    r"(?:why|when)\s+(?:is|are|do|does|would|should)\s+(?!the\b|this\b)|"
    r"which\s+(?:organ|type|imaging|vitamin|cells?|hormone|doctor|scientist)\s+(?:\w+\s+){0,2}"
    r"(?:pumps?|produces?|filters?|uses?|invented|discovered|carr(?:y|ies)|secretes?|is\s+responsible)\b|"
    r"who\s+(?:invented|discovered|developed)\b|define\b|"
    r"how\s+many\s+(?:lobes?|lungs?|kidneys|chambers|ribs|bones|vertebrae|valves|eyes)\s+(?:does|do|are\s+there\s+in)\s+"
    r"(?:a|the|an)\s+(?:healthy|normal|human|adult)\b)",
    re.I,
)
_CLOSED = {"yes", "no"}
_SHINGLE = 9
_BORNE_OUT = 0.7
"""Share of an answer's words from which on the figure's own words carry it."""


Gate = Callable[[Pair, Context], bool]
"""Tells whether a pair breaks it."""


def gate_pairs(
    pairs: tuple[Pair, ...], context: Context, *, min_score: float = 0.0
) -> tuple[tuple[Pair, ...], tuple[Dropped, ...]]:
    """Hold the pairs of a conversation to the gates; return those that pass and those that do not.

    Args:
        pairs: of one conversation.
        context: of its figure.
        min_score: least `grounded_score` of a pair.
    """
    kept, dropped = [], []
    twisted = find_inconsistent(pairs)
    for number, pair in enumerate(pairs):
        reason = INCONSISTENT if number in twisted else failed_gate(pair, context)
        if reason is None and min_score > 0 and grounded_score(pair, context) < min_score:
            reason = UNGROUNDED
        if reason is None and pair.options:
            reason = failed_option_gate(pair.options, context)
        if reason is None:
            kept.append(pair)
        else:
            dropped.append(Dropped(reason, pair.question, pair.answer))
    return tuple(kept), tuple(dropped)


def failed_gate(pair: Pair, context: Context) -> str | None:
    """Name the first gate that a pair does not pass, or None."""
    return next((name for name, is_broken in GATES.items() if is_broken(pair, context)), None)


def grounded_score(pair: Pair, context: Context) -> float:
    """Return the share of the answer's words that caption, mentions or question carry, 0 to 1."""
    asked = {stem_of(word) for word in WORD.findall(pair.question.lower())}
    told = [word for word in WORD.findall(pair.answer.lower()) if word not in _STOP]
    if not told:
        return 1.0
    return sum(stem_of(word) in context.stems or stem_of(word) in asked for word in told) / len(
        told
    )


def find_inconsistent(pairs: tuple[Pair, ...]) -> set[int]:
    """Return the numbers of yes/no pairs that contradict one another.

    A question and its negation have one answer, or one question has two.
    """
    by_core: dict[frozenset[str], list[tuple[int, bool]]] = {}
    for number, pair in enumerate(pairs):
        answer = _yes_or_no(pair.answer)
        if answer is None:
            continue
        core = frozenset(w for w in WORD.findall(pair.question.lower()) if w not in _STOP) - {
            "absent",
            "absence",
            "free",
            "lack",
            "lacks",
        }
        is_negated = NEGATION.search(pair.question) is not None
        if core:
            by_core.setdefault(core, []).append((number, answer != is_negated))
    return {
        number
        for told in by_core.values()
        if len({says for _, says in told}) > 1
        for number, _ in told
    }


def _contradicts(pair: Pair, context: Context) -> bool:
    """The answer names another modality, plane, stain, view or organ than the caption."""
    if not _is_english(pair):
        return False
    answer = _yes_or_no(pair.answer)
    text = pair.answer
    if answer is not None and count_words(pair.answer) <= 3:
        text = pair.question
    for topic in COMPARED:
        value = context.stated.get(topic.name)
        if value is None:
            continue
        told = named_values(topic, text)
        others = [v for v in told if v.answer != value.answer and not is_related(v, value)]
        agrees = any(v.answer == value.answer or is_related(v, value) for v in told)
        if topic is BODY_PART and any(v.answer.lower() in context.words for v in others):
            continue  # the article's sentences know it
        if answer is not None and text is pair.question:
            # "Is it CT?" with "yes" of an MRI, or with "no" of a CT.
            is_wrong = (others and not agrees) if answer else (agrees and not others)
            if is_wrong and not NEGATION.search(pair.question):
                return True
            continue
        if others and not agrees and not NEGATION.search(text):
            return True
    return False


def _flips_side(pair: Pair, context: Context) -> bool:
    """The pair says the one side where the caption knows only the other."""
    language = language_of(pair)
    left, right = _LEFT, _RIGHT
    if language in PHRASES:
        left, right = PHRASES[language].left, PHRASES[language].right
    text = _IN_PICTURE.sub(" ", f"{pair.question} {pair.answer}")
    known = _IN_PICTURE.sub(" ", context.words)
    knows_left = any(p.search(known) for p in (_LEFT, left))
    knows_right = any(p.search(known) for p in (_RIGHT, right))
    if knows_left == knows_right:
        return False
    says = _IN_PICTURE.sub(" ", pair.answer)
    answer = _yes_or_no(pair.answer)
    if answer is False:
        return False
    wrong = right if knows_left else left
    if answer is True and count_words(pair.answer) <= 3:
        return wrong.search(text) is not None
    good = left if knows_left else right
    return wrong.search(says) is not None and good.search(says) is None


def _measures(pair: Pair, context: Context) -> bool:
    """The answer tells a size or a share that no words of the figure know."""
    for number, _ in _MEASURE.findall(pair.answer):
        if not re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d])", context.words):
            return True
    return False


def _names_unknown_finding(pair: Pair, context: Context) -> bool:
    """The answer asserts a disease or finding that no words of the figure name."""
    if not _is_english(pair) or _yes_or_no(pair.answer) is False:
        return False
    for match in FINDING.finditer(pair.answer):
        word = match[0].lower()
        if word in _NO_FINDING or NEGATION.search(
            pair.answer[max(0, match.start() - 40) : match.start()]
        ):
            continue
        stem = stem_of(word)
        if stem in context.stems or any(
            stem.startswith(group) and any(_has_stem(context, other) for other in group)
            for group in _SAME
        ):
            continue
        return True
    return False


def _has_stem(context: Context, start: str) -> bool:
    return any(
        stem.startswith(start) or start.startswith(stem) for stem in context.stems if len(stem) > 3
    )


def _is_blind(pair: Pair, _: Context) -> bool:
    """The question can be answered without the picture: it is of general knowledge, or says it."""
    if not _is_english(pair):
        return False
    if not _DEICTIC.search(pair.question) and _GENERAL.search(pair.question):
        return True
    if _yes_or_no(pair.answer) is not None or re.search(r"\bor\b", pair.question, re.I):
        return False
    told = [w for w in WORD.findall(pair.answer.lower()) if w not in _STOP]
    asked = set(WORD.findall(pair.question.lower()))
    # "What does this CT scan of the chest show?" - "A CT scan of the chest."
    return bool(told) and len(told) <= 12 and all(word in asked for word in told)


def _repeats(pair: Pair, _: Context) -> bool:
    """The answer turns in a circle: a sentence twice, or the same few words again and again."""
    sentences = [fold(s) for s in re.split(r"[.!?\u3002\uff01\uff1f]\s*", pair.answer) if s.strip()]
    long = [s for s in sentences if s.count(" ") >= 3]
    if len(long) != len(set(long)):
        return True
    words = fold(pair.answer).split()
    for size in (1, 2, 3, 4):
        run = 1
        for i in range(size, len(words) - size + 1, size):
            run = run + 1 if words[i : i + size] == words[i - size : i] else 1
            if run >= (5 if size == 1 else 3):
                return True
    return len(words) >= 24 and len(set(words)) < 0.35 * len(words)


@cache
def _example_shingles() -> frozenset[str]:
    texts = [fold(text) for example in EXAMPLES for turn in example.turns for text in turn]
    return frozenset(shingle for text in texts for shingle in _shingles(text))


@cache
def _example_answers() -> frozenset[str]:
    told = [fold(answer) for example in EXAMPLES for _, answer in example.turns]
    return frozenset(text for text in told if text.count(" ") >= 4)


def _shingles(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)]


def _is_copied(pair: Pair, context: Context) -> bool:
    """The answer repeats the prompt's own examples, and the figure's words do not bear it out."""
    told = fold(pair.answer)
    is_known = told in _example_answers() or any(s in _example_shingles() for s in _shingles(told))
    return is_known and grounded_score(pair, context) < _BORNE_OUT


def _is_english(pair: Pair) -> bool:
    return language_of(pair) in {ENGLISH, UNKNOWN}


def _yes_or_no(answer: str) -> bool | None:
    first = WORD.match(answer.strip().lower())
    if first is None or first[0] not in _CLOSED:
        return None
    return first[0] == "yes"


GATES: dict[str, Gate] = {
    WRONG_FACT: _contradicts,
    FLIPPED_SIDE: _flips_side,
    MEASUREMENT: _measures,
    UNSUPPORTED: _names_unknown_finding,
    BLIND: _is_blind,
    COPIED: _is_copied,
    REPETITION: _repeats,
}
"""In the order in which they are tried; the first one that is broken names the reason."""
