"""Questions of a whole data set that their words alone answer, told by how the others are answered.

`Question`s go in; those that would teach a model to answer without the picture are named by rule. A
model that never sees a picture learns which answer a wording, a yes/no question or an option has
most often. Where one has it so often that guessing pays, the surplus goes, drawn by the seed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medllava.instruct.alignment import draw
from medllava.instruct.filters import fold
from medllava.records import Question

CONSTANT_ANSWER = "constant_answer"
"""One wording has nearly always one answer, or yes/no questions nearly always the same."""
CONSTANT_OPTION = "constant_option"
"""An option is nearly always the right one where it is offered."""
_FEWEST = 8
"""Fewer cases than these say nothing."""
_MOST_CLOSED, _MOST_OPEN, _MOST_OPTION = 0.6, 0.8, 0.6
"""Largest shares of one answer: of yes/no, of an open wording, of an option being right."""
_YES_NO = ("yes", "no")


def find_shortcuts(questions: Sequence[Question], *, seed: int) -> dict[str, str]:
    """Return the ids of the questions to leave out, each with its rule.

    Args:
        questions: all of a data set, with unique ids.
        seed: draws which of a surplus go.
    """
    dropped: dict[str, str] = {}
    _thin_options(questions, dropped, seed)
    plain = [question for question in questions if not question.choices]
    by_wording: defaultdict[str, list[Question]] = defaultdict(list)
    for question in plain:
        by_wording[fold(question.question)].append(question)
    for group in by_wording.values():
        is_closed = all(question.answer in _YES_NO for question in group)
        _thin_answers(group, dropped, seed, most=_MOST_CLOSED if is_closed else _MOST_OPEN)
    # All wordings together: where most answers are yes, yes is the guess.
    closed = [q for q in plain if q.answer in _YES_NO and q.id not in dropped]
    _thin_answers(closed, dropped, seed, most=_MOST_CLOSED)
    return dropped


def text_only_accuracy(questions: Sequence[Question]) -> dict[str, Any]:
    """Return how often who knows all other questions, and no picture, would guess right.

    The guess is what the wording's other questions are answered with most often; failing that yes
    or no by the majority; of options, the one that is right most often where it is offered.

    Returns:
        `text_only_accuracy` over all, and `chance`, what blind drawing gives where answers are
        stated (None: no question states its answers). Empty where there are no questions.
    """
    if not questions:
        return {}
    wording: defaultdict[str, Counter[str]] = defaultdict(Counter)
    closed: Counter[str] = Counter()
    shown, right = _count_options(questions)
    for question in questions:
        wording[fold(question.question)][_answer(question)] += 1
        if question.answer in _YES_NO:
            closed[question.answer] += 1
    hits = 0.0
    for question in questions:
        if question.choices:
            own = fold(question.answer)

            def rate(option: str, own: str = own) -> float:
                seen = shown[option] - 1
                return (right[option] - (option == own)) / seen if seen else 0.0

            rates = {fold(option): rate(fold(option)) for option in question.choices}
            best = max(rates.values())
            ties = [option for option, value in rates.items() if value == best]
            hits += (own in ties) / len(ties)
        else:
            others = wording[fold(question.question)] - Counter([_answer(question)])
            if not others and question.answer in _YES_NO:
                others = closed - Counter([question.answer])
            hits += bool(others) and others.most_common(1)[0][0] == _answer(question)
    chances = [
        1 / len(question.choices) if question.choices else 0.5
        for question in questions
        if question.choices or question.answer in _YES_NO
    ]
    return {
        "text_only_accuracy": round(hits / len(questions), 3),
        "chance": round(sum(chances) / len(chances), 3) if chances else None,
    }


def _thin_answers(
    group: Sequence[Question], dropped: dict[str, str], seed: int, *, most: float
) -> None:
    """Drop of the commonest answer what brings its share above `most`."""
    answers = Counter(_answer(question) for question in group)
    if len(group) < _FEWEST:
        return
    answer, count = answers.most_common(1)[0]
    others = len(group) - count
    if count <= most * len(group):
        return
    surplus = count - int(others * most / (1 - most))
    same = [question for question in group if _answer(question) == answer]
    _drop(same, surplus, CONSTANT_ANSWER, dropped, seed)


def _thin_options(questions: Sequence[Question], dropped: dict[str, str], seed: int) -> None:
    shown, right = _count_options(questions)
    by_answer: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.choices:
            by_answer[fold(question.answer)].append(question)
    for option, chosen in by_answer.items():
        if shown[option] >= _FEWEST and right[option] > _MOST_OPTION * shown[option]:
            wrong = shown[option] - right[option]
            surplus = right[option] - int(wrong * _MOST_OPTION / (1 - _MOST_OPTION))
            _drop(chosen, surplus, CONSTANT_OPTION, dropped, seed)


def _drop(
    among: Iterable[Question], number: int, rule: str, dropped: dict[str, str], seed: int
) -> None:
    drawn = sorted(among, key=lambda question: draw(seed, f"{rule}:{question.id}"))
    for question in drawn[:number]:
        dropped.setdefault(question.id, rule)


def _count_options(questions: Iterable[Question]) -> tuple[Counter[str], Counter[str]]:
    """Return how often each option was offered, and how often it was right."""
    shown: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for question in questions:
        if question.choices:
            shown.update({fold(option) for option in question.choices})
            right[fold(question.answer)] += 1
    return shown, right


def _answer(question: Question) -> str:
    return fold(question.answer)
