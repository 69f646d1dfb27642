"""Questions with reference answers: shipped tasks, or any file of the user's own.

A task's name or a path enters, a `QuestionSet` leaves: the questions, where their images are, the
file they came from with its hash, and the rule that made a question open or closed. Evaluation
scores them; stage 3 trains on their train split, in the very words that evaluation asks. No torch
here; pickle is never opened.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medllava.data.benchmarks.disjoint import DISJOINT_SPLITS, disjoint_part
from medllava.data.benchmarks.files import find_image_folder, find_pickles
from medllava.data.benchmarks.gather import Gathered, gather_files, gather_hub
from medllava.data.benchmarks.rows import Parsed
from medllava.data.benchmarks.task import (
    Task,
    compare_counts,
    load_alternatives,
    load_own_task,
    load_task,
    task_names,
)
from medllava.data.conversation import question_text, user_turn
from medllava.data.layouts.items import iter_items
from medllava.data.sources import image_root
from medllava.errors import DataError, RecordError
from medllava.layout import INSTRUCTIONS_FILE, QUESTIONS_FILE
from medllava.records import (
    AnswerType,
    InstructionRecord,
    Question,
    Split,
    Stage,
    Turn,
)
from medllava.store import contained_path


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """One split of one task, ready to be asked."""

    name: str
    version: int = 1
    """Of the task file; numbers of different versions are not to be compared."""
    split: str
    language: str = "en"
    questions: tuple[Question, ...]
    image_dir: Path | None
    """What the questions' `image` is relative to."""
    file: Path
    file_sha256: str
    rule: str
    """How open and closed were told apart, in words."""
    closed_prompt: str = ""
    """Put after closed questions when a model is asked; empty asks exactly as written."""
    notes: tuple[str, ...] = ()
    """What a reader must know: counts beside the published ones, rows left out."""
    advice: str = ""
    """What to do where its images are in a pickle."""

    def describe(self) -> str:
        """Return one line: how many questions of which kind about how many images."""
        counts = count_questions(self.questions)
        reports = counts["questions"] - counts["closed"] - counts["open"]
        kinds = f"{counts['closed']:,} closed and {counts['open']:,} open"
        if reports:
            others = f"{kinds}, " if counts["questions"] > reports else ""
            kinds = f"{others}{reports:,} reports"
        return (
            f"{self.name} {self.split}: {counts['questions']:,} questions about "
            f"{counts['images']:,} images, {kinds} ({self.rule})"
        )


def load_questions(
    task: str,
    *,
    data: Path | None = None,
    split: str | None = None,
    image_dir: Path | None = None,
    language: str = "en",
) -> QuestionSet:
    """Read the questions of a task.

    Args:
        task: name of a shipped task, or a path.
        data: a local copy of a shipped task; None fetches it from the hub.
        split: `train`, `validation`, `test` or another of the task's own; `disjoint-train` and
            `disjoint-test` divide all questions anew so that no image is in both.
        image_dir: the user's own choice, which wins.
        language: of the questions, where a task has several.

    Raises:
        DataError: nothing is there, or its form is not known, or it is a pickle.
        RecordError: a line of a JSONL file breaks the schema; names file and line.
        RemoteError: the hub cannot be reached.
    """
    own = Path(task)
    is_shipped = task in task_names() or data is not None or not own.exists()
    if own.suffix == ".toml" and own.is_file():
        shipped: Task | None = load_own_task(own)
    else:
        shipped = load_task(task) if is_shipped else None
    if shipped is not None and language not in shipped.languages:
        known = ", ".join(shipped.languages)
        raise DataError(f"{shipped.title} has no questions in {language!r}. Choose from {known}.")
    path = _data_of(shipped, data) if shipped else own
    wanted = split or (shipped.default_split if shipped else None)
    if wanted is not None and wanted in DISJOINT_SPLITS:
        gathered = _gather_all(path, shipped)
        gathered.parsed = disjoint_part(gathered.parsed, wanted)
    else:
        gathered = _gather(path, shipped, wanted)
    parsed = [item for item in gathered.parsed if item.language in (None, language)]
    questions = _with_alternatives(shipped, [item.question for item in parsed])
    file = gathered.sources[0] if len(gathered.sources) == 1 else path or gathered.sources[0]
    check_questions(questions, file=file)
    return QuestionSet(
        name=shipped.name if shipped else (own.stem if own.is_file() else own.resolve().name),
        version=shipped.version if shipped else 1,
        split=wanted or "test",
        language=language,
        questions=questions,
        image_dir=_image_dir(
            gathered, path or file, questions, chosen=image_dir or _image_dir_of(shipped, path)
        ),
        file=file,
        file_sha256=gathered.sha256,
        rule=_rule(parsed),
        closed_prompt=shipped.prompt(language) if shipped else "",
        notes=_notes(shipped, wanted or "test", language, questions, gathered),
        advice=shipped.pickle_advice if shipped else "",
    )


