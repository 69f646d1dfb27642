"""Named rules that decide which pairs of a conversation may be learned from.

Pairs go in; kept pairs and dropped ones with their rule come out. Each pair is held to the rules of
the language it is in. A phrase that points at the text
source is cut out where the sentence stands without it; the case of a word is never changed, except
that a sentence which lost its beginning starts with a capital again. Questions are held to the
same rules as answers.

Source: the families of phrases follow LLaVA-Med's published post-processing; rules and outcomes
are ours and differ where its were wrong (see the tests).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from medllava.instruct.parse import Dropped, Pair
from medllava.instruct.phrases import ENGLISH, PHRASES
from medllava.language import UNKNOWN, detect_language


@dataclass(frozen=True, slots=True)
class _Phrases:
    """A pattern, tried only on texts that hold one of the words it cannot match without.

    Looking for words costs a small part of what the pattern does, and most texts hold none.
    """

    words: tuple[str, ...]
    """Lower case; each match of the pattern holds one of them, as a whole or within a word."""
    pattern: re.Pattern[str]

    def are_in(self, text: str) -> bool:
        """Tell whether the pattern is found in a text."""
        return _holds_any(self.words, text) and self.pattern.search(text) is not None


def _holds_any(words: tuple[str, ...], text: str) -> bool:
    # Patterns that ignore case take these two for an i; `casefold` does the rest as they do.
    folded = text.replace("\u0130", "i").replace("\u0131", "i").casefold()
    for word in words:  # noqa: SIM110 - `any` with a generator takes three times as long
        if word in folded:
            return True
    return False


MOST_QUESTION_WORDS, MOST_ANSWER_WORDS = 60, 220
FEWEST_QUESTION_WORDS, FEWEST_ANSWER_WORDS = 2, 1

_SOURCE = (
    r"(?:(?:the|this|that|its|a)\s+)?(?:(?:provided|given|accompanying|additional|available|image|"
    r"figure|picture|mri|ct|x-ray|histology|radiology)(?:'s)?\s+(?:and\s+)?)*"
    r"(?:captions?|descriptions?|legends?|contexts?|(?:context|information)(?:\s+provided)?|"
    r"(?:sentences|text|article)(?:\s+provided)?)(?:\s+(?:provided|given|above))?"
)
_SOURCE_WORDS = ("caption", "description", "legend", "text", "information", "sentences", "article")
"""No match of `_SOURCE` lacks all of them."""
_LEAD = re.compile(
    rf"^(?P<yes>(?:yes|no),\s+)?(?:according\s+to|based\s+on|as\s+(?:mentioned|described|stated|"
    rf"indicated)\s+in|from|in|given|considering)\s+{_SOURCE},\s*",
    re.IGNORECASE,
)
_SAYS = re.compile(
    rf"^(?P<yes>(?:yes|no),\s+)?{_SOURCE}\s+(?:mentions|describes|suggests|states|says|indicates|"
    r"notes|explains)\s+that\s+",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    rf",?\s*(?:\(\s*)?as\s+(?:is\s+)?(?:mentioned|indicated|described|suggested|stated|noted|"
    rf"reported|shown)\s+(?:in|by)\s+{_SOURCE}(?:\s*\))?(?P<end>,(?=\s)|(?=[.;!?]|$))",
    re.IGNORECASE,
)
_CARE = (
    r"(?:biops(?:y|ies)|surgery|surgical|operation|resection|excision|drainage|treatment|therapy|"
    r"chemotherapy|radiotherapy|antibiotics?|medication|follow[\s-]?up|referral|consultation|"
    r"hospitali[sz]ation|work-?up|further\s+(?:\w+\s+)?(?:evaluation|imaging|investigation|tests?|testing|"
    r"examination|assessment|workup|work-up|studies|analysis)|monitoring|intervention|"
    r"clinical\s+(?:correlation|evaluation|assessment)|medical\s+(?:attention|advice|evaluation))"
)
"""What is done to a person; a picture shows its traces and never that it is needed."""
_LEAK = _Phrases(
    (
        "caption",
        "legend",
        "description",
        "text",
        "provided",
        "given",
        "article",
        "manuscript",
        "paper",
        "passage",
        "publication",
        "author",
        "mentioned",
        "stated",
        "reported",
        "specified",
        "fig",
    ),
    re.compile(
        r"\bcaptions?\b|\blegends?\b|^descriptions?\b"
        r"|\b(?:the|this|that|image|figure|provided|given)\s+(?:\w+\s+)?descriptions?\b"
        r"|\b(?:provided|given|additional|the|this)\s+context\b|\bcontext\s+provided\b"
        r"|\b(?:information|details?|text|sentences?)\s+(?:is\s+|are\s+)?(?:provided|given)\b"
        r"|\b(?:provided|given)\s+(?:information|details|text|sentences?)\b"
        r"|\bin-text\b|\bthe\s+text\b(?!\s+(?:label|overlay|annotation|box|in\s+the\s+image))"
        r"|\b(?:the|this)\s+(?:article|manuscript|paper|passage|publication)\b|\bthe\s+authors?\b"
        r"|\b(?:mentioned|stated|reported|specified)\b(?!\s+(?:above|earlier))"
        r"|\bfig(?:ure|\.)?\s*\d",
        re.IGNORECASE,
    ),
)
_REFUSAL = _Phrases(
    ("sorry", "ai", "language", "not", "n't", "unable", "access", "without"),
    re.compile(
        r"\bsorry\b|\bas\s+an\s+ai\b|\blanguage\s+model\b"
        r"|\b(?:cannot|can't|can\s+not|could\s+not|couldn't|unable\s+to|not\s+able\s+to)\s+(?:\w+\s+)?"
        r"(?:see|view|access|look\s+at|tell\s+from|provide|determine|answer|assist|help)\b"
        r"|\b(?:no|not\s+have|n't\s+have|without)\s+(?:\w+\s+)?access\b"
        r"|\bwithout\s+(?:seeing|viewing|the\s+(?:actual\s+)?(?:image|picture))\b"
        r"|\bnot\s+(?:explicitly\s+)?(?:mentioned|provided|specified|described|given|stated)\b"
        r"|\bimage\s+(?:itself\s+)?(?:is|was)\s+not\s+(?:available|provided|shown|visible)\b",
        re.IGNORECASE,
    ),
)
_ADVICE = _Phrases(
    (
        "should",
        "must",
        "ought",
        "need",
        "recommend",
        "advise",
        "suggest",
        "doctor",
        "physician",
        "professional",
        "specialist",
        "clinician",
        "medical",
        "radiologist",
        "healthcare",
        "treatment",
        "diagnos",
        "needed",
        "necessary",
        "required",
        "requires",
        "warranted",
        "indicated",
        "advisable",
        "consider",
        "follow",
        "urgent",
        "please",
    ),
    re.compile(
        r"\b(?:you|the\s+patient|patients?|he|she|they)\s+(?:should|must|ought\s+to|need(?:s)?\s+to)\b"
        r"|\b(?:i|we)(?:\s+would|'d)?\s+(?:recommend|advise|suggest\s+(?:that\s+you|seeing|taking))\b"
        r"|\b(?:consult|see|seek|ask|contact)\s+(?:with\s+)?(?:a|an|your|their|the)?\s*(?:\w+\s+)?"
        r"(?:doctor|physician|professional|specialist|clinician|medical\s+(?:advice|attention|help)|"
        r"radiologist|healthcare\s+\w+)\b"
        r"|\btreatment\s+(?:should|is\s+(?:recommended|indicated|advised))\b"
        r"|\b(?:is|are|was|were)\s+(?:\w+\s+)?(?:recommended|advised|advisable|suggested\s+to)\b"
        r"|\bmy\s+diagnosis\b|\bi\s+diagnose\b"
        rf"|\b{_CARE}\s+(?:\w+\s+){{0,3}}(?:is|are|would\s+be|will\s+be|may\s+be|might\s+be|seems?|appears?)"
        r"\s+(?:\w+\s+)?(?:needed|necessary|required|warranted|mandatory|essential|prudent|"
        r"appropriate|indicated|advisable|in\s+order)\b"
        rf"|\b(?:needs?|requires?|warrants?|demands?|calls?\s+for|deserves?)\s+(?:\w+\s+){{0,3}}{_CARE}\b"
        rf"|\bconsider(?:ation\s+of)?\s+(?:\w+\s+){{0,3}}{_CARE}\b"
        r"|\b(?:should|must|ought\s+to|needs?\s+to|has\s+to|have\s+to)\s+(?:\w+\s+)?be\s+(?:\w+\s+)?"
        r"(?:biopsied|removed|resected|treated|operated|excised|drained|followed|monitored|"
        r"referred|admitted|investigated|evaluated|ruled\s+out|excluded|hospitali[sz]ed|performed|given|"
        r"started|avoided|repeated|obtained|considered)\b"
        r"|\bfollow(?:ing)?[\s-]?up\s+(?:with|in|after|imaging|scan|is|by|at)\b"
        r"|\b(?:urgent|immediate|prompt)\s+(?:\w+\s+)?(?:surgery|treatment|attention|referral|care|"
        r"evaluation|intervention|biopsy)\b|\bplease\s+(?:consult|see|seek|visit|contact)\b",
        re.IGNORECASE,
    ),
)
_NUMBER = re.compile(
    r"\b\d{1,3}[\s-]*(?:years?|yrs?|months?|weeks?|days?)[\s-]*(?:old|of\s+age)\b"
    r"|\baged?\s+\d|\b(?:19|20)\d\d\b|\bp\s*[<=>]\s*0?\.\d|\bn\s*=\s*\d"
    r"|\b\d+\s+(?:years?|months?|weeks?|days?|hours?)\s+(?:after|before|later|earlier|ago|post)\b"
    r"|\b\d+(?:\.\d+)?\s*(?:mg|ml|mcg|ng|iu|mmol|mmhg)\b|\b\d+\s+patients\b"
    r"|\[\d+\]",
    re.IGNORECASE,
)
_HISTORY = _Phrases(
    ("patient's", "follow-up"),
    re.compile(r"\bpatient's\s+(?:history|name|age)\b|\bfollow-up\s+of\b", re.IGNORECASE),
)
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_ENGLISH_START = re.compile(
    r"(?:what|which|where|how|is|are|does|do|can|describe|name|why|who|tell|explain|in|on|at)\b",
    re.I,
)
_ENGLISH_WORD = re.compile(r"\b(?:the|of|and|with|it|is|are|this|there|yes)\b", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"[^\W_]+")

Rule = Callable[[Pair], bool]
"""Tells whether a pair breaks it."""


def _is_short(pair: Pair) -> bool:
    few_asked = count_words(pair.question) < FEWEST_QUESTION_WORDS
    first_told = islice(_WORD.finditer(pair.answer), FEWEST_ANSWER_WORDS)
    return few_asked or len(list(first_told)) < FEWEST_ANSWER_WORDS


def _is_long(pair: Pair) -> bool:
    many_asked = _has_more_words(pair.question, MOST_QUESTION_WORDS)
    return many_asked or _has_more_words(pair.answer, MOST_ANSWER_WORDS)


def _has_more_words(text: str, most: int) -> bool:
    # So many words take at least a letter and a space each.
    return len(text) > 2 * most and count_words(text) > most


def _tells_unseen(text: str) -> bool:
    has_number = _DIGIT.search(text) is not None and _NUMBER.search(text) is not None
    return has_number or _HISTORY.are_in(text)


def _has_marker(pair: Pair) -> bool:
    both = f"{pair.question}\n{pair.answer}"
    return "<image>" in both or "```" in both or '{"' in both


def _rules_of(language: str) -> dict[str, Rule]:
    """Return the rules of a language: those that count or look for marks are the same for all."""
    phrases = PHRASES[language]

    def finds(pattern: re.Pattern[str], *, in_question: bool = True) -> Rule:
        return lambda pair: (
            pattern.search(pair.answer) is not None
            or (in_question and pattern.search(pair.question) is not None)
        )

    return RULES | {
        "refusal": finds(phrases.refusal, in_question=False),
        "text_source": finds(phrases.text_source),
        "unseen_fact": finds(phrases.unseen_fact),
        "medical_advice": finds(phrases.medical_advice, in_question=False),
    }


RULES: dict[str, Rule] = {
    "markup": _has_marker,
    "refusal": lambda pair: _REFUSAL.are_in(pair.answer),
    "text_source": lambda pair: _LEAK.are_in(pair.question) or _LEAK.are_in(pair.answer),
    "unseen_fact": lambda pair: _tells_unseen(pair.question) or _tells_unseen(pair.answer),
    "medical_advice": lambda pair: _ADVICE.are_in(pair.answer),
    "too_short": _is_short,
    "too_long": _is_long,
}
"""In the order in which they are tried; the first one that is broken names the reason.

