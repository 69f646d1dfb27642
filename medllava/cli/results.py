"""Where results go: stdout, in UTF-8, and under `--json` objects only.

Under `--json` stdout is set aside for our objects: what a library or a child process prints there
goes to stderr instead, so that a script always reads JSON.
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from medllava.printable import INPUT_ERRORS

_RAW_CONTROLS = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Allowed in JSON as they are, but a terminal obeys some and line readers break at others."""


class Results:
    """Stdout as the process got it, and how many objects were printed there."""

    def __init__(self, stream: TextIO) -> None:
        """Hold the stream that results are written to."""
        self.stream = stream
        self.num_objects = 0
        self.is_told_elsewhere = False
        """Another process prints the object of this run."""

    def print_object(self, value: dict[str, object]) -> None:
        """Print one JSON object on a line of its own."""
        text = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
        self.num_objects += 1
        self.stream.write(_RAW_CONTROLS.sub(lambda c: f"\\u{ord(c.group()):04x}", text) + "\n")
        self.stream.flush()


_open: list[Results] = []


def current() -> Results:
    """Return the results of the run, or of plain stdout where no run is going on."""
    return _open[-1] if _open else Results(sys.stdout)


@contextmanager
def open_results(*, json_only: bool) -> Iterator[Results]:
    """Yield the run's results; with `json_only` nothing else reaches stdout meanwhile."""
    if not json_only:
        results = Results(sys.stdout)
        _open.append(results)
        try:
            yield results
        finally:
            _open.remove(results)
        return
    with _set_aside() as stream, redirect_stdout(sys.stderr):
        results = Results(stream)
        _open.append(results)
        try:
            yield results
        finally:
            _open.remove(results)


@contextmanager
def _set_aside() -> Iterator[TextIO]:
    """Yield stdout for us alone; file descriptor 1, which children inherit, becomes stderr."""
    try:
        is_real = sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # closed, or not a file, as in tests
        is_real = False
    if not is_real:
        yield sys.stdout or io.StringIO()
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="backslashreplace")
    try:
        yield stream
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        _close_quietly(stream)


def prepare_streams() -> None:
    """Speak UTF-8 whatever the locale, and read what is not UTF-8 as Latin-1."""
    for stream, errors in (
        (sys.stdin, INPUT_ERRORS),
        (sys.stdout, "backslashreplace"),  # a name that is not UTF-8 is spelled out
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def abandon_stdout() -> None:
    """Send what is left for a closed stdout nowhere, so that leaving does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        pass
    finally:
        os.close(nowhere)


def _close_quietly(stream: TextIO) -> None:
    try:
        stream.close()
    except OSError:  # nobody reads it anymore, which was told already
        return
