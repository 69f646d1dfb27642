"""What an answer is worth: every part a number between 0 and 1, or None where it is not meant.

A question and a reply enter, numbers leave. The score is the one that `eval` reports (`score`), so
what is rewarded is what is measured. Another picture's answers are charged, not rewarded: the mean
reward of a step is then the score with the picture minus lambda times the score without it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllava.recipe import RewardConfig
from medllava.records import AnswerType, Question
from medllava.score.answer_sets import named_set, set_f1
from medllava.score.boxes import intersection_over_union, stated_box
from medllava.score.closed import closed_hit
from medllava.score.final_answer import final_answer
from medllava.score.normalize import contains, words
from medllava.score.open_ended import num_words, token_recall

THINK_PROMPT = (
    "Think about what the image shows first, between <think> and </think>. Then give your answer."
)
"""Put after a question where `think` is wanted."""

_THINKS = re.compile(r"\s*<think>\s*\S.*?</think>\s*\S", re.DOTALL | re.IGNORECASE)
_PARTS = (
    re.compile(r"description|the (?:image|picture|figure) (?:shows|depicts)", re.IGNORECASE),
    re.compile(r"rationale|step \d|let's think|because|therefore|this suggests", re.IGNORECASE),
    re.compile(r"(?:final answer|conclusion|answer)\b", re.IGNORECASE),
)
"""Marks of a description, of reasoning and of an answer. Source of the three: R1-VL, StepRVR."""

Part = Callable[[Question, str], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """One question beside one picture, to be answered several times."""

    question: Question
    image: Path
    is_other: bool = False
    """The picture is not the question's own."""


def score_reply(question: Question, reply: str) -> float:
    """Return what the strict protocol gives.

    1 or 0 if closed, token recall if open, F1 of the names where several answers are right, and
    the overlap of a box.
    """
    if question.box:
        box = stated_box(reply)
        return 0.0 if box is None else intersection_over_union(box, question.box)
    if question.answers:
        return set_f1(question.answers, named_set(question.answers, question.choices, reply))
    if question.choices or question.answer_type is AnswerType.CLOSED:
        return float(closed_hit(question, reply) is True)
    return token_recall(final_answer(reply), question.answer)


def has_format(question: Question, reply: str, *, think: bool) -> float:
    """Return 1 for one clear answer, with reasoning in its tags before it if that is asked for."""
    if think and not _THINKS.match(reply):
        return 0.0
    if question.choices or question.answer_type is AnswerType.CLOSED:
        return float(closed_hit(question, reply) is not None)
    return float(bool(words(final_answer(reply))))


def excess_length(reply: str, *, max_words: int) -> float:
    """Return how far a reply is over its words: 0 within them, 1 at twice as many or more."""
    return min(1.0, max(0.0, num_words(reply) / max_words - 1.0))


def passed_steps(question: Question, reply: str) -> float | None:
    """Return the share of the key steps that a reply names, in any of their wordings.

    Source: R1-VL, StepRAR (arXiv 2503.12937); None where a question has no key steps.
    """
    if not question.key_steps:
        return None
    said = words(reply)
    passed = sum(any(contains(said, words(w)) for w in step) for step in question.key_steps)
    return passed / len(question.key_steps)


def is_reasoned(reply: str) -> float:
    """Return 1 where a reply describes, then reasons, then answers.

    Source: R1-VL, StepRVR (arXiv 2503.12937): complete and in logical order.
    """
    position = 0
    for part in _PARTS:
        found = part.search(reply, position)
        if found is None:
            return 0.0
        position = found.end()
    return 1.0


def build_rewards(
    showings: Sequence[Showing], config: RewardConfig
) -> tuple[list[Callable[..., list[float | None]]], list[float]]:
    """Return the parts as TRL's GRPOTrainer takes them, and their weights.

    Args:
        showings: of the whole run; the column `row` of a batch counts in them.
        config: weights; parts without one are left out.
    """
    parts: dict[str, tuple[Part, float]] = {
        "format": (lambda q, reply: has_format(q, reply, think=config.think), config.format),
        "length": (
            lambda _, reply: -excess_length(reply, max_words=config.max_words),
            config.length,
        ),
        "steps": (passed_steps, config.steps),
        "reasoning": (lambda _, reply: is_reasoned(reply), config.reasoning),
    }
    functions = [_score_function(showings, config.looking)]
    functions += [
        _function(showings, name, part) for name, (part, weight) in parts.items() if weight
    ]
    return functions, [config.score, *(weight for _, weight in parts.values() if weight)]


def _score_function(
    showings: Sequence[Showing], looking: float
) -> Callable[..., list[float | None]]:
    def score(
        completions: list[Any],
        row: list[int],
        log_metric: Callable[[str, float], None],
        **_: object,
    ) -> list[float | None]:
        rewards: list[float | None] = []
        for number, completion in zip(row, completions, strict=True):
            showing = showings[number]
            value = score_reply(showing.question, reply_of(completion))
            log_metric("score_other_picture" if showing.is_other else "score", value)
            rewards.append(-looking * value if showing.is_other else value)
        return rewards

    return score


def _function(
    showings: Sequence[Showing], name: str, part: Part
) -> Callable[..., list[float | None]]:
    def reward(completions: list[Any], row: list[int], **_: object) -> list[float | None]:
        return [
            None
            if showings[number].is_other
            else part(showings[number].question, reply_of(completion))
            for number, completion in zip(row, completions, strict=True)
        ]

    reward.__name__ = name
    return reward


def reply_of(completion: Any) -> str:  # noqa: ANN401 - TRL's messages
    """Return the words of a completion as TRL hands it over."""
    return str(completion[-1]["content"]) if isinstance(completion, list) else str(completion)
