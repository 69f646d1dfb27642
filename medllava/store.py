"""Files that survive a kill at any byte: atomic replacement, append-only lines, a journal.

Every step writes through here. A whole file appears under its final name only when it is complete;
a line file may end in a torn line after a kill, which the next writer cuts off; a journal says
which keys are done, so that a step that is run again continues.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeVar

from medllava.errors import DataError, RecordError
from medllava.records import Record

R = TypeVar("R", bound=Record)

# `json.dumps` with options makes an encoder for every line.
_encode_line = json.JSONEncoder(ensure_ascii=False, default=str).encode


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as handle:  # Windows syncs only what may be written
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON is any
    """Write indented JSON atomically, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is any
    """Parse a JSON file.

    Raises:
        DataError: the file is absent or is not JSON; names the file and the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such file: {path}. Check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON ({error}): {path}. Check how it was made.") from None


def read_record(path: Path, kind: type[R]) -> R:
    """Read a JSON file that is one record.

    Raises:
        DataError: the file is absent or is not JSON.
        RecordError: it is no such record; names the file and the field.
    """
    values = read_json(path)
    if not isinstance(values, Mapping):
        raise RecordError(f"expected a JSON object: {path}. Check how it was made.")
    return kind.from_json(values, where=str(path))


def iter_jsonl(
    path: Path, *, allow_torn_tail: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every non-empty line.

    Args:
        path: a JSONL file.
        allow_torn_tail: skip a last line without newline that does not parse, as a kill leaves it.

    Raises:
        DataError: the file is absent.
        RecordError: a line is not a JSON object; names file and line.
    """
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}. Check the path.") from None
    with handle:
        for number, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw)
            except ValueError as error:
                if allow_torn_tail and not raw.endswith(b"\n"):
                    return
                raise RecordError(f"not valid JSON ({error}): {path}, line {number}.") from None
            if not isinstance(value, dict):
                raise RecordError(f"expected a JSON object: {path}, line {number}.")
            yield number, value


def write_jsonl(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects atomically, one line each."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for value in values:
            handle.write(_encode_line(value) + "\n")


class JsonlWriter:
    """Append JSON objects to a file, one line each; a torn last line is cut off on opening."""

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        """Open `path` for appending.

        Args:
            path: created with its folder if absent.
            sync: fsync after every line, for lines that cost money.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_tail(path)
        self._handle = path.open("ab")
        self._sync = sync

    def write(self, value: dict[str, Any]) -> int:
        """Append one object, hand it to the operating system, and return the line's offset."""
        offset = self._handle.tell()
        self._handle.write(_encode_line(value).encode() + b"\n")
        self._handle.flush()
        if self._sync:
            self.sync()
        return offset

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


class Journal:
    """Keys that are done, with what was learned about each, on disk as JSONL."""

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        """Read what an earlier run left at `path` and open it for more."""
        self._entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            for _, entry in iter_jsonl(path, allow_torn_tail=True):
                self._entries[str(entry.get("key"))] = entry
        self._writer = JsonlWriter(path, sync=sync)

    def __contains__(self, key: str) -> bool:
        """Tell whether `key` was marked, now or in an earlier run."""
        return key in self._entries

    def __len__(self) -> int:
        """Return how many keys are marked."""
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        """Yield the marked keys, in the order in which they were first marked."""
        return iter(self._entries)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the facts stored with `key`."""
        return self._entries[key]

    def mark(self, key: str, **facts: Any) -> None:  # noqa: ANN401 - JSON is any
        """Record that `key` is done, with facts worth keeping."""
        entry = {"key": key, **facts}
        self._writer.write(entry)
        self._entries[key] = entry

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, so that two runs cannot interleave their lines.

    Raises:
        DataError: another process holds it.
    """
    import filelock  # noqa: PLC0415 - it brings asyncio, and reading needs no lock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise DataError(
            f"another run is writing here: {folder}. Wait for it, or name another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a file for this process, waiting for others that do."""
    import filelock  # noqa: PLC0415 - as above

    with filelock.FileLock(path):
        yield


def cache_folder(name: str) -> Path:
    """Return where what can be made again is kept for all runs of a user.

    Args:
        name: of the kind of things.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "medllava" / name


def contained_path(root: Path, relative: str) -> Path:
    """Join `relative` to `root`, refusing any way out of it.

    Raises:
        DataError: the path is absolute, climbs with `..`, or leaves through a link.
    """
    pure = PurePosixPath(relative.replace("\\", "/"))
    path = root / pure
    if (
        pure.is_absolute()
        or ".." in pure.parts
        or not path.resolve().is_relative_to(root.resolve())
    ):
        raise DataError(f"path leaves its folder: {relative!r} in {root}. Use a relative path.")
    return path


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _cut_torn_tail(path: Path) -> None:
    """Truncate `path` after its last newline."""
    if not path.exists():
        return
    with path.open("rb+") as handle:
        end = handle.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 65536)
            handle.seek(start)
            newline = handle.read(position - start).rfind(b"\n")
            if newline >= 0:
                if start + newline + 1 < end:
                    handle.truncate(start + newline + 1)
                return
            position = start
        handle.truncate(0)
