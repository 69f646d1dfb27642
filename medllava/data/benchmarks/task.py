"""Shipped tasks: a TOML file each says where a benchmark is, what it holds, how it is asked.

A name enters, a `Task` leaves. `benchmarks` reads the questions by it, a report shows its published
rows. A file's `version` rises when its numbers stop being comparable with earlier ones.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medllava.errors import DataError

_FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where the Hugging Face hub has a copy."""

    id: str
    """Dataset id, or a local folder with the same files."""
    revision: str
    """Commit; other revisions may hold other questions."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split to file; empty: the dataset's own splits."""
    archive: str | None = None
    """Archive of the images, and of the questions where `files` is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one circulating copy of one split is known to hold."""

    copy: str
    split: str
    questions: int
    language: str = "en"
    open: int | None = None
    closed: int | None = None
    images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Rows of one published table."""

    protocol: str
    """Whose rules scored them; numbers of different protocols are not to be compared."""
    setting: str
    columns: tuple[str, ...]
    """`open`, `closed` or `all`."""
    source: str
    rows: tuple[tuple[Any, ...], ...]
    """Name of the system, then one percentage per column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One benchmark."""

    name: str
    version: int = 1
    title: str
    license: str = "not stated"
    default_split: str = "test"
    closed_prompt: str = ""
    """Put after closed questions when a model is asked or trained."""
    closed_prompt_zh: str = ""
    pickle_advice: str = "Export them to JSON and image files where they are trusted."
    """What to take where a copy has its data in pickle files."""
    languages: tuple[str, ...] = ("en",)
    notes: tuple[str, ...] = ()
    hub: Hub | None = None
    """None: it is read from a local copy only."""
    source: str = ""
    """Where a copy is to be had, in words."""
    data: str | None = None
    """Its local copy, relative to a task file of one's own."""
    image_dir: str | None = None
    """Where its images are, relative to the data; None looks for them."""
    layout: str = ""
    """`slake-detection`: files of boxes beside their images; `r2gen`: one JSON object with a list
    of rows under each split; `records`: one with its rows under `records`; empty: rows of
    questions."""
    kind: str = ""
    """`report`: every answer is a whole report; empty: as each row says."""
    ask: str = ""
    """The question of rows that have none, such as those of reports."""
    columns: tuple[str, ...] = ()
    """Our names of the columns of its `.txt` files, in which `|` stands between fields; `?` after
    one that some files have not."""
    image_suffix: str = ""
    """Put after image names that are written without it."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Our name of a field to its name in the rows, where the table of known names does not do."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field to the values that are kept; other rows are of other tasks."""
    group_by: tuple[str, ...] = ()
    """Fields whose values together name the questions that count as one for `group_accuracy`."""
    strip_group: str = ""
    """Regular expression of what the values of `group_by` differ in inside one group."""
    empty_answer: str | None = None
    """What an empty list of answers means; None: the row is left out."""
    has_alternatives: bool = False
    """`alternatives/NAME.json` has the answers that its "or" questions offer."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split to file patterns in a local copy, before the usual names; `any` for all splits."""
    counts: tuple[Counts, ...] = ()
    published: tuple[Published, ...] = ()

    def prompt(self, language: str) -> str:
        """Return the answer-format prompt for closed questions in `language`."""
        return self.closed_prompt_zh if language == "zh" else self.closed_prompt


def task_names() -> tuple[str, ...]:
    """Return the names of the shipped tasks."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


def load_task(name: str) -> Task:
    """Read a shipped task.

    Raises:
        DataError: no task has this name; offers the nearest.
    """
    file = _FOLDER / f"{name}.toml"
    if name not in task_names():
        near = difflib.get_close_matches(name, task_names(), n=1)
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task_names())}."
        raise DataError(f"no task, file or folder has this name: {name!r}; {known}")
    return _build(name, tomllib.loads(file.read_text(encoding="utf-8")))


def load_own_task(file: Path) -> Task:
    """Read a task file of the user's own; its `data` is relative to the file.

    Raises:
        DataError: it is not TOML, has a setting that is none, or no `data`; names file and setting.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"not a task in TOML ({error}): {file}.") from None
    known = {f.name for f in fields(Task)} - {"name"}
    unknown = sorted(set(values) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}."
        raise DataError(f"{unknown[0]!r} is not a setting of a task: {file}; {advice}")
    if not isinstance(values.get("data"), str):
        raise DataError(f"a task needs data, the path of its questions: {file}.")
    try:
        task = _build(file.stem, {"title": file.stem, **values})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"a setting of this task has another form ({error}): {file}.") from None
    return replace(task, data=str(file.parent / values["data"]))


def load_alternatives(name: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return what "or" questions of a task offer: question in lower case to wordings."""
    file = _FOLDER.parent / "alternatives" / f"{name}.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return {asked: tuple(tuple(one) for one in offered) for asked, offered in found.items()}


def _build(name: str, values: dict[str, Any]) -> Task:
    if "hub" in values:
        values["hub"] = Hub(**values["hub"])
    values["counts"] = tuple(Counts(**item) for item in values.get("counts", ()))
    values["published"] = tuple(_published(item) for item in values.get("published", ()))
    values["files"] = {key: tuple(names) for key, names in values.get("files", {}).items()}
    values["where"] = {key: tuple(kept) for key, kept in values.get("where", {}).items()}
    for key in ("languages", "notes", "group_by", "columns"):
        if key in values:
            values[key] = tuple(values[key])
    return Task(name=name, **values)


def compare_counts(task: Task, *, split: str, language: str, found: Mapping[str, int]) -> str:
    """Say which circulating copy has exactly these counts, or how the nearest differs.

    Args:
        task: with the published counts.
        split: what was read.
        language: of the questions that were kept.
        found: `questions`, `open`, `closed`, `images`.
    """
    known = [c for c in task.counts if (c.split, c.language) == (split, language)]
    if not known:
        return f"no published counts for {split} ({language}) to check against."
    differences = [(_differences(counts, found), counts.copy) for counts in known]
    for difference, copy in differences:
        if not difference:
            return f"counts are those of {copy}."
    difference, copy = min(differences, key=lambda item: _distance(known, item[1], found))
    return f"counts differ from every published copy; from {copy}: {', '.join(difference)}."


def published_rows(name: str) -> list[dict[str, Any]]:
    """Return the published rows of a task as plain values, or nothing for a file of one's own."""
    if name not in task_names():
        return []
    return [
        {
            "system": row[0],
            "protocol": table.protocol,
            "setting": table.setting,
            "scores": dict(zip(table.columns, row[1:], strict=True)),
            "source": table.source,
        }
        for table in load_task(name).published
        for row in table.rows
    ]


def _published(item: Mapping[str, Any]) -> Published:
    return Published(
        protocol=item["protocol"],
        setting=item["setting"],
        columns=tuple(item["columns"]),
        source=item["source"],
        rows=tuple(tuple(row) for row in item["rows"]),
    )


def _differences(counts: Counts, found: Mapping[str, int]) -> list[str]:
    return [
        f"{name} {value:,}, published {getattr(counts, name):,}"
        for name, value in found.items()
        if getattr(counts, name) is not None and getattr(counts, name) != value
    ]


def _distance(known: Sequence[Counts], copy: str, found: Mapping[str, int]) -> int:
    return abs(next(c for c in known if c.copy == copy).questions - found["questions"])
