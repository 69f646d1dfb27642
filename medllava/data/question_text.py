"""Questions as turns: the one wording that stage 3 learns and evaluation asks.

A `Question` enters; what the user says leaves, and for training the reference answer after it.
"""

from collections.abc import Iterable, Iterator

from medllava.data.benchmarks import QuestionSet
from medllava.records import (
    IMAGE_TOKEN,
    AnswerType,
    InstructionRecord,
    Question,
    Split,
    Stage,
    Turn,
)


def prompt_text(question: Question, *, closed_prompt: str) -> str:
    """Return what the user says: the question, its choices, and how to answer if it is closed."""
    lines = [question.question.strip()]
    lines += [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(question.choices)]
    if question.answer_type is AnswerType.CLOSED and closed_prompt:
        lines.append(closed_prompt)
    return "\n".join(lines)


def with_images(text: str, num_images: int) -> str:
    """Put one placeholder per image before what the user says."""
    return f"{IMAGE_TOKEN}\n" * num_images + text


def iter_question_records(
    questions: Iterable[Question], *, task: QuestionSet
) -> Iterator[InstructionRecord]:
    """Yield questions with their reference answers as records to train on."""
    for question in questions:
        text = prompt_text(question, closed_prompt=task.closed_prompt)
        images = () if question.image is None else (question.image,)
        yield InstructionRecord(
            record_id=question.id,
            images=images,
            turns=(
                Turn(role="user", content=with_images(text, len(images))),
                Turn(role="assistant", content=question.answer.strip()),
            ),
            stage=Stage.FINETUNE,
            split=Split.TRAIN,
        )
