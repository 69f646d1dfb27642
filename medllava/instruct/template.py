"""The teacher that needs no model: questions whose answer the record itself holds.

Facts go in, question-and-answer records come out, open and closed, reproducible from the seed. The
hazards of templates are handled here, so that the question alone does not give the answer away:
topics that have one answer in all the data are asked about only where a figure states nothing else,
yes and no are asked equally often *of each value*, and a "no" names only values that occur in the
same data.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from medllava.instruct.facts import Fact, read_facts
from medllava.instruct.vocabulary import Value
from medllava.records import AnswerType, FigureRecord

TEMPLATE_VERSION = "template-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question with its answer."""

    category: str
    """Name of the fact's topic."""
    question: str
    answer: str
    answer_type: AnswerType


class TemplateTeacher:
    """Asks about the facts of one figure after the other; order matters for the balance."""

    def __init__(
        self, frequencies: dict[str, Counter[str]], *, closed_share: float, seed: int
    ) -> None:
        """Prepare the wordings.

        Args:
            frequencies: topic name to how often each answer occurs in the data to be asked about,
                as `count_answers` gives it.
            closed_share: share of yes/no questions, 0 to 1.
            seed: of every choice.
        """
        self._frequencies = frequencies
        self._closed_share = closed_share
        self._seed = seed
        self._given: defaultdict[str, Counter[bool]] = defaultdict(Counter)
        self._surplus: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def ask(self, figure: FigureRecord, *, num_questions: int) -> list[Exchange]:
        """Return up to `num_questions` exchanges about a figure, none if it states no fact.

        Facts take turns. A fact that comes again is asked in another wording, and no more once all
        wordings are used.
        """
        rng = random.Random(f"{self._seed}:{figure.figure_id}")
        stated = read_facts(figure)
        telling = [fact for fact in stated if len(self._frequencies[fact.topic.name]) > 1]
        facts = telling or list(stated)
        rng.shuffle(facts)
        choices = [fact for fact in facts if self._has_choice(fact)]
        num_closed = int(num_questions * self._closed_share + rng.random()) if choices else 0
        is_closed = [True] * num_closed + [False] * (num_questions - num_closed)
        rng.shuffle(is_closed)
        pools = {
            True: _take_turns(choices, rng, lambda fact: fact.topic.closed_wordings),
            False: _take_turns(facts, rng, lambda fact: fact.topic.open_wordings),
        }
        exchanges = []
        for closed in is_closed:
            drawn = next(pools[closed], None)
            if drawn:
                ask = self._ask_closed if closed else _ask_open
                exchanges.append(ask(*drawn, rng))
        return exchanges

    def _ask_closed(self, fact: Fact, wording: str, rng: random.Random) -> Exchange:
        given = self._given[fact.topic.name]
        answer = given[True] <= given[False]
        if fact.count is not None:
            blanks = {"count": str(_threshold(fact.count, rng, is_more=answer))}
        else:
            value = _value_of(fact) if answer else self._other_value(fact, rng)
            self._surplus[fact.topic.name][value.answer] += 1 if answer else -1
            blanks = {"phrase": value.phrase.format(noun=fact.noun)}
        given[answer] += 1
        return Exchange(
            category=fact.topic.name,
            question=wording.format(noun=fact.noun, **blanks),
            answer="yes" if answer else "no",
            answer_type=AnswerType.CLOSED,
        )

    def _has_choice(self, fact: Fact) -> bool:
        """Tell whether a yes/no question has two possible answers in this data.

        Where all figures are MRI, "Is it CT?" would always be "no", whatever the picture shows.
        """
        return fact.count is not None or bool(self._other_values(fact))

    def _other_values(self, fact: Fact) -> list[Value]:
        """Return the values of the topic that occur in the data and are wrong for this figure."""
        seen = self._frequencies[fact.topic.name]
        within = _value_of(fact).within
        return [
            value
            for value in fact.topic.values
            if seen[value.answer]
            and value.answer != fact.answer
            and value.answer not in within
            and fact.answer not in value.within
        ]

    def _other_value(self, fact: Fact, rng: random.Random) -> Value:
        """Return the wrong value that was most often right so far, and so needs a "no" most."""
        candidates = self._other_values(fact)
        surplus = self._surplus[fact.topic.name]
        most = max(surplus[value.answer] for value in candidates)
        return rng.choice([v for v in candidates if surplus[v.answer] == most])


def count_answers(figures: Iterable[FigureRecord]) -> dict[str, Counter[str]]:
    """Count how often each answer of each topic occurs."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for figure in figures:
        for fact in read_facts(figure):
            counts[fact.topic.name][fact.answer] += 1
    return dict(counts)


def _take_turns(
    facts: list[Fact], rng: random.Random, wordings_of: Callable[[Fact], tuple[str, ...]]
) -> Iterator[tuple[Fact, str]]:
    """Yield each fact with one of its wordings, then each with another, until none is left."""
    shuffled = [rng.sample(wordings, len(wordings)) for wordings in map(wordings_of, facts)]
    for round_number in range(max(map(len, shuffled), default=0)):
        for fact, wordings in zip(facts, shuffled, strict=True):
            if round_number < len(wordings):
                yield fact, wordings[round_number]


def _ask_open(fact: Fact, wording: str, _: random.Random) -> Exchange:
    return Exchange(
        category=fact.topic.name,
        question=wording.format(noun=fact.noun),
        answer=fact.answer,
        answer_type=AnswerType.OPEN,
    )


def _threshold(count: int, rng: random.Random, *, is_more: bool) -> int:
    """Return a number below the count (yes, more than it) or not below (no)."""
    distance = rng.randint(1, max(1, count // 2))
    return max(0, count - distance) if is_more else count + distance


def _value_of(fact: Fact) -> Value:
    return next(value for value in fact.topic.values if value.answer == fact.answer)
