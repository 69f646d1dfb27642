"""A split of a benchmark, gathered from local files or from the hub.

A path or a task enters, a `Gathered` leaves: parsed rows, what was rejected and why, and where the
images are. `benchmarks` makes a `QuestionSet` of it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medllava.data.benchmarks import files
from medllava.data.benchmarks.hub import hub_archive, hub_of, hub_rows
from medllava.data.benchmarks.prepare import prepared_rows
from medllava.data.benchmarks.row_answers import Row
from medllava.data.benchmarks.rows import Parsed, parse_row
from medllava.data.benchmarks.slake_boxes import SLAKE_DETECTION, iter_box_rows
from medllava.data.benchmarks.task import Task
from medllava.errors import DataError, RecordError
from medllava.layout import QUESTIONS_FILE
from medllava.store import cache_folder, sha256_of

ANY_SPLIT = "any"
_CACHE = "benchmarks"
"""Where images taken out of Parquet files are kept."""
LISTS_BY_SPLIT, LIST_OF_RECORDS = "r2gen", "records"
_NO_ADVICE = "Export them to JSON and image files where they are trusted."


@dataclass(slots=True)
class Gathered:
    """What the files of one split gave."""

    parsed: list[Parsed] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason to number of rows left out."""
    sources: list[Path] = field(default_factory=list)
    sha256: str = ""
    image_dir: Path | None = None
    """None: beside the files, wherever `find_image_folder` finds them."""


def gather_files(path: Path, task: Task | None, split: str | None) -> Gathered:
    """Read a split from a folder or from one file.

    Args:
        path: folder or file.
        task: a shipped one whose copy this is, or None for the user's own.
        split: None takes what is there: a folder's questions or test file, or the file as it is.

    Raises:
        DataError: nothing is there, or a pickle; names the splits that are.
        RecordError: a line of a JSONL file breaks the schema.
    """
    advice = task.pickle_advice if task else _NO_ADVICE
    if not path.exists():
        raise DataError(f"no questions: {path}. Name a JSONL file or a folder that holds one.")
    found, is_filtered = _files_of(path, task, split)
    if not found:
        files.refuse_pickle(path, advice=advice)
        raise DataError(
            f"no questions of split {split or 'test'!r}: {path}. It needs {QUESTIONS_FILE}, "
            "or a JSON, JSONL, Parquet or CSV file named by its split, such as test.json."
        )
    gathered = Gathered(sources=found, sha256=_hash_files(found))
    for file in found:
        files.refuse_pickle(file, advice=advice)
        store = cache_folder(_CACHE) / gathered.sha256[:16]
        name = f"{split or files.split_of(file) or 'test'}" + (
            f"-{file.stem}" if len(found) > 1 else ""
        )
        rows = prepared_rows(_rows_of(file, task), task)
        _parse(rows, gathered, file, name=name, store=store)
    if is_filtered:
        _keep_split(gathered, split, path=path)
    return gathered


def _rows_of(file: Path, task: Task | None) -> Iterator[tuple[int, Row]]:
    if task is not None and task.layout == SLAKE_DETECTION:
        return iter_box_rows(file)
    if task is not None and task.layout == LISTS_BY_SPLIT:
        return files.iter_lists_by_split(file)
    if task is not None and task.layout == LIST_OF_RECORDS and file.suffix == ".json":
        return files.iter_records(file)
    return files.iter_rows(file, task.columns if task else ())


def gather_hub(task: Task, split: str) -> Gathered:
    """Read a split from the hub, at the commit that the task names.

    Raises:
        DataError: the hub copy has no such split.
        RemoteError: the hub cannot be reached.
    """
    hub = hub_of(task)
    if hub.archive and not hub.files:
        return gather_files(hub_archive(task), task, split)
    if hub.files and split not in hub.files:
        raise DataError(
            f"the hub copy of {task.title} is read in the splits {', '.join(hub.files)}, "
            f"not {split!r}. Name a local copy with --data."
        )
    source = Path(f"{hub.id}@{hub.revision}")
    store = cache_folder(_CACHE) / hashlib.sha256(str(source).encode()).hexdigest()[:16]
    gathered = Gathered(sources=[source])
    rows = prepared_rows(hub_rows(task, split), task)
    _parse(rows, gathered, source, name=split, store=store)
    gathered.sha256 = _hash_parsed(gathered.parsed)
    if hub.archive:
        gathered.image_dir = hub_archive(task)
    return gathered


def _files_of(path: Path, task: Task | None, split: str | None) -> tuple[list[Path], bool]:
    """Return the files to read, and whether their rows must be told apart by split."""
    if path.is_file():
        named = files.split_of(path)
        return [path], named is None or (split is not None and split != named)
    own = path / QUESTIONS_FILE
    if own.is_file():
        return [own], split is not None
    wanted = split or "test"
    patterns = task.files if task else {}
    found = files.split_files(path, wanted, patterns.get(wanted, ()))
    if found:
        return found, False
    whole = files.split_files(path, ANY_SPLIT, patterns.get(ANY_SPLIT, ()))
    alone = files.split_files(path, ANY_SPLIT, ("*.jsonl", "*.json"))
    return whole or (alone if len(alone) == 1 else []), True


def _parse(
    rows: Iterable[tuple[int, Row]], gathered: Gathered, file: Path, *, name: str, store: Path
) -> None:
    """Add the questions of a file; circulating copies lose a bad row, the user's own JSONL fails.

    Raises:
        RecordError: a line of a JSONL file breaks the schema.
    """
    seen: Counter[str] = Counter(item.question.id for item in gathered.parsed)
    is_strict = file.suffix == ".jsonl"
    used_store = False
    for number, row in rows:
        stored = files.store_images(row, store)
        used_store |= stored is not row
        row = stored
        where = f"{file}, {'line' if is_strict else 'row'} {number}"
        try:
            for item in parse_row(row, default_id=f"{name}-{number:05d}", where=where):
                gathered.parsed.append(item if is_strict else _unique(item, seen))
        except RecordError as error:
            if is_strict:
                raise
            gathered.rejected[str(error).split(": ")[0]] += 1
    if used_store:
        gathered.image_dir = store


def _unique(item: Parsed, seen: Counter[str]) -> Parsed:
    """Return the item under an id of its own: the second `7` becomes `7#2`."""
    name = item.question.id
    seen[name] += 1
    if seen[name] == 1:
        return item
    return replace(item, question=replace(item.question, id=f"{name}#{seen[name]}"))


def _keep_split(gathered: Gathered, split: str | None, *, path: Path) -> None:
    """Drop rows that say they are of another split; rows that say nothing stay.

    Raises:
        DataError: none is left; names the splits that the rows say.
    """
    stated = {item.split for item in gathered.parsed} - {None}
    wanted = {split or "test"} | set(files.SPLITS.get(split or "test", ()))
    kept = [item for item in gathered.parsed if item.split is None or item.split in wanted]
    if gathered.parsed and not kept:
        named = ", ".join(sorted(str(s) for s in stated))
        raise DataError(f"no question of split {split or 'test'!r} ({named} are there): {path}.")
    gathered.parsed = kept


def _hash_files(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return sha256_of(paths[0])
    lines = "".join(f"{path.name} {sha256_of(path)}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _hash_parsed(parsed: Sequence[Parsed]) -> str:
    lines = "".join(json.dumps(item.question.to_json()) + "\n" for item in parsed)
    return hashlib.sha256(lines.encode()).hexdigest()
