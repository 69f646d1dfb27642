"""Choices that deny: is "No edema" picked where the question asks which finding is there?

A question and a reply enter; whether a choice denies, whether the question asks what is present,
and what the denial stands against leave. `--verify polarity` puts such replies right by rule, the
probes of `eval.polarity_probes` provoke them.

Source: CXR-ContraBench, Fang et al. 2026, arXiv 2605.05810; the rule is its verifier's first one.
"""

import re

from medllava.records import Question
from medllava.score.closed import chosen_choice
from medllava.score.normalize import words

_DENIES = re.compile(
    r"\b(?:no|normal|clear|absent|without|negative for|free of|lack of|absence of)\b", re.I
)
_DENIAL = re.compile(
    r"^\W*(?:there (?:is|are) )?(?:no|without|absent|absence of|negative for|free of|lack of)"
    r"(?: evidence of| sign of| signs of)?\s+",
    re.I,
)
_PRESENT = re.compile(
    r"\bwhich\b[^?.]*\b(?:is|are)\s+(?:present|seen|visible|shown|demonstrated|identified|observed)"
    r"\b|\bfindings?\s+(?:is|are)\s+present\b",
    re.I,
)
_ABSENT = re.compile(
    r"\b(?:absent|absence|not|negative for|free of|without|missing|least likely|excluded|no|except)"
    r"\b|n't\b",
    re.I,
)


def denies(choice: str) -> bool:
    """Tell whether a choice says that something is not there, as "No edema" or "Normal" does."""
    return _DENIES.search(choice) is not None


def denial_of(finding: str) -> str:
    """Return the choice that denies a finding: "Edema" to "No edema"; "CT" stays in capitals."""
    is_word = finding[1:2].islower()
    return f"No {finding[0].lower() + finding[1:] if is_word else finding}"


def asks_what_is_present(question: str) -> bool:
    """Tell "Which finding is present?" from questions about what is absent, and from all others."""
    return _PRESENT.search(question) is not None and _ABSENT.search(question) is None


def denied_choice(question: Question, reply: str) -> str | None:
    """Return the choice that the reply picked, if it denies what the question asks for.

    None where the question does not ask what is present, where several choices deny, or where the
    reply picks another.
    """
    denying = [choice for choice in question.choices if denies(choice)]
    if len(denying) != 1 or not asks_what_is_present(question.question):
        return None
    return denying[0] if chosen_choice(question.choices, reply) == denying[0] else None


def verified_reply(question: Question, reply: str) -> str:
    """Return the reply, or what its denied choice stands against, where that is one choice alone.

    "No edema" becomes "Edema" if that is a choice; the picture is not looked at again, so a reply
    is put right in its form and not in what the model knows.
    """
    denied = denied_choice(question, reply)
    if denied is None:
        return reply
    stated = words(_DENIAL.sub("", denied))
    against = [c for c in question.choices if not denies(c) and words(c) == stated]
    return against[0] if len(against) == 1 else reply
