"""Which questions are asked beside which pictures, over a whole run of stage 5.

A `StageRunConfig` enters, questions that can be used and a list of `Showing`s leave, fixed before
the first step, so that a run that goes on shows what it would have shown.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medllava.data.benchmarks.questions import QuestionSet, image_paths
from medllava.data.conversation import question_text
from medllava.data.dropped import DropReason
from medllava.data.other_pictures import OtherPictures
from medllava.errors import DataError, RecipeError
from medllava.images.load import load_image
from medllava.progress import Progress
from medllava.recipe import RewardConfig
from medllava.records import Question
from medllava.train.config import StageRunConfig
from medllava.train.prepare import RANDOM_FOLDER
from medllava.train.rewards import THINK_PROMPT, Showing
from medllava.train.stage_data import find_data


def question_words(question: Question, asked: QuestionSet, rewards: RewardConfig) -> str:
    """Return the words of a question, the same that `eval` asks with, and where to think first."""
    text = question_text(question, closed_prompt=asked.closed_prompt)
    return f"{text}\n{THINK_PROMPT}" if rewards.think else text


def find_questions(config: StageRunConfig) -> QuestionSet:
    """Find the questions: a benchmark's train split, a file, or what the template teacher wrote.

    Raises:
        DataError: nothing is there, or its form is not known.
        RecipeError: several sources are named.
    """
    if config.mixture:
        raise RecipeError("stage 5 takes one source of questions: name one --data.")
    found = find_data(config, made_up=config.output_dir / RANDOM_FOLDER).questions
    if found is None:
        raise DataError(f"no questions with answers: {config.data}.")
    return found


def usable_questions(
    config: StageRunConfig, asked: QuestionSet, progress: Progress
) -> tuple[list[Question], list[Mapping[str, str]]]:
    """Leave out, by name, what has no picture or one that does not open.

    Raises:
        DataError: more than `data.max_dropped` cannot be used, or nothing is left.
    """
    shown = [q for q in asked.questions if q.image is not None and not q.more_images]
    wrong: dict[str, str] = {}
    for image, path in image_paths(asked, shown).items():
        try:
            load_image(path)
        except DataError as error:
            wrong[image] = str(error)
    usable: list[Question] = []
    dropped: list[Mapping[str, str]] = []
    for question in asked.questions:
        reason = detail = ""
        if question.image is None:
            reason = "no picture to look at"
        elif question.more_images:
            reason = "several pictures, and one is shown"
        elif question.image in wrong:
            reason, detail = DropReason.UNREADABLE_IMAGE.value, wrong[question.image]
        if reason:
            dropped.append({"record_id": question.id, "reason": reason, "detail": detail})
        else:
            usable.append(question)
    share = len(dropped) / len(asked.questions)
    if not usable or share > config.recipe.data.max_dropped:
        first = dropped[0]
        raise DataError(
            f"{share:.1%} of the questions cannot be used (the first is {first['record_id']!r}: "
            f"{first['reason']}): {config.data}. Check --image-dir, or allow it with --set "
            f"data.max_dropped={share + 0.005:.2f}."
        )
    if dropped:
        progress.note(f"not used: {len(dropped):,} of {len(asked.questions):,} questions")
    return usable, dropped


def lay_out(
    questions: Sequence[Question],
    images: Mapping[str, Path],
    *,
    per_step: int,
    epochs: float,
    max_steps: int | None,
    looking: bool,
    seed: int,
) -> tuple[list[Showing], int]:
    """Return every showing of a run in order, and the steps they make.

    Args:
        questions: all with a picture.
        images: their files by name.
        per_step: showings of one step; with `looking` about half of them are of other pictures, so
            that a run costs the same with and without.
        epochs: passes over the questions.
        max_steps: fewer or more steps than the passes make; None takes the passes.
        looking: show each question beside another picture too, where there is one.
        seed: of the order and of the other pictures.
    """
    passes = _passes(questions, images, looking=looking, seed=seed)
    if max_steps is None:
        whole, part = divmod(epochs, 1)
        length = sum(len(next(passes)) for _ in range(int(whole)))
        if part:
            length += round(part * len(next(passes)))
        max_steps = max(1, length // per_step)
        passes = _passes(questions, images, looking=looking, seed=seed)
    showings: list[Showing] = []
    while len(showings) < max_steps * per_step:
        showings += next(passes)
    return showings[: max_steps * per_step], max_steps


def _passes(
    questions: Sequence[Question], images: Mapping[str, Path], *, looking: bool, seed: int
) -> Iterator[list[Showing]]:
    others = OtherPictures(questions) if looking else None
    rng = random.Random(seed)
    while True:
        showings = []
        for question in rng.sample(questions, len(questions)):
            showings.append(Showing(question=question, image=images[str(question.image)]))
            other = others.of(question, rng) if others else None
            if other is not None:
                showings.append(Showing(question=question, image=images[other], is_other=True))
        yield showings


def fingerprint_of(showings: Sequence[Showing], closed_prompt: str) -> str:
    """Return a digest of what is asked beside which picture, in order."""
    digest = hashlib.sha256(closed_prompt.encode())
    for showing in showings:
        question = showing.question
        line = [question.id, question.question, question.answer, showing.image.name]
        digest.update("\x00".join([*line, *question.choices]).encode() + b"\n")
    return digest.hexdigest()
