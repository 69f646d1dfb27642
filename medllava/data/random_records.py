"""Made-up records with made-up images, for recipes of random parts: nothing in them means anything.

They have what real ones have: captions of very different lengths, several turns, several images in
one record, and text without any image.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from medllava.data.conversation import user_turn
from medllava.layout import INSTRUCTIONS_FILE, PREFERENCES_FILE, QUESTIONS_FILE
from medllava.records import (
    AnswerType,
    InstructionRecord,
    PreferenceRecord,
    Question,
    Stage,
    Turn,
)
from medllava.store import JsonlWriter, atomic_path

RANDOM_DATA = "random"
"""Value of `--data`, or of a stage's `data`, that makes these."""

_WORDS = ("axial", "lesion", "lung", "left", "section", "normal", "contrast", "cell", "arrow", "no")
_SIDE = 40
_TEXT_ONLY_EVERY = 10
_TWO_IMAGES_EVERY = 7


def write_random_records(folder: Path, *, count: int = 48, seed: int = 0) -> Path:
    """Write an instructions folder with its images, unless it is there already.

    Args:
        folder: made if absent.
        count: records.
        seed: of everything in them.

    Returns:
        `folder`.
    """
    if (folder / INSTRUCTIONS_FILE).is_file():
        return folder
    random = np.random.default_rng(seed)
    with atomic_path(folder / INSTRUCTIONS_FILE) as file, JsonlWriter(file) as writer:
        for number in range(count):
            record = _make_record(number, random)
            for name in record.images:
                pixels = random.integers(0, 256, (_SIDE, _SIDE + number % 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name)
            writer.write(record.to_json())
    return folder


def write_random_questions(folder: Path, *, count: int = 24, seed: int = 0) -> Path:
    """Write made-up questions with their images, unless they are there already.

    Args:
        folder: made if absent.
        count: questions, every other one closed.
        seed: of everything in them.

    Returns:
        The file of the questions.
    """
    file = folder / QUESTIONS_FILE
    if file.is_file():
        return file
    random = np.random.default_rng(seed)
    with atomic_path(file) as temporary, JsonlWriter(temporary) as writer:
        for number in range(count):
            image = f"{number}.png"
            pixels = random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image)
            is_closed = number % 2 == 0
            question = Question(
                id=f"random-{number}",
                image=image,
                question="Is it normal?" if is_closed else "What is it?",
                answer=("yes", "no")[number // 2 % 2] if is_closed else _say(random, 1),
                answer_type=AnswerType.CLOSED if is_closed else AnswerType.OPEN,
                modality=("ct", "mri")[number // 4 % 2],
            )
            writer.write(question.to_json())
    return file


def write_random_preferences(folder: Path, *, count: int = 24, seed: int = 0) -> Path:
    """Write made-up pairs of replies with their images, unless they are there already.

    Args:
        folder: made if absent.
        count: pairs.
        seed: of everything in them.

    Returns:
        `folder`.
    """
    file = folder / PREFERENCES_FILE
    if file.is_file():
        return folder
    random = np.random.default_rng(seed)
    with atomic_path(file) as temporary, JsonlWriter(temporary) as writer:
        for number in range(count):
            image = f"{number}.png"
            pixels = random.integers(0, 256, (_SIDE, _SIDE + number % 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image)
            record = PreferenceRecord(
                record_id=f"random-{number}",
                images=(image,),
                turns=(user_turn(_say(random, 4), num_images=1),),
                chosen=f"normal {_say(random, 3)}",
                rejected=f"lesion {_say(random, 3)}",
                rejected_by="rule:random",
                license="CC0-1.0",
            )
            writer.write(record.to_json())
    return folder


def _make_record(number: int, random: np.random.Generator) -> InstructionRecord:
    images = [f"{number}-{i}.png" for i in range(1 + (number % _TWO_IMAGES_EVERY == 0))]
    if number % _TEXT_ONLY_EVERY == 1:
        images = []
    turns = []
    for lap in range(int(random.integers(1, 4))):
        turns += [
            user_turn(_say(random, 6), num_images=len(images) if lap == 0 else 0),
            Turn(role="assistant", content=_say(random, int(random.integers(1, 25)))),
        ]
    return InstructionRecord(
        record_id=f"random-{number}",
        images=tuple(images),
        turns=tuple(turns),
        stage=Stage.INSTRUCT,
        license="CC0-1.0",
    )


def _say(random: np.random.Generator, count: int) -> str:
    return " ".join(_WORDS[i] for i in random.integers(0, len(_WORDS), count)) + "."
