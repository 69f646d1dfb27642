"""Records to token ids, kept on disk: a second start reads what the first one tokenized.

Chunks of records enter, ids and labels leave in the same order. What a chunk becomes is kept in the
user's cache under a digest of its words, the tokenizer, the chat template and the code that
tokenizes, so that nothing that changed is ever taken from there, and a file that grew is tokenized
from where it grew. Chunks that are not kept are tokenized in processes of their own where there are
many. A cache that cannot be read or written costs time and nothing else.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray

from medllava.data import conversation, tokenize
from medllava.data.dropped import Dropped, DropReason
from medllava.data.tokenize import EncodedText, encode_records
from medllava.errors import MedllavaError, SetupError
from medllava.progress import Progress
from medllava.records import InstructionRecord
from medllava.store import atomic_path, cache_folder
from medllava.threads import num_cores, thread_pool

T = TypeVar("T")
Texts = list[EncodedText | Dropped]

_MOST_BYTES = 4 * 2**30
"""What the cache may hold; what was not used for longest goes first."""
_MOST_PROCESSES = 16
_ALONE = 4
"""Chunks that are tokenized here before processes are started, which takes seconds."""
_FOLDER = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How records are tokenized; see `tokenize.encode_records`."""

    processor: Any
    """Any processor with a fast tokenizer."""
    image_tokens: int
    max_length: int

    def encode(self, records: Sequence[InstructionRecord]) -> Texts:
        """Tokenize records; one entry for each."""
        return encode_records(
            records, self.processor, image_tokens=self.image_tokens, max_length=self.max_length
        )

    @property
    def can_travel(self) -> bool:
        """Tell whether another process knows the classes; it does not know a model's own code."""
        parts = (self.processor, getattr(self.processor, "tokenizer", self.processor))
        return all(type(part).__module__.startswith("transformers.") for part in parts)

    def digest(self) -> bytes:
        """Return a digest of everything but the records that decides what is made of them."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        values = {
            "template": [
                getattr(part, "chat_template", "") for part in (self.processor, tokenizer)
            ],
            "special": [str(token) for token in tokenizer.all_special_tokens],
            "sizes": [self.image_tokens, self.max_length],
            "versions": [transformers.__version__, tokenizers.__version__],
        }
        found = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
        found.update(tokenizer.backend_tokenizer.to_str().encode())
        for module in (conversation, tokenize):
            found.update(Path(str(module.__file__)).read_bytes())
        return found.digest()


def encode_chunks(
    chunks: Iterable[tuple[T, Sequence[InstructionRecord]]], encoding: Encoding, progress: Progress
) -> Iterator[tuple[T, Texts]]:
    """Tokenize chunk by chunk, or take from the cache what an earlier run tokenized.

    Args:
        chunks: whatever belongs to a chunk, and its records; read a few chunks ahead.
        encoding: how.
        progress: told once if nothing can be kept.

    Raises:
        SetupError: see `tokenize.encode_records`.
    """
    if not getattr(encoding.processor, "tokenizer", encoding.processor).is_fast:
        encoding.encode([])  # says what is missing
    with ExitStack() as stack:
        encoder = _Encoder(encoding, _Kept(progress), stack)
        waiting: deque[tuple[T, _Pending]] = deque()
        for attached, records in chunks:
            waiting.append((attached, encoder.begin(records)))
            while len(waiting) > encoder.most_waiting:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
        encoder.kept.prune()


def _finish(attached: T, pending: "_Pending") -> tuple[T, Texts]:
    return attached, pending.wait()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A chunk that is there, or that a process is working on."""

    kept: "_Kept"
    key: str
    texts: Texts | None = None
    future: "Future[Texts] | None" = None

    def wait(self) -> Texts:
        if self.texts is not None:
            return self.texts
        assert self.future is not None  # noqa: S101 - one of the two is there
        texts = self.future.result()
        self.kept.write(self.key, texts)
        return texts


