"""Does a reply reason, and does its reasoning say that something is seen in the picture?

A reply enters, two truth values leave. `eval.score.looking` counts those that claim to see and
would have answered the same of any picture.
"""

import re

from medllava.score.final_answer import declared_answer, without_reasoning
from medllava.score.normalize import words

FEWEST_WORDS = 8
"""Of a reply beside its answer; fewer are no reasoning."""

_PICTURE = (
    r"(?:image|images|picture|figure|scan|slice|photo|photograph|film|x-?ray|radiograph|mri|ct|"
    r"ultrasound|specimen|section|micrograph|slide)"
)
_SHOWS = (
    r"(?:shows?|reveals?|demonstrates?|depicts?|displays?|exhibits?|contains?|indicates?|suggests?)"
)
_CLAIM = re.compile(
    rf"\b{_PICTURE}\b[^.?!\n]{{0,40}}\b{_SHOWS}\b"
    r"|\b(?:i|we)\s+(?:can\s+|could\s+)?(?:see|observe|notice|identify|note)\b"
    rf"|\b(?:seen|visible|visuali[sz]ed|observed|evident|apparent|noted|shown)\b[^.?!\n]{{0,40}}"
    rf"\b(?:in|on|within)\s+(?:the|this)\s+(?:\w+\s+){{0,2}}{_PICTURE}\b"
    rf"|\b(?:in|on|from|based on|looking at)\s+(?:the|this)\s+(?:\w+\s+){{0,2}}{_PICTURE}\b,?\s+"
    r"(?:there|i|we|it|the|a|an|one)\b"
    r"|\bthere\s+(?:is|are|appears?|seems?)\s+(?:to\s+be\s+)?(?:a|an|no|some|multiple|several|"
    r"increased|decreased|evidence)\b"
    r"|\b(?:is|are)\s+(?:clearly\s+|not\s+)?(?:visible|seen|evident|apparent)\b",
    re.I,
)


def reasoning_of(reply: str) -> str:
    """Return what a reply says beside its answer; empty where it is the answer and little more.

    Reasoning in tags counts whole; outside of tags it is the text around a declared answer.
    """
    thought = without_tags(reply)
    answer, _ = declared_answer(reply)
    rest = thought.replace(answer, " ", 1) if answer else thought
    return rest.strip() if len(words(rest)) >= FEWEST_WORDS else ""


def without_tags(reply: str) -> str:
    """Return a reply with its thoughts, which `without_reasoning` takes off, and without marks."""
    said = without_reasoning(reply)
    thought = reply if said != reply else said
    return re.sub(r"</?[A-Za-z][\w-]*>|<\|[^|<>\n]{1,40}\|>|[*_`#]", " ", thought)


def claims_to_see(reasoning: str) -> bool:
    """Tell whether reasoning states something about what the picture shows."""
    return _CLAIM.search(reasoning) is not None
