"""What passed all rules and gates, on its way to the records.

A conversation becomes one record at once. Questions with short answers or choices become a record
and a `Question` each; they wait until all are there, because a question that its words alone answer
shows itself only beside the others.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from medllava.data.conversation import question_text
from medllava.instruct.alignment import draw, place_image
from medllava.instruct.config import GenerateConfig, ImagePosition, Kind
from medllava.instruct.filters import count_words
from medllava.instruct.option_gates import FEW_OPTIONS
from medllava.instruct.output import InstructionsWriter
from medllava.instruct.parse import Dropped, Pair
from medllava.instruct.prompts import PROMPTS
from medllava.instruct.shortcuts import find_shortcuts, text_only_accuracy
from medllava.llm.protocol import ChatReply
from medllava.llm.runner import Outcome
from medllava.records import (
    AnswerType,
    FigureRecord,
    InstructionRecord,
    Modality,
    Question,
    Stage,
    Turn,
)

_MOST_SHORT_WORDS = 12
"""Of the answer to a question of kind `vqa`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Pairs that passed all rules and gates."""

    figure: FigureRecord
    pairs: tuple[Pair, ...]
    reply: ChatReply
    outcome: Outcome
    scores: dict[str, float]
    """Means over the pairs, by name."""


def of_kind(pairs: tuple[Pair, ...], kind: Kind) -> tuple[tuple[Pair, ...], tuple[Dropped, ...]]:
    """Return the pairs that are what was asked for, and those that are not."""

    def misfit(pair: Pair) -> str | None:
        if kind is Kind.CHOICE and not pair.options:
            return FEW_OPTIONS
        if kind is Kind.VQA and count_words(pair.answer) > _MOST_SHORT_WORDS:
            return "too_long"
        return None

    # Whoever writes options where none were asked for has given an answer all the same.
    plain = [pair if kind is Kind.CHOICE else replace(pair, wrong_options=()) for pair in pairs]
    judged = [(pair, misfit(pair)) for pair in plain]
    return (
        tuple(pair for pair, rule in judged if rule is None),
        tuple(Dropped(rule, pair.question, pair.answer) for pair, rule in judged if rule),
    )


class CandidateWriter:
    """Writes candidates as records of the kind that was asked for."""

    def __init__(self, config: GenerateConfig, writer: InstructionsWriter) -> None:
        """Begin with none."""
        self._config, self._writer = config, writer
        self.by_modality: Counter[Modality | None] = Counter()
        """Conversations so far."""
        self._waiting: list[tuple[InstructionRecord, Question]] = []
        self._letters: Counter[int] = Counter()
        self._facts: dict[str, Any] = {}

    def take(self, candidate: Candidate) -> None:
        """Write a conversation; keep single questions until `finish`."""
        if self._config.kind is Kind.CONVERSATION:
            is_written = self._writer.write(_build_record(self._config, candidate))
            self.by_modality[candidate.figure.modality] += is_written
            return
        for number, pair in enumerate(candidate.pairs, start=1):
            question = self._question(candidate.figure, pair, number)
            self._waiting.append((_question_record(self._config, candidate, question), question))

    def finish(self) -> None:
        """Write the questions that the picture is needed for; drop the others by rule."""
        if not self._waiting:
            return
        questions = [question for _, question in self._waiting]
        shortcuts = find_shortcuts(questions, seed=self._config.seed)
        kept = [question for question in questions if question.id not in shortcuts]
        for record, question in self._waiting:
            rule = shortcuts.get(question.id)
            if rule is None:
                self._writer.write(record)
                self._writer.write_question(question)
            else:
                figure_id = record.figure_id or record.record_id
                self._writer.drop_turn(figure_id, rule, question.question, question.answer)
        self._facts = text_only_accuracy(kept)

    def facts(self) -> dict[str, Any]:
        """Return what words alone are worth in the questions that were written."""
        return self._facts

    def _question(self, figure: FigureRecord, pair: Pair, number: int) -> Question:
        question_id = f"{figure.figure_id}#{number}"
        word = pair.answer.strip(" .").lower()
        is_closed = bool(pair.options) or word in ("yes", "no")
        return Question(
            id=question_id,
            image=figure.images[0],
            question=pair.question,
            answer=pair.answer.strip(" .").lower()
            if is_closed and not pair.options
            else pair.answer,
            answer_type=AnswerType.CLOSED if is_closed else AnswerType.OPEN,
            choices=self._deal(pair, question_id),
            modality=None if figure.modality is None else figure.modality.value,
        )

    def _deal(self, pair: Pair, question_id: str) -> tuple[str, ...]:
        """Put the right option at the letter that was right least often so far."""
        if not pair.options:
            return ()
        drawn = draw(self._config.seed, question_id)
        places = range(len(pair.options))
        fewest = min(self._letters[place] for place in places)
        free = [place for place in places if self._letters[place] == fewest]
        place = free[drawn % len(free)]
        self._letters[place] += 1
        wrong = sorted(
            pair.wrong_options, key=lambda o: draw(self._config.seed, f"{question_id}:{o}")
        )
        return (*wrong[:place], pair.answer, *wrong[place:])


def _question_record(
    config: GenerateConfig, candidate: Candidate, question: Question
) -> InstructionRecord:
    """Return the record of one question, asked as evaluation asks it."""
    figure = candidate.figure
    answer = question.answer
    if question.choices:
        answer = chr(ord("A") + question.choices.index(answer))
    position = (config.image_position or ImagePosition.BEFORE).value
    text = place_image(
        question_text(question),
        position,
        draw=draw(config.seed, question.id),
        num_images=len(figure.images),
    )
    return _record(
        config,
        candidate,
        question.id,
        (
            Turn(role="user", content=text),
            Turn(role="assistant", content=answer, answer_type=question.answer_type),
        ),
    )


def _build_record(config: GenerateConfig, candidate: Candidate) -> InstructionRecord:
    """Return the record; the image token goes to the first question that was kept."""
    figure = candidate.figure
    position = (config.image_position or ImagePosition.BEFORE).value
    turns: list[Turn] = []
    for pair in candidate.pairs:
        question = pair.question
        if not turns:
            place = draw(config.seed, figure.figure_id)
            question = place_image(question, position, draw=place, num_images=len(figure.images))
        turns.append(Turn(role="user", content=question))
        turns.append(Turn(role="assistant", content=pair.answer))
    return _record(config, candidate, figure.figure_id, tuple(turns))


def _record(
    config: GenerateConfig, candidate: Candidate, record_id: str, turns: tuple[Turn, ...]
) -> InstructionRecord:
    figure, reply, outcome = candidate.figure, candidate.reply, candidate.outcome
    return InstructionRecord(
        record_id=record_id,
        images=figure.images,
        turns=turns,
        stage=Stage.INSTRUCT,
        teacher=config.teacher,
        figure_id=figure.figure_id,
        modality=figure.modality,
        license=figure.license,
        split=figure.split,
        provenance={
            "version": PROMPTS[config.kind].version,
            "model": reply.model,
            **candidate.scores,
            "inline_mentions": config.inline_mentions,
            "see_image": config.see_image,
            "time": outcome.time,
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
            "cost_usd": None if outcome.cost_usd is None else round(outcome.cost_usd, 8),
        },
    )
