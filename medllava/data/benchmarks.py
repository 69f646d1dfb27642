"""Questions with reference answers: shipped tasks, or any file of the user's own.

A task's name or a path enters, a `QuestionSet` leaves: the questions, where their images are, the
file they came from with its hash, and the rule that made a question open or closed. Evaluation
scores them; stage 3 trains on their train split. No torch here; pickle is never opened.
"""

from dataclasses import dataclass
from pathlib import Path

from medllava.data.sources import image_root
from medllava.errors import DataError, RecordError
from medllava.records import Question
from medllava.store import iter_jsonl, sha256_of

QUESTIONS_FILE = "questions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """One split of one task, ready to be asked."""

    name: str
    version: int = 1
    """Of the task file; numbers of different versions are not to be compared."""
    split: str
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
    """What a reader must know: counts that differ from the published ones, rows left out."""


def load_questions(
    task: str,
    *,
    data: Path | None = None,
    split: str | None = None,
    image_dir: Path | None = None,
) -> QuestionSet:
    """Read the questions of a task.

    Args:
        task: name of a shipped task, or a path.
        data: a local copy of a shipped task.
        split: `train`, `validation` or `test`.
        image_dir: the user's own choice, which wins.

    Raises:
        DataError: nothing is there, or its form is not known.
        RecordError: a question breaks the schema; names file and line.
    """
    path = data or Path(task)
    file = path / QUESTIONS_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"no questions: {file}. Name a JSONL file or a folder that holds one.")
    questions = tuple(
        Question.from_json(values, where=f"{file}, line {number}")
        for number, values in iter_jsonl(file)
    )
    check_questions(questions, file=file)
    return QuestionSet(
        name=path.stem if path.is_file() else path.name,
        split=split or "test",
        questions=questions,
        image_dir=image_root(path, image_dir),
        file=file,
        file_sha256=sha256_of(file),
        rule="the answer_type of each line",
    )


def check_questions(questions: tuple[Question, ...], *, file: Path) -> None:
    """Refuse an empty set and ids that occur twice.

    Raises:
        DataError: there is no question.
        RecordError: names the id.
    """
    if not questions:
        raise DataError(f"no question in it: {file}. Check the file and the split.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise RecordError(f"id {question.id!r} occurs twice: {file}. Make ids unique.")
        seen.add(question.id)
