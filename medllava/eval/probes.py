"""Probes: closed questions asked again in a way that must not, or must, change the answer.

Questions enter; altered questions leave, one set per variant, each with the question it came from.
A model that reads and looks flips its answer under negation and keeps it under other words, another
order of the choices or a slightly worse picture. Nothing is asked here and no image is opened.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from medllava.errors import DataError
from medllava.eval.polarity_probes import (
    Alter,
    absence_alteration,
    negate_option,
    presence_alteration,
)
from medllava.records import AnswerType, Question
from medllava.score.closed import NO, YES, answer_word, is_yes_no, reference_choice
from medllava.score.normalize import words
from medllava.score.polarity import denies


class Probe(StrEnum):
    """A family of variants."""

    NEGATED = "negated"
    """The same statement denied; the right answer is the other word."""
    REWORDED = "reworded"
    """The same question in three other wordings."""
    SHUFFLED = "shuffled"
    """The same choices in another order; the right one moves."""
    CORRUPTED = "corrupted"
    """The same pictures with noise, blur, low contrast or coarse JPEG."""
    NEGATED_OPTION = "negated-option"
    """The denial of the right choice among the choices."""
    PRESENCE = "presence"
    """Which finding is present: one that is, one that is not, or the denial of the first?"""
    ABSENCE = "absence"
    """The same of what is absent; the denial copies the question's negation."""


NUM_REWORDINGS = 3
CORRUPTIONS = ("noise", "blur", "contrast", "jpeg")
VARIANTS: dict[Probe, tuple[str, ...]] = {
    Probe.NEGATED: ("negated",),
    Probe.REWORDED: tuple(f"reworded-{i + 1}" for i in range(NUM_REWORDINGS)),
    Probe.SHUFFLED: ("shuffled",),
    Probe.CORRUPTED: tuple(f"corrupted-{name}" for name in CORRUPTIONS),
    Probe.NEGATED_OPTION: ("negated-option",),
    Probe.PRESENCE: ("presence",),
    Probe.ABSENCE: ("absence",),
}
"""Variants of each probe; each is a row of the report and a condition of `predictions.jsonl`."""

