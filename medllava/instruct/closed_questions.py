"""Yes/no questions that cannot be answered from their words: the balance of the template teacher.

Facts of one figure after the other go in, questions with their true answer come out. Over the data
so far "yes" and "no" are kept equal for each value that is asked about, for each kind of picture
within a topic, and as far as possible for each wording; a question that would tip the balance is
not asked. A "no" names a value that occurs in the same data, if possible one that pictures of the
same kind show: "Is this an image of the brain?" of another MRI rather than of an X-ray.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medllava.instruct.facts import Fact
from medllava.instruct.vocabulary import MODALITY, Value

_MOST_SURPLUS = 2
"""Most that one answer may be ahead of the other in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedQuestion:
    """A yes/no question about a fact."""

    fact: Fact
    wording: str
    """As the topic writes it."""
    blank: str
    """What stands in the wording: a value's phrase or a number."""
    subject: str
    """The value that is asked about, or the topic's name where a number is."""
    answer: bool
    is_hard: bool = False
    """A "no" about something that pictures of this kind can show."""

    @property
    def text(self) -> str:
        """The question."""
        return self.wording.format(noun=self.fact.noun, phrase=self.blank, count=self.blank)


class ClosedQuestions:
    """Chooses yes/no questions and remembers what was asked, for the balance."""

    def __init__(self, frequencies: Mapping[str, Counter[str]]) -> None:
        """Begin with nothing asked.

        Args:
            frequencies: those of `count_answers` over the figures that are to come.
        """
        self._frequencies = frequencies
        self._to_come = {topic: Counter(answers) for topic, answers in frequencies.items()}
        self._surplus: Counter[tuple[str, ...]] = Counter()
        """How often yes was right more than no: by topic and value, by topic and kind of picture,
        and by wording and value."""

    def has_choice(self, fact: Fact) -> bool:
        """Tell whether a yes/no question has two possible answers in this data.

        Where all figures are MRI, "Is it CT?" would always be "no", whatever the picture shows.
        """
        return fact.count is not None or bool(self._other_values(fact))

    def choose(
        self, facts: Sequence[Fact], *, kind: str, number: int, rng: random.Random
    ) -> list[ClosedQuestion]:
        """Return up to `number` different questions; facts take turns.

        Args:
            facts: of one figure.
            kind: of picture, as `picture_kind` names it.
            number: most questions.
            rng: draws between questions that are as good.
        """
        for fact in facts:
            self._to_come[fact.topic.name][fact.answer] -= 1
        chosen: list[ClosedQuestion] = []
        texts: set[str] = set()
        waiting = list(facts)
        while waiting and len(chosen) < number:
            fact = waiting.pop(0)
            question = self._best(fact, kind, texts, rng)
            if question is not None:
                self._note(question, kind)
                texts.add(question.text)
                chosen.append(question)
                waiting.append(fact)
        return chosen

    def _best(
        self, fact: Fact, kind: str, asked: set[str], rng: random.Random
    ) -> ClosedQuestion | None:
        """Return the question that the balance needs most; None if it has none left to ask."""
        candidates = [
            question
            for question in self._candidates(fact, kind, rng)
            if question.text not in asked and self._keeps_balance(question, kind)
        ]
        rng.shuffle(candidates)
        return min(candidates, key=lambda question: self._cost(question, kind), default=None)

    def _candidates(self, fact: Fact, kind: str, rng: random.Random) -> list[ClosedQuestion]:
        if fact.count is not None:
            return [
                ClosedQuestion(
                    fact=fact,
                    wording=wording,
                    blank=str(_threshold(fact.count, rng, is_more=answer)),
                    subject=fact.topic.name,
                    answer=answer,
                )
                for wording in fact.topic.closed_wordings
                for answer in (True, False)
            ]
        also_seen = self._frequencies.get(seen_among(fact.topic.name, kind), Counter())
        return [
            ClosedQuestion(
                fact=fact,
                wording=wording,
                blank=value.phrase.format(noun=fact.noun),
                subject=value.answer,
                answer=value is fact.value,
                is_hard=value is not fact.value and also_seen[value.answer] > 0,
            )
            for value in (fact.value, *self._other_values(fact))
            for wording in fact.topic.closed_wordings
        ]

    def _other_values(self, fact: Fact) -> list[Value]:
        """Return the values of the topic that occur in the data and are wrong for this figure."""
        seen = self._frequencies.get(fact.topic.name, Counter())
        within = fact.value.within
        return [
            value
            for value in fact.topic.values
            if seen[value.answer]
            and value.answer != fact.answer
            and value.answer not in within
            and fact.answer not in value.within
        ]

    def _keeps_balance(self, question: ClosedQuestion, kind: str) -> bool:
        """Tell whether the figures that are to come can make up for the question."""
        about_value, about_kind = (
            self._surplus[key] + _sign(question) for key in _balanced(question, kind)
        )
        to_come = self._to_come[question.fact.topic.name]
        true_of = to_come[question.subject]
        makes_up = to_come.total() - true_of if question.answer else true_of
        return abs(about_kind) <= _MOST_SURPLUS and _sign(question) * about_value <= max(
            _MOST_SURPLUS, makes_up
        )

    def _cost(self, question: ClosedQuestion, kind: str) -> tuple[int, bool, int, int]:
        """Return what to keep small: imbalance made, then an easy "no", then skewed wordings."""
        sign = _sign(question)
        made = [
            abs(self._surplus[key] + sign) - abs(self._surplus[key])
            for key in _balanced(question, kind)
        ]
        return (
            sum(made),
            not question.answer and not question.is_hard,
            sign * self._surplus[_balanced(question, kind)[0]],
            sign * self._surplus[question.wording, question.subject],
        )

    def _note(self, question: ClosedQuestion, kind: str) -> None:
        keys = (*_balanced(question, kind), (question.wording, question.subject))
        for key in keys:
            self._surplus[key] += _sign(question)


def picture_kind(facts: Sequence[Fact]) -> str:
    """Name the kind of picture, by the fact of its modality; empty if none is stated."""
    return next((fact.answer for fact in facts if fact.topic is MODALITY), "")


def seen_among(topic: str, kind: str) -> str:
    """Return the key under which answers of a topic are counted among pictures of one kind."""
    return f"{topic} among {kind or 'other pictures'}"


def _balanced(question: ClosedQuestion, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    topic = question.fact.topic.name
    return ("value", topic, question.subject), ("kind", topic, kind)


def _sign(question: ClosedQuestion) -> int:
    return 1 if question.answer else -1


def _threshold(count: int, rng: random.Random, *, is_more: bool) -> int:
    """Return a number below the count (yes, more than it) or not below (no)."""
    distance = rng.randint(1, max(1, count // 2))
    return max(0, count - distance) if is_more else count + distance
