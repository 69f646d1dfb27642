"""The teacher that needs no model: questions whose answer the record itself holds.

Facts go in, question-and-answer records come out, open and closed, reproducible from the seed. The
hazards of templates are handled here and in `closed_questions`, so that the question alone does not
give the answer away: topics that have one answer in all the data are asked about only where a
figure states nothing else, and of each value yes and no are equally often right.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medllava.instruct.closed_questions import (
    ClosedQuestion,
    ClosedQuestions,
    picture_kind,
    seen_among,
)
from medllava.instruct.config import ClosedReplies
from medllava.instruct.facts import Fact, read_facts
from medllava.records import AnswerType, FigureRecord

TEMPLATE_VERSION = "template-3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question with its answer."""

    category: str
    """Name of the fact's topic."""
    question: str
    answer: str
    """As it is scored: one to three words, of closed questions yes or no."""
    reply: str
    """As the assistant says it."""
    answer_type: AnswerType


class TemplateTeacher:
    """Asks about the facts of one figure after the other; order matters for the balance."""

    def __init__(
        self,
        frequencies: dict[str, Counter[str]],
        *,
        closed_share: float,
        seed: int,
        closed_replies: ClosedReplies = ClosedReplies.WORD,
    ) -> None:
        """Prepare the wordings.

        Args:
            frequencies: topic name to how often each answer occurs in the data to be asked about,
                as `count_answers` gives it.
            closed_share: share of yes/no questions, 0 to 1.
            seed: of every choice.
            closed_replies: how a yes/no question is replied to.
        """
        self._frequencies = frequencies
        self._closed_share = closed_share
        self._seed = seed
        self._closed_replies = closed_replies
        self._closed = ClosedQuestions(frequencies)

    def ask(self, figure: FigureRecord, *, num_questions: int) -> list[Exchange]:
        """Return up to `num_questions` exchanges about a figure, none if it states no fact.

        Facts take turns. A fact that comes again is asked in another wording or, with yes or no,
        about another value, and no more once all are used or the balance of yes and no forbids it.
        """
        rng = random.Random(f"{self._seed}:{figure.figure_id}")
        stated = read_facts(figure)
        telling = [fact for fact in stated if len(self._frequencies[fact.topic.name]) > 1]
        facts = telling or list(stated)
        rng.shuffle(facts)
        choices = [fact for fact in facts if self._closed.has_choice(fact)]
        num_closed = int(num_questions * self._closed_share + rng.random()) if choices else 0
        closed = self._closed.choose(choices, kind=picture_kind(stated), number=num_closed, rng=rng)
        drawn = zip(range(num_questions - num_closed), _take_turns(facts, rng), strict=False)
        exchanges = [self._reply(question) for question in closed]
        exchanges += [_ask_open(*fact_and_wording) for _, fact_and_wording in drawn]
        rng.shuffle(exchanges)
        return exchanges

    def _reply(self, question: ClosedQuestion) -> Exchange:
        answer = "yes" if question.answer else "no"
        return Exchange(
            category=question.fact.topic.name,
            question=question.text,
            answer=answer,
            reply=_closed_reply(answer, question.fact.statement, self._closed_replies),
            answer_type=AnswerType.CLOSED,
        )


def count_answers(figures: Iterable[FigureRecord]) -> dict[str, Counter[str]]:
    """Count how often each answer of each topic occurs, in all and among each kind of picture."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for figure in figures:
        facts = read_facts(figure)
        for fact in facts:
            counts[fact.topic.name][fact.answer] += 1
            counts[seen_among(fact.topic.name, picture_kind(facts))][fact.answer] += 1
    return dict(counts)


def _take_turns(facts: list[Fact], rng: random.Random) -> Iterator[tuple[Fact, str]]:
    """Yield each fact with an open wording, then each with another, until none is left."""
    shuffled = [
        rng.sample(fact.topic.open_wordings, len(fact.topic.open_wordings)) for fact in facts
    ]
    for round_number in range(max(map(len, shuffled), default=0)):
        for fact, wordings in zip(facts, shuffled, strict=True):
            if round_number < len(wordings):
                yield fact, wordings[round_number]


def _ask_open(fact: Fact, wording: str) -> Exchange:
    return Exchange(
        category=fact.topic.name,
        question=wording.format(noun=fact.noun),
        answer=fact.answer,
        reply=fact.answer,
        answer_type=AnswerType.OPEN,
    )


def _closed_reply(answer: str, statement: str, form: ClosedReplies) -> str:
    if form is ClosedReplies.WORD:
        return answer
    if form is ClosedReplies.NAMED:
        return f"{answer.capitalize()}, {statement}."
    return f"{statement[0].upper()}{statement[1:]}, so {answer}."
