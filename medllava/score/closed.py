"""Closed questions: which of the stated answers did the reply choose?

A question and a reply enter; the chosen answer leaves, or None where the reply states none or more
than one, which counts as wrong and is reported as unparseable. Only the reply's final answer is
read (`final_answer`). Words are compared whole, so "no" is not found in "normal"; who says both
"yes" and "no" has not answered, nor has who denies one answer and states no other.
"""

from medllava.records import Question
from medllava.score.alternatives import alternative_named, stated_alternative
from medllava.score.answer_sets import named_set
from medllava.score.choices import choice_named
from medllava.score.final_answer import final_answer
from medllava.score.normalize import words
from medllava.score.yes_no import NO, YES, answer_word, is_yes_no

__all__ = [
    "NO",
    "YES",
    "answer_word",
    "chosen_answer",
    "chosen_choice",
    "closed_hit",
    "is_yes_no",
    "reference_choice",
]


def chosen_answer(question: Question, reply: str) -> str | None:
    """Return what the reply chose: `yes`, `no`, or the words of a choice; None if unclear.

    The stated answers are the question's `choices`; else yes and no, if the reference is one of
    them; else the `alternatives` that come with the question; else the reference and the phrases
    offered with "or" in its words. Of a set, all that the reply names, the reference's first.
    """
    if question.answers:
        named = named_set(question.answers, question.choices, reply)
        return ", ".join(named) if named else None
    if question.choices:
        return chosen_choice(question.choices, reply)
    if is_yes_no(question.answer):
        return answer_word(reply, asked=question.question)
    if question.alternatives:
        answer = final_answer(reply)
        return stated_alternative(question.alternatives, question.answer, answer)
    return alternative_named(question.question, question.answer, final_answer(reply))


def closed_hit(question: Question, reply: str) -> bool | None:
    """Tell whether the reply chose the reference; None if it chose nothing clearly."""
    chosen = chosen_answer(question, reply)
    if chosen is None:
        return None
    if question.answers:
        return chosen == ", ".join(question.answers)
    if question.choices:
        return chosen == reference_choice(question)
    if is_yes_no(question.answer):
        return chosen == answer_word(question.answer)
    return chosen == " ".join(words(question.answer))


def chosen_choice(choices: tuple[str, ...], reply: str) -> str | None:
    """Return the choice that a reply names by letter or by its words; None if not exactly one."""
    return choice_named(choices, final_answer(reply))


def reference_choice(question: Question) -> str | None:
    """Return the choice that the reference answer names, by its words or its letter."""
    return choice_named(question.choices, question.answer)