def load_asked(source: str, *, image_dir: Path | None) -> QuestionSet:
    """Read questions to learn from: a benchmark's train split, a file, or a folder that has one.

    Raises:
        DataError: nothing is there, or its form is not known.
    """
    path = Path(source)
    if (path / QUESTIONS_FILE).is_file():
        path = path / QUESTIONS_FILE
    split = None if path.is_file() else Split.TRAIN.value
    return load_questions(str(path) if path.exists() else source, split=split, image_dir=image_dir)


def check_questions(questions: Sequence[Question], *, file: Path) -> None:
    """Refuse an empty set and ids that occur twice.

    Raises:
        DataError: there is no question.
        RecordError: names the id.
    """
    if not questions:
        raise DataError(f"no question in it: {file}. Check the file, the split and the language.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise RecordError(f"id {question.id!r} occurs twice: {file}. Make ids unique.")
        seen.add(question.id)


def count_questions(questions: Sequence[Question]) -> dict[str, int]:
    """Return how many `questions`, `open`, `closed` and `images` there are."""
    kinds = Counter(question.answer_type for question in questions)
    return {
        "questions": len(questions),
        "open": kinds[AnswerType.OPEN],
        "closed": kinds[AnswerType.CLOSED],
        "images": len({image for question in questions for image in question.images}),
    }


def finetune_records(questions: QuestionSet) -> Iterator[InstructionRecord]:
    """Yield what stage 3 learns from: every question as evaluation asks it, and its answer.

    The answer to multiple choice is the letter, as `closed_prompt` of those tasks wants it.
    """
    split = Split.TRAIN if "train" in questions.split else Split.TEST
    for question in questions.questions:
        text = question_text(question, closed_prompt=questions.closed_prompt)
        images = question.images
        answer = question.answer
        if question.answers and question.choices:
            letters = [chr(ord("A") + question.choices.index(one)) for one in question.answers]
            answer = ", ".join(letters)
        elif question.choices:
            answer = chr(ord("A") + question.choices.index(answer))
        yield InstructionRecord(
            record_id=question.id,
            images=images,
            turns=(
                user_turn(text, num_images=len(images)),
                Turn(role="assistant", content=answer, answer_type=question.answer_type),
            ),
            stage=Stage.FINETUNE,
            split=Split.VALIDATION if questions.split == Split.VALIDATION else split,
        )


def image_paths(task: QuestionSet, questions: Sequence[Question]) -> dict[str, Path]:
    """Return the file of every image the questions name, all of them looked for.

    Raises:
        DataError: images are missing, or are in a pickle; says how many and what to do.
    """
    root = task.image_dir or task.file.parent
    images = sorted({image for question in questions for image in question.images})
    paths = {image: contained_path(root, image) for image in images}
    missing = [image for image, path in paths.items() if not path.is_file()]
    if missing:
        named = ", ".join(missing[:3])
        pickles = find_pickles(root) if root.is_dir() else []
        advice = "Name their folder with --image-dir."
        if pickles:
            advice = f"Pickles such as {pickles[0].name} are never opened. {task.advice or advice}"
        raise DataError(
            f"{len(missing):,} of {len(paths):,} images are not there ({named}): {root}. {advice}"
        )
    return paths


def _gather(path: Path | None, task: Task | None, split: str | None) -> Gathered:
    if path is not None:
        return gather_files(path, task, split)
    assert task is not None  # noqa: S101 - without a path there is a task
    return gather_hub(task, split or task.default_split)


def _gather_all(path: Path | None, task: Task | None) -> Gathered:
    """Gather train, validation and test into one; ids get their split where they would collide.

    Raises:
        DataError: there is no train or no test split.
    """
    whole = Gathered()
    seen: set[str] = set()
    for split in Split:
        try:
            part = _gather(path, task, split.value)
        except DataError:
            if split is Split.VALIDATION:
                continue
            raise
        for item in part.parsed:
            name = item.question.id
            if name in seen:
                name = f"{split.value}-{name}"
                item = replace(item, question=replace(item.question, id=name))
            seen.add(name)
            whole.parsed.append(item)
        whole.rejected += part.rejected
        whole.sources += [source for source in part.sources if source not in whole.sources]
        whole.sha256 += part.sha256
        whole.image_dir = whole.image_dir or part.image_dir
    whole.sha256 = hashlib.sha256(whole.sha256.encode()).hexdigest()
    return whole


def _data_of(task: Task, data: Path | None) -> Path | None:
    """Return where a task is read from: the user's choice, or what its own file names."""
    return Path(task.data) if data is None and task.data else data


def _image_dir_of(task: Task | None, path: Path | None) -> Path | None:
    if task is None or task.image_dir is None or path is None:
        return None
    return (path if path.is_dir() else path.parent) / task.image_dir


def _with_alternatives(task: Task | None, questions: Sequence[Question]) -> tuple[Question, ...]:
    """Give the closed "or" questions of a task the answers they offer, where these are known."""
    if task is None or not task.has_alternatives:
        return tuple(questions)
    known = load_alternatives(task.name)
    return tuple(
        replace(question, alternatives=known.get(_plain(question.question), ()))
        if question.answer_type is AnswerType.CLOSED and not question.choices
        else question
        for question in questions
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _image_dir(
    gathered: Gathered, path: Path, questions: Sequence[Question], *, chosen: Path | None
) -> Path:
    if chosen is not None:
        return chosen
    root = gathered.image_dir or image_root(path, None)
    images = [image for question in questions for image in question.images]
    folders = [root, *(source.parent for source in gathered.sources if source.exists())]
    return next((f for f in (find_image_folder(r, images) for r in folders) if f), root)


def _rule(parsed: Sequence[Parsed]) -> str:
    """Return the rule in words; several, each with its number of questions, where rows differ."""
    rules = Counter(item.rule for item in parsed)
    if len(rules) == 1:
        return next(iter(rules))
    return "; ".join(f"{rule} ({count:,})" for rule, count in rules.most_common())


def _notes(
    task: Task | None,
    split: str,
    language: str,
    questions: Sequence[Question],
    gathered: Gathered,
) -> tuple[str, ...]:
    notes = [f"{count:,} rows left out: {reason}." for reason, count in gathered.rejected.items()]
    if task is not None:
        found = count_questions(questions)
        notes.append(compare_counts(task, split=split, language=language, found=found))
        notes += task.notes
    return tuple(notes)


def holds_questions(path: Path) -> bool:
    """Tell questions with answers, or a benchmark's own folder, from instructions."""
    if path.is_dir():
        return not (path / INSTRUCTIONS_FILE).is_file()
    if path.suffix != ".jsonl":
        return False
    first = next(iter_items(path), None)
    return (
        first is not None
        and isinstance(first.value, dict)
        and {"question", "answer"} <= first.value.keys()
    )
