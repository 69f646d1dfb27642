"""The objects of a JSON or JSONL file, one at a time, whatever the file's size.

A file enters: an array, one object a line, or objects one after the other however they are broken
into lines; plain or gzip, with or without a byte order mark. Memory holds one block and one object.
What the objects mean is decided next, in `conversation`. A file whose syntax is broken ends with
its name and line, because nothing behind that line can be trusted.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from medllava.errors import DataError, RecordError

_BLOCK_CHARACTERS = 1 << 20
_MOST_CHARACTERS = 1 << 26
"""Of one object; more is no record but a file in another layout."""
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPACE = re.compile(r"[ \t\r\n]*")
_UNFINISHED = 16
"""Characters before the end of a block within which an error may only mean that it goes on."""


class Item(NamedTuple):
    """One value of a file and where it stands; a tuple, since files have millions."""

    value: Any
    number: int
    """From 1: of the item in an array, of the line in a file of lines."""
    unit: str
    """What is counted: `item` or `line`."""

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.unit} {self.number}"


def iter_items(path: Path) -> Iterator[Item]:
    """Yield the values of a file in order; an empty file yields none.

    NaN and infinities, which JSON does not have but files do, are read as null.

    Raises:
        DataError: the file is absent, not UTF-8, damaged, or not JSON; names the file and the line.
    """
    with _open(path) as handle:
        head = handle.read(_BLOCK_CHARACTERS)
        start = head.lstrip()
        if not start:
            return
        skipped = len(head) - len(start)
        is_array = start[0] == "["
        if not is_array and start[0] != "{":
            raise DataError(
                f"neither JSON nor JSONL, it begins with {start[:20]!r}: {path}. "
                "Convert it to a list of conversations."
            )
        text = start[1:] if is_array else start
        blocks = chain([text], iter(lambda: handle.read(_BLOCK_CHARACTERS), ""))
        reader = _Reader(blocks, path, line=1 + head.count("\n", 0, skipped))
        yield from reader.array() if is_array else reader.sequence()


def iter_llava_items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, object), as `iter_items`.

    Raises:
        DataError: as there.
        RecordError: an item is not an object; names file and item.
    """
    for item in iter_items(path):
        if not isinstance(item.value, dict):
            raise RecordError(f"expected a JSON object: {path}, {item.place}.")
        yield item.number, item.value


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    """Open a text file, compressed or not, and say in our words what is wrong with its bytes."""
    try:
        with path.open("rb") as raw:
            head = raw.read(2)
        if head in _UTF16:
            raise DataError(f"written in UTF-16, not UTF-8: {path}. Save it as UTF-8.")
        opener = gzip.open if head == _GZIP else open
        with opener(path, "rt", encoding="utf-8-sig") as handle:
            yield handle
    except FileNotFoundError:
        raise DataError(f"no such file: {path}. Check the path.") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start : error.start + 1].hex()
        raise DataError(
            f"not UTF-8 (byte 0x{byte}, perhaps Latin-1): {path}. "
            f"Convert it: iconv -f latin1 -t utf-8 {path.name} > utf8.json"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"damaged gzip file ({error}): {path}. Fetch it again.") from None


class _Reader:
    """Decodes one value after the other out of blocks of text."""

    def __init__(self, blocks: Iterator[str], path: Path, *, line: int) -> None:
        # JSON has no NaN; as null it is what it means, no value.
        self._decoder = json.JSONDecoder(parse_constant=lambda _: None)
        self._blocks = blocks
        self._path = path
        self._text = ""
        self._position = 0
        self._line = line
        self._counted = 0
        """Up to here lines of the text are counted."""

    def array(self) -> Iterator[Item]:
        """Yield the values behind an array's opening bracket, to its end."""
        number = 0
        while True:
            mark = self._peek()
            if mark == "]" and number == 0:
                break
            number += 1
            yield Item(self._value(number), number, "item")
            mark = self._peek()
            if mark == "]":
                break
            if mark != ",":
                raise self._error(f"expected ',' or ']' after item {number}")
            self._position += 1
            if self._peek() == "]":
                raise self._error(f"a comma with nothing behind it after item {number}")
        self._position += 1
        if self._peek():
            raise self._error("text behind the end of the list")

    def sequence(self) -> Iterator[Item]:
        """Yield values that stand one after the other, as in JSONL."""
        while self._peek():
            line = self._count_lines()
            yield Item(self._value(line), line, "line")

    def _peek(self) -> str:
        """Return the next character that is not white space; empty at the end of the file."""
        while True:
            mark = self._text[self._position : self._position + 1]
            if mark > " ":
                return mark
            match = _SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_block():
                return ""

    def _value(self, number: int) -> Any:  # noqa: ANN401 - JSON is any
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # The value may go on in the next block; only without one is the file broken.
                unfinished = error.msg.startswith("Unterminated string")
                near_end = error.pos >= len(self._text) - _UNFINISHED
                if (unfinished or near_end) and self._read_block():
                    if len(self._text) - self._position > _MOST_CHARACTERS:
                        raise self._error("one record is larger than 64 MB") from None
                    continue
                is_cut = unfinished or near_end
                self._position = min(error.pos, len(self._text))
                advice = "the file ends inside a record" if is_cut else error.msg
                raise self._error(f"{advice}, in item {number}") from None
            except (ValueError, RecursionError) as error:  # numbers and nesting without end
                raise self._error(f"{error}, in item {number}") from None
            return value

    def _read_block(self) -> bool:
        """Take in the next block and let go of what was read; False at the end of the file."""
        block = next(self._blocks, "")
        if not block:
            return False
        self._count_lines()
        self._text = self._text[self._position :] + block
        self._position = self._counted = 0
        return True

    def _count_lines(self) -> int:
        """Return the line on which the position is."""
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _error(self, what: str) -> DataError:
        line = self._count_lines()
        return DataError(f"not valid JSON ({what}): {self._path}, line {line}. Correct that line.")
