"""Several devices: one process each, with its own copy of the model and its share of the images.

Asks enter, batches leave as any worker finishes one. All questions about one image go to the same
worker, so that it is still encoded once.
"""

import heapq
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from medllava import errors
from medllava.errors import MedllavaError, SetupError
from medllava.eval.ask.predict import BLANK, Ask, Batch, Key
from medllava.eval.config import DecodingConfig

_END = "end"
_BATCH = "batch"
_ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a process needs to answer its share."""

    checkpoint: str
    device: str
    dtype: str
    decoding: DecodingConfig
    num_threads: int = 0
    """Of torch; 0 leaves its own choice."""


class WorkerPool:
    """An `Answerer` over several processes."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Remember the workers; processes start when they are asked."""
        self._workers = workers

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies batch by batch, in the order in which workers finish them.

        Raises:
            MedllavaError: what a worker raised, with its class and message.
            SetupError: a worker died, as it does when memory runs out.
        """
        by_key = {ask.key: ask for ask in asks}
        context = multiprocessing.get_context("spawn")
        started: dict[Connection, tuple[Any, Worker]] = {}
        try:
            for worker, share in zip(
                self._workers, share_asks(asks, len(self._workers)), strict=True
            ):
                if all(is_done(ask) for ask in share):
                    continue
                ours, theirs = context.Pipe(duplex=False)
                done = frozenset(ask.key for ask in share if is_done(ask))
                process = context.Process(
                    target=_work, args=(worker, share, done, theirs), daemon=True
                )
                process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                started[ours] = (process, worker)
            yield from _receive(started, by_key)
        finally:
            for process, _ in started.values():
                process.terminate()
            for process, _ in started.values():
                process.join()


def share_asks(asks: Sequence[Ask], num_shares: int) -> list[list[Ask]]:
    """Part asks into shares of nearly equal size; asks about one image file stay together."""
    groups: dict[object, list[Ask]] = {}
    for number, ask in enumerate(asks):
        is_file = ask.image not in (None, BLANK)
        groups.setdefault(ask.image if is_file else number, []).append(ask)
    shares: list[list[Ask]] = [[] for _ in range(num_shares)]
    sizes = [(0, i) for i in range(num_shares)]
    for group in sorted(groups.values(), key=len, reverse=True):
        size, i = heapq.heappop(sizes)
        shares[i] += group
        heapq.heappush(sizes, (size + len(group), i))
    return shares


def _receive(
    started: dict[Connection, tuple[Any, Worker]], by_key: dict[Key, Ask]
) -> Iterator[Batch]:
    waiting = set(started)
    while waiting:
        for connection in wait(list(waiting)):
            assert isinstance(connection, Connection)  # noqa: S101 - nothing else was given
            try:
                kind, content = connection.recv()
            except EOFError:
                process, worker = started[connection]
                process.join()
                raise SetupError(
                    f"the process on {worker.device} ended with code {process.exitcode}, as it "
                    "does when memory runs out. Use a smaller --batch-size or fewer --gpus, and "
                    "run again: it goes on."
                ) from None
            if kind == _END:
                waiting.discard(connection)
            elif kind == _ERROR:
                name, message = content
                raise getattr(errors, name, MedllavaError)(message)
            else:
                yield [(by_key[key], text) for key, text in content]


def _work(worker: Worker, asks: list[Ask], done: frozenset[Key], results: Connection) -> None:
    """Answer a share; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch  # noqa: PLC0415 - only in the worker

        from medllava.eval.ask.load_engine import build_engine  # noqa: PLC0415

        if worker.num_threads:
            torch.set_num_threads(worker.num_threads)
        engine = build_engine(
            worker.checkpoint, device=worker.device, dtype=worker.dtype, decoding=worker.decoding
        )
        for batch in engine.answer(asks, is_done=lambda ask: ask.key in done):
            results.send((_BATCH, [(ask.key, text) for ask, text in batch]))
        results.send((_END, None))
    except MedllavaError as error:
        results.send((_ERROR, (type(error).__name__, str(error))))


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