_THERE = re.compile(r"(is|are|was|were) there (?:(any|an?|the) )?(.+)", re.IGNORECASE)
_NEGATIVE = re.compile(r"\b(?:no|not|never|without|absent|n't|none|neither|free of)\b|n't\b", re.I)
_SUBJECT = re.compile(
    r"(do|does|did|is|are|was|were|can|could|has|have|had) "
    r"((?:the|this|these) (?:"
    r"image|images|picture|figure|scan|slice|photo|photograph|x-ray|radiograph|film|mri|ct|"
    r"patient|heart|lungs?|trachea|mediastinum|diaphragm|aorta|liver|spleen|brain|lesion|mass)|"
    r"it|they|(?:this|that|these|those)(?= (?:an?|the) ))"
    r" (.+)",
    re.IGNORECASE,
)
"""Verb, subject and the rest, where the end of the subject is certain."""
_IN_IMAGE = re.compile(
    r"\s+(?:in|on) (?:this|the) (?:image|picture|figure|scan|slice|photo|photograph|film|"
    r"x-ray|radiograph|mri|ct)(?: scan| image)?$",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(r"\b([\w-]+) or ([\w-]+)(?=\W*$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A question of a variant, and what it was made from."""

    base: Question
    question: Question
    """Of the same id; words, choices or reference differ."""
    corruption: str | None = None
    """What is done to its picture."""


def parse_probes(text: str) -> tuple[Probe, ...]:
    """Read the value of `--probes`: names with commas between, `all`, or nothing.

    Raises:
        DataError: a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return tuple(Probe)
    unknown = [name for name in names if name not in list(Probe)]
    if unknown:
        raise DataError(f"--probes {unknown[0]!r} is not one of {', '.join(Probe)}, all.")
    return tuple(probe for probe in Probe if probe.value in names)


def build_probes(
    questions: Sequence[Question], probes: Sequence[Probe], *, seed: int
) -> dict[str, list[Probed]]:
    """Return the altered questions of every variant, in the order of `questions`.

    Closed questions that a probe does not fit are left out of it: only plain yes and no can be
    negated, only choices shuffled, only pictures corrupted.

    Args:
        questions: of any type; open ones are left out.
        probes: which families.
        seed: of the order of choices.
    """
    closed = [q for q in questions if q.answer_type is AnswerType.CLOSED]
    made: dict[str, list[Probed]] = {}
    for probe in probes:
        for number, variant in enumerate(VARIANTS[probe]):
            alter = _alteration(probe, number, closed, seed=seed)
            found = ((question, alter(question)) for question in closed)
            made[variant] = [
                Probed(
                    base=base,
                    question=altered,
                    corruption=CORRUPTIONS[number] if probe is Probe.CORRUPTED else None,
                )
                for base, altered in found
                if altered is not None
            ]
    return made


def _alteration(probe: Probe, number: int, closed: Sequence[Question], *, seed: int) -> Alter:
    alterations: dict[Probe, Alter] = {
        Probe.NEGATED: negate,
        Probe.REWORDED: lambda question: reword(question, number),
        Probe.SHUFFLED: lambda question: shuffle_choices(question, seed=seed),
        Probe.CORRUPTED: lambda question: question if question.image is not None else None,
        Probe.NEGATED_OPTION: lambda question: negate_option(question, seed=seed),
        Probe.PRESENCE: presence_alteration(closed, seed=seed),
        Probe.ABSENCE: absence_alteration(closed, seed=seed),
    }
    return alterations[probe]


def negate(question: Question) -> Question | None:
    """Return the denied twin with the other answer; None if the question is no plain yes or no.

    "Is there no X?" can be answered either way in English, so the twin is "Is it true that there is
    no X?". Where the grammar is not certain the question is asked about the answer "no".
    """
    answer = answer_word(question.answer)
    if question.choices or not is_yes_no(question.answer) or not _is_english(question.question):
        return None
    asked = question.question.strip().rstrip("?").strip()
    other = NO if answer == YES else YES
    return replace(question, question=_denied(asked), answer=other)


def _denied(asked: str) -> str:
    is_negative = _NEGATIVE.search(asked) is not None
    there = None if is_negative else _THERE.fullmatch(asked)
    if there and (there.group(2) or "").lower() != "the":
        return f"Is it true that there {there.group(1).lower()} no {there.group(3)}?"
    subject = None if is_negative else _SUBJECT.fullmatch(asked)
    if subject:
        verb, noun, rest = subject.group(1).lower(), subject.group(2).lower(), subject.group(3)
        denial = "cannot" if verb == "can" else f"{verb} not"
        return f"Is it true that {noun} {denial} {rest}?"
    return f'Is "no" the right answer to the following question: {asked}?'


def reword(question: Question, number: int) -> Question | None:
    """Return the question in the other wording of that number, 0 to 2; the answer stays."""
    if not _is_english(question.question):
        return None
    asked = question.question.strip()
    there = _THERE.fullmatch(asked.rstrip("?").strip())
    if there and not _NEGATIVE.search(asked) and is_yes_no(question.answer):
        article = f"{there.group(2)} " if there.group(2) else ""
        thing = article + _IN_IMAGE.sub("", there.group(3))
        wording = (
            f"Does the image show {thing}?",
            f"Can you see {thing} in this image?",
            f"Judging from the image, {asked[0].lower()}{asked[1:]}",
        )[number]
    else:
        wording = (
            f"Look at the image and answer: {asked}",
            f"{asked} Decide by what the image shows.",
            f"Based on this image, what is your answer to the question: {asked}",
        )[number]
    return replace(question, question=wording)


def shuffle_choices(question: Question, *, seed: int) -> Question | None:
    """Return the question with its choices in another order, the right one in another place.

    "Left or right?" without listed choices becomes "right or left?".
    """
    if not question.choices:
        return _swap_alternatives(question)
    right = reference_choice(question)
    if right is None or len(set(question.choices)) < 2:
        return None
    others = [choice for choice in question.choices if choice != right]
    places = [i for i in range(len(question.choices)) if i != question.choices.index(right)]
    stream = random.Random(f"{seed} {question.id}")
    stream.shuffle(others)
    others.insert(stream.choice(places), right)
    return replace(question, choices=tuple(others), answer=right)


def _swap_alternatives(question: Question) -> Question | None:
    asked = question.question.strip()
    found = _ALTERNATIVES.search(asked)
    if found is None or words(question.answer) not in {words(side) for side in found.groups()}:
        return None
    swapped = f"{asked[: found.start()]}{found[2]} or {found[1]}{asked[found.end() :]}"
    return replace(question, question=swapped)


def expected_base(variant: str, chosen: str | None, altered: Question) -> str | None:
    """Return what the reply to the base question chose, if the model is consistent.

    Args:
        variant: name of the row.
        chosen: what the reply to the altered question chose.
        altered: that question.
    """
    if variant in VARIANTS[Probe.NEGATED]:
        return {YES: NO, NO: YES}.get(chosen or "")
    if variant in VARIANTS[Probe.PRESENCE]:
        is_denial = chosen is not None and denies(chosen)
        return YES if chosen == altered.answer else NO if is_denial else None
    if variant in VARIANTS[Probe.ABSENCE]:
        return NO if chosen == altered.answer else None
    return chosen


def _is_english(text: str) -> bool:
    return text.isascii() or sum(c.isascii() for c in text) > len(text) * 3 / 4