class _Kept:
    """Tokenized chunks in a folder, one file each; any trouble with it is no more than a miss."""

    def __init__(self, progress: Progress) -> None:
        self._folder = cache_folder(_FOLDER)
        self._progress = progress
        self._has_written = self._is_refused = False

    def read(self, key: str, records: Sequence[InstructionRecord]) -> Texts | None:
        """Return what is kept of these records; None where nothing is, or it is damaged."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as stored:
                texts = _unpack({name: stored[name] for name in stored.files}, records)
            os.utime(path)  # says that it was used
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return texts

    def write(self, key: str, texts: Texts) -> None:
        """Keep a chunk; told once where the disk does not take it."""
        try:
            with atomic_path(self._path(key)) as temporary, temporary.open("wb") as handle:
                np.savez(handle, **_pack(texts))
            self._has_written = True
        except OSError as error:
            if not self._is_refused:
                self._progress.note(f"token ids are not kept for the next start ({error})")
            self._is_refused = True

    def prune(self) -> None:
        """Remove what was not used for longest, if there is too much."""
        if not self._has_written:
            return
        with suppress(OSError):  # another run may be removing the same files
            files = [(path.stat(), path) for path in self._folder.glob("*.npz")]
            total = sum(facts.st_size for facts, _ in files)
            for facts, path in sorted(files, key=lambda pair: pair[0].st_mtime):
                if total <= _MOST_BYTES:
                    return
                path.unlink(missing_ok=True)
                total -= facts.st_size

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"


def _pack(texts: Texts) -> dict[str, Any]:
    """Lay the entries of a chunk behind one another; the dropped ones have no ids."""
    encoded = [text for text in texts if isinstance(text, EncodedText)]
    drops = {
        place: (text.reason.value, text.detail)
        for place, text in enumerate(texts)
        if isinstance(text, Dropped)
    }
    return {
        "ids": np.concatenate([np.zeros(0, np.int32), *(text.input_ids for text in encoded)]),
        "supervised": np.packbits(
            np.concatenate([np.zeros(0, np.bool_), *(text.supervised for text in encoded)])
        ),
        "lengths": np.array([len(text.input_ids) for text in encoded], dtype=np.int64),
        "shortened": np.array([text.shortened for text in encoded], dtype=np.bool_),
        "drops": np.frombuffer(json.dumps(drops).encode(), dtype=np.uint8),
    }


def _unpack(stored: dict[str, NDArray[Any]], records: Sequence[InstructionRecord]) -> Texts:
    """Return the entries that `_pack` laid down.

    Raises:
        ValueError: there are not as many as records.
    """
    drops = json.loads(stored["drops"].tobytes())
    ids, ends = stored["ids"], stored["lengths"].cumsum()
    supervised = np.unpackbits(stored["supervised"], count=len(ids)).astype(np.bool_)
    encoded = zip(
        np.split(ids, ends[:-1]), np.split(supervised, ends[:-1]), stored["shortened"], strict=True
    )
    if len(drops) + len(ends) != len(records) or (len(ends) and ends[-1] != len(ids)):
        raise ValueError("a chunk of other records")
    texts: Texts = []
    for place, record in enumerate(records):
        if (drop := drops.get(str(place))) is not None:
            reason = DropReason(drop[0])
            texts.append(Dropped(record_id=record.record_id, reason=reason, detail=drop[1]))
        else:
            own_ids, own_supervised, shortened = next(encoded)
            texts.append(
                EncodedText(input_ids=own_ids, supervised=own_supervised, shortened=bool(shortened))
            )
    return texts


class _Encoder:
    """Gives chunks to the cache, to this process, or to others."""

    def __init__(self, encoding: Encoding, kept: _Kept, stack: ExitStack) -> None:
        self.kept = kept
        self._encoding = encoding
        self._digest = encoding.digest()
        self._stack = stack
        self._pool: ThreadPoolExecutor | None = None
        self._processes = min(_MOST_PROCESSES, num_cores()) if encoding.can_travel else 1
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._done_here = 0

    @property
    def most_waiting(self) -> int:
        """Chunks that are read ahead of the one that is handed out."""
        return 2 * self._processes if self._pool else 0

    def begin(self, records: Sequence[InstructionRecord]) -> _Pending:
        key = self._key(records)
        texts = self.kept.read(key, records)
        if texts is not None:
            return _Pending(self.kept, key, texts)
        if self._processes == 1 or self._done_here < _ALONE:
            self._done_here += 1
            texts = self._encoding.encode(records)
            self.kept.write(key, texts)
            return _Pending(self.kept, key, texts)
        if self._pool is None:
            self._pool = self._start()
        return _Pending(self.kept, key, None, self._pool.submit(self._encode, list(records)))

    def _start(self) -> ThreadPoolExecutor:
        """Start the processes, each with a thread that waits for it."""
        for _ in range(self._processes):
            self._idle.put(self._stack.enter_context(closing(_Process(self._encoding))))
        return self._stack.enter_context(thread_pool(self._processes))

    def _encode(self, records: list[InstructionRecord]) -> Texts:
        process = self._idle.get()
        try:
            return process.encode(records)
        finally:
            self._idle.put(process)

    def _key(self, records: Sequence[InstructionRecord]) -> str:
        found = hashlib.sha256(self._digest)
        words = [[(turn.role, turn.content) for turn in record.turns] for record in records]
        found.update(json.dumps(words).encode())
        return found.hexdigest()


class _Process:
    """A process that tokenizes what it is sent, until it is sent nothing more.

    Not of `multiprocessing`, which would run the script of whoever calls this once more in each.
    It ends with its input, so it outlives nobody.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},  # the processes are parallel
            start_new_session=True,  # Ctrl-C is the run's to answer
        )
        self._untold: Encoding | None = encoding

    def encode(self, records: list[InstructionRecord]) -> Texts:
        """Return what `Encoding.encode` returns there, or raise what it raises.

        Raises:
            SetupError: the process is gone.
        """
        try:
            if self._untold is not None:
                self._send(self._untold)
                self._untold = None
            self._send(records)
            found = pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301 - of our own
        except (OSError, EOFError):
            raise SetupError(
                f"a process that tokenizes ended (exit code {self._process.wait()}), as one does "
                "that is killed or runs out of memory. Run the same command again."
            ) from None
        if isinstance(found, MedllavaError):
            raise found
        texts: Texts = found
        return texts

    def close(self) -> None:
        """End it; what it still works on is thrown away."""
        self._process.kill()
        self._process.communicate()

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        pickle.dump(value, self._process.stdin)
        self._process.stdin.flush()


def serve() -> None:
    """Tokenize what comes in by stdin, and write it to stdout; for a process of our own."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    encoding = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started this one
    while True:
        try:
            records = pickle.load(sys.stdin.buffer)  # noqa: S301 - as above
        except EOFError:
            return
        found: Texts | MedllavaError
        try:
            found = encoding.encode(records)
        except MedllavaError as error:
            found = error
        pickle.dump(found, answers)
        answers.flush()
