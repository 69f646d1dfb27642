"""A benchmark's copy on the Hugging Face hub: rows by `datasets`, images beside them.

A task and a split enter, rows and the folder of their images leave, at the commit the task names.
What was fetched once is read from the cache of `datasets`, without the network too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.row_answers import Row
from medllava.data.benchmarks.task import Hub, Task
from medllava.errors import DataError, RemoteError


def hub_rows(task: Task, split: str) -> Iterator[tuple[int, Row]]:
    """Yield (number from 1, row) of a split; images stay bytes.

    Raises:
        RemoteError: the hub cannot be reached and nothing is cached; says what to do offline.
    """
    import datasets  # noqa: PLC0415 - costs seconds, only where the hub is asked

    hub = hub_of(task)
    arguments: dict[str, Any] = {}
    if hub.files:
        arguments["data_files"] = {split: hub.files[split]}
    try:
        table = datasets.load_dataset(hub.id, revision=hub.revision, split=split, **arguments)
    except _failures() as error:
        raise _unreachable(task, error) from error
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    yield from enumerate(table, start=1)


def hub_archive(task: Task) -> Path:
    """Fetch and unpack the archive of a task's hub copy; return the folder.

    Raises:
        RemoteError: the hub cannot be reached and nothing is cached.
    """
    import datasets  # noqa: PLC0415 - costs seconds, only where the hub is asked

    hub = hub_of(task)
    folder = Path(hub.id)
    address = f"hf://datasets/{hub.id}@{hub.revision}/{hub.archive}"
    source = str(folder / str(hub.archive)) if folder.is_dir() else address
    try:
        return Path(datasets.DownloadManager().download_and_extract(source))
    except _failures() as error:
        raise _unreachable(task, error) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what the hub's client raises for a network, a login or a file that is not right."""
    import httpx  # noqa: PLC0415 - only where the hub is asked
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    return (OSError, RuntimeError, ValueError, httpx.HTTPError, DatasetsError)


def _unreachable(task: Task, error: Exception) -> RemoteError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    hub = hub_of(task)
    unpack = f" (unpack {hub.archive} in it)" if hub.archive else ""
    return RemoteError(
        f"{task.title} cannot be fetched ({reason:.160}): dataset {hub.id} of the Hugging "
        f"Face hub. Name a local copy with --data; where there is a network, this makes one"
        f"{unpack}: hf download --repo-type dataset {hub.id} --revision {hub.revision} "
        "--local-dir DIR."
    )


def hub_of(task: Task) -> Hub:
    """Return where the hub has a task.

    Raises:
        DataError: it has none that this version has pinned; says where a copy is to be had.
    """
    if task.hub is None:
        raise DataError(
            f"{task.title} is read from a local copy: name it with --data. {task.source}".strip()
        )
    return task.hub
