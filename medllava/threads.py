"""Threads that wait for others: a pool whose work is thrown away when somebody presses Ctrl-C."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(num_threads: int, *, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """Yield a pool; leaving waits for what runs, but Ctrl-C leaves behind what hangs.

    A request that no server answers would hold an interrupt for its whole time-out. What such a
    thread returns later goes nowhere, so only work whose results are kept by whoever collects them
    belongs here. `medllava.cli.app.main` then ends the process without it.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):  # the latter in a generator that is left
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def num_cores() -> int:
    """Return the cores that this process may use, which a container or a scheduler limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