- `markup`: an image token, code or JSON inside the text.
- `refusal`: the answer says that the image cannot be seen or the question not be answered.
- `text_source`: question or answer speaks of a caption, an article or other text.
- `unseen_fact`: ages, dates, doses, statistics: what no picture shows.
- `medical_advice`: the answer advises, recommends or diagnoses.
- `too_short`, `too_long`: by words.
"""
OTHER_LANGUAGE = "other_language"
"""The pair is not in the language that was asked for, or in one without rules."""
REPEATED_TURN = "repeated_turn"
"""The question, or an answer of four words or more, was in the conversation before."""
NEAR_DUPLICATE = "near_duplicate"
"""The conversation says almost the same as an earlier one; see `duplicates`."""
NO_TURNS = "no_turns"
"""The reply holds no question with an answer."""
ALL_DROPPED = "all_turns_dropped"


@dataclass(frozen=True, slots=True)
class Filtered:
    """A conversation after the rules."""

    pairs: tuple[Pair, ...]
    dropped: tuple[Dropped, ...]


RULES_BY_LANGUAGE = {ENGLISH: RULES} | {code: _rules_of(code) for code in PHRASES}


def language_of(pair: Pair) -> str:
    """Return the language of a pair, `und` where its words are too few to tell."""
    text = f"{pair.question} {pair.answer}"
    is_asked_in_english = _ENGLISH_START.match(pair.question) is not None
    if is_asked_in_english and text.isascii() and _ENGLISH_WORD.search(pair.answer):
        return ENGLISH  # most pairs; counting words costs more
    found = detect_language(text)
    asked, told = detect_language(pair.question), detect_language(pair.answer)
    if asked == UNKNOWN and is_asked_in_english:
        asked = ENGLISH
    if UNKNOWN not in {asked, told} and asked != told:
        return f"{asked}+{told}"
    if found == UNKNOWN and (is_asked_in_english or text.isascii()):
        return ENGLISH
    return found


def filter_pairs(
    pairs: tuple[Pair, ...], *, languages: frozenset[str] = frozenset(RULES_BY_LANGUAGE)
) -> Filtered:
    """Hold every pair of a conversation to the rules of its language.

    Args:
        pairs: of one reply.
        languages: that are wanted, of those with rules.
    """
    kept: list[Pair] = []
    dropped: list[Dropped] = []
    questions: set[str] = set()
    answers: set[str] = set()
    for original in pairs:
        pair = replace(original, answer=repair(original.answer))
        rule = _broken_rule(pair, languages)
        asked, told = fold(pair.question), fold(pair.answer)
        if rule is None and (asked in questions or (told in answers and told.count(" ") > 2)):
            rule = REPEATED_TURN
        if rule is not None:
            dropped.append(Dropped(rule, original.question, original.answer))
            continue
        questions.add(asked)
        answers.add(told)
        kept.append(pair)
    return Filtered(tuple(kept), tuple(dropped))


def _broken_rule(pair: Pair, languages: frozenset[str]) -> str | None:
    language = language_of(pair)
    if language != UNKNOWN and language not in languages:
        return OTHER_LANGUAGE
    # What may be of any language is held to the rules of all.
    for code in sorted(languages) if language == UNKNOWN else (language,):
        for name, is_broken in RULES_BY_LANGUAGE[code].items():
            if is_broken(pair):
                return name
    return None


def repair(answer: str) -> str:
    """Cut out asides to the text source; everything else keeps its case.

    "According to the caption, MRI shows a lesion, as described in the text." becomes "MRI shows a
    lesion."
    """
    if not _holds_any(_SOURCE_WORDS, answer):
        return answer.strip()
    text = _ASIDE.sub(lambda match: match["end"], answer).strip()
    for pattern in (_LEAD, _SAYS):
        match = pattern.match(text)
        if match:
            rest = text[match.end() :]
            text = f"{match['yes'] or ''}{rest}" if match["yes"] else rest[:1].upper() + rest[1:]
    return text


def fold(text: str) -> str:
    """Return the words of a text in lower case, for comparison only."""
    lowered = text.lower()
    if not lowered.isascii():
        # These scripts put no spaces between words.
        lowered = _DENSE.sub(r" \g<0> ", lowered)
    return " ".join(_WORD.findall(lowered))


def count_words(text: str) -> int:
    """Count words; of scripts without spaces, two characters are one."""
    if text.isascii():
        return len(text.split())
    dense = len(_DENSE.findall(text))
    return len(_DENSE.sub(" ", text).split()) + (dense + 1) // 2
