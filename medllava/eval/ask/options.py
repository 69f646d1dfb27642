"""What a closed question lets a model choose from. No torch here; `likelihood` scores it."""

from medllava.records import AnswerType, Question
from medllava.score.closed import is_yes_no


def options_of(question: Question) -> tuple[str, ...]:
    """Return the letters of a question's choices, or yes and no; empty where it states none."""
    if question.answers or question.answer_type is not AnswerType.CLOSED:
        return ()
    if question.choices:
        return tuple(chr(ord("A") + i) for i in range(len(question.choices)))
    return ("yes", "no") if is_yes_no(question.answer) else ()
