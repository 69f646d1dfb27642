"""Probes with choices that deny: is "No edema" picked where the edema is there?

Questions enter; altered questions leave, as those of `probes`. `negated-option` puts the denial
of the right choice among the choices of any multiple choice. `presence` and `absence` are the
direct probe of CXR-ContraBench, made of yes/no questions about one image: a finding that is there,
one that is not, and the denial of the one asked for.

Source: CXR-ContraBench, Fang et al. 2026, arXiv 2605.05810.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from medllava.records import AnswerType, Question
from medllava.score.closed import YES, answer_word, is_yes_no, reference_choice
from medllava.score.normalize import words
from medllava.score.polarity import denial_of, denies

Alter = Callable[[Question], Question | None]

_LONGEST_FINDING = 6
"""Words; a longer phrase is a sentence, whose denial "No ..." would be no English."""
_FEWEST_CHOICES = 3
_WHERE = (
    r"(?:\s+(?:in|on|within|visible in|seen in|present in|shown in)\s+(?:this|the|these)\s+"
    r"(?:image|images|picture|figure|scan|slice|photo|photograph|film|x-ray|radiograph|mri|ct|"
    r"chest|lungs?|patient)\b.*)?"
)
_FINDING = re.compile(
    r"(?:is|are|was|were) there (?:any |an? |the |evidence of |signs? of )*"
    rf"(?P<there>[a-z][\w' /-]*?){_WHERE}\W*"
    r"|does (?:the|this) (?:image|picture|scan|x-ray|radiograph|patient) (?:show|have|contain) "
    rf"(?:any |an? |the |evidence of |signs? of )*(?P<shown>[a-z][\w' /-]*?){_WHERE}\W*"
    rf"|(?:is|are) (?:an? |the )?(?P<seen>[a-z][\w' /-]*?) (?:present|visible|seen){_WHERE}\W*",
    re.I,
)


def negate_option(question: Question, *, seed: int) -> Question | None:
    """Return the question with the denial of its right choice in place of a wrong one.

    None where a choice denies already, or the right one is no short phrase in words.
    """
    right = reference_choice(question) if question.choices else None
    if right is None or question.answers or any(map(denies, question.choices)):
        return None
    if is_yes_no(right) or not right[:1].isalpha() or len(words(right)) > _LONGEST_FINDING:
        return None
    choices = list(question.choices)
    stream = random.Random(f"{seed} negated-option {question.id}")
    wrong = [place for place, choice in enumerate(choices) if choice != right]
    if len(choices) < _FEWEST_CHOICES:
        choices.insert(stream.randrange(len(choices) + 1), denial_of(right))
    else:
        choices[stream.choice(wrong)] = denial_of(right)
    return replace(question, choices=tuple(choices), answer=right)


def presence_alteration(questions: Sequence[Question], *, seed: int) -> Alter:
    """Return what makes "Which finding is present?" of a yes/no question answered with yes."""
    return _alteration(questions, asked="present", seed=seed)


def absence_alteration(questions: Sequence[Question], *, seed: int) -> Alter:
    """Return what makes "Which finding is absent?" of one answered with no.

    The finding itself is right; its denial copies the question's negation.
    """
    return _alteration(questions, asked="absent", seed=seed)


def _alteration(questions: Sequence[Question], *, asked: str, seed: int) -> Alter:
    by_image: dict[str, dict[bool, list[str]]] = {}
    for question, finding, is_there in _findings(questions):
        by_image.setdefault(question.images[0], {}).setdefault(is_there, []).append(finding)
    wanted = asked == "present"

    def alter(question: Question) -> Question | None:
        own = next(iter(_findings([question])), None)
        if own is None or own[2] is not wanted:
            return None
        finding = own[1]
        known = by_image[question.images[0]]
        others = [one for one in known.get(not wanted, ()) if one not in known[wanted]]
        if not others:
            return None
        choices = [finding, others[0], denial_of(finding)]
        random.Random(f"{seed} {asked} {question.id}").shuffle(choices)
        return replace(
            question,
            question=f"Which finding is {asked}?",
            choices=tuple(choices),
            answer=finding,
            alternatives=(),
        )

    return alter


def _findings(questions: Iterable[Question]) -> Iterable[tuple[Question, str, bool]]:
    """Yield yes/no questions after one finding of one image: question, finding, is it there."""
    for question in questions:
        is_plain = question.answer_type is AnswerType.CLOSED and not question.choices
        if not is_plain or len(question.images) != 1 or not is_yes_no(question.answer):
            continue
        found = _FINDING.fullmatch(question.question.strip())
        named = next((part for part in found.groups() if part), "").strip() if found else ""
        if named and not denies(named) and len(words(named)) <= _LONGEST_FINDING:
            finding = named[0].upper() + named[1:]
            yield question, finding, answer_word(question.answer) == YES
