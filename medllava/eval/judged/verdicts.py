"""A language model grades one answer against the reference: what it is asked, what it says.

A question, its reference and an answer enter as a request; correct, partial or incorrect leaves,
however the judge wrote it. Where it is asked several times, the two answers change places.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medllava.llm.protocol import ChatRequest, Message
from medllava.records import Question
from medllava.score.final_answer import without_reasoning

PROMPT_VERSION = 1
_MAX_NEW_TOKENS = 1024
_INSTRUCTIONS = """\
You grade answers to questions about medical images. You do not see the image; take the reference \
answer as the truth about it. Compare what the given answer means with what the reference means. \
Other words, other languages, more detail that the reference does not contradict, and \
abbreviations do no harm. An answer that contradicts the reference, hedges between several \
answers, or does not answer is incorrect. An answer that states a part of the reference, or the \
right thing less exactly than the question asks for, is partial.

End your reply with one line that holds exactly one of these words: CORRECT, PARTIAL, INCORRECT."""
_REMINDER = "The last line of your reply must be one word: CORRECT, PARTIAL or INCORRECT."
_WORD = re.compile(
    r"\b(?:(?P<incorrect>incorrect|wrong|not\s+(?:entirely\s+)?correct|false)"
    r"|(?P<partial>partial(?:ly)?(?:[\s-]+correct)?)"
    r"|(?P<correct>correct|right|true))\b",
    re.I,
)


class Verdict(StrEnum):
    """What a judge, or a person, says about an answer."""

    CORRECT = "correct"
    PARTIAL = "partial"
    INCORRECT = "incorrect"

    @property
    def credit(self) -> float:
        """Share of a right answer that it is worth."""
        return {Verdict.CORRECT: 1.0, Verdict.PARTIAL: 0.5, Verdict.INCORRECT: 0.0}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """One answer to be graded once."""

    name: str
    """Of the question or of the labelled row; unique together with `repeat`."""
    question: str
    reference: str
    answer: str
    repeat: int = 0

    @property
    def reference_first(self) -> bool:
        """The two change places from one repeat to the next."""
        return self.repeat % 2 == 0


def plan_gradings(
    questions: Sequence[Question], replies: Sequence[str], *, repeats: int
) -> list[Grading]:
    """Return what a judge is asked about these replies, `repeats` times each."""
    return [
        Grading(
            name=question.id,
            question=question.question,
            reference=question.answer,
            answer=without_reasoning(reply).strip(),
            repeat=repeat,
        )
        for question, reply in zip(questions, replies, strict=True)
        for repeat in range(repeats)
    ]


def build_request(grading: Grading, attempt: int, *, temperature: float) -> ChatRequest:
    """Return what the judge is asked; from the second attempt on with the form it must have."""
    given = ("Given answer", grading.answer or "(empty)")
    parts = [("Reference answer", grading.reference), given]
    if not grading.reference_first:
        parts.reverse()
    text = "\n\n".join(f"[{n}]\n{words}" for n, words in [("Question", grading.question), *parts])
    if attempt:
        text += f"\n\n{_REMINDER}"
    return ChatRequest(
        request_id=f"grade {grading.name} {grading.repeat} {attempt}",
        messages=(
            Message(role="system", content=_INSTRUCTIONS),
            Message(role="user", content=text),
        ),
        max_new_tokens=_MAX_NEW_TOKENS,
        temperature=temperature,
        seed=grading.repeat,
    )


def parse_verdict(reply: str) -> Verdict | None:
    """Return the verdict of a reply, or None where it does not end with exactly one.

    Reasoning is taken off first; an unclosed `<think>` leaves nothing. A JSON object with a verdict
    is read, else the last line that has one; two different ones in it say nothing.
    """
    text = without_reasoning(reply).strip()
    stated = _in_object(text)
    if stated is not None:
        return _only_verdict(stated)
    for line in reversed(text.splitlines()):
        if _WORD.search(line):
            return _only_verdict(line)
    return None


def _only_verdict(line: str) -> Verdict | None:
    found = {Verdict(str(mark.lastgroup)) for mark in _WORD.finditer(line)}
    return found.pop() if len(found) == 1 else None


def _in_object(text: str) -> str | None:
    start, end = text.rfind("{"), text.rfind("}")
    try:
        values = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except ValueError:
        return None
    if not isinstance(values, Mapping):
        return None
    for name in ("verdict", "judgement", "judgment", "grade", "result", "correct"):
        if name in values:
            said = values[name]
            return ("correct" if said else "incorrect") if isinstance(said, bool) else str(said)
    return None
