"""A model's Markdown in a terminal, drawn while it streams.

What is whole (a paragraph, a list, a block of code) is printed once and stays; only the part that
still grows is drawn anew, and of that no more than fits on the screen. Words are never lost: HTML
is shown as text, and links with their address, since a terminal's own links may hide it.
"""

import re
import time
from typing import TextIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

_SECONDS_BETWEEN = 1 / 15
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_GAP = re.compile(r"\n[ \t]*\n(?=\S)")
"""An indented line after a blank one may go on with a list, so it ends nothing."""
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class MarkdownAnswer:
    """One answer on a terminal."""

    def __init__(self, out: TextIO) -> None:
        """Draw on `out`, which is a terminal that moves its cursor."""
        self._console = Console(file=out, highlight=False)
        self._live: Live | None = None
        self._growing = ""
        self._is_first = True
        self._drawn = 0.0

    def write(self, piece: str) -> None:
        """Add a piece; it holds no control characters."""
        self._growing += piece
        if end := find_end(self._growing):
            whole, self._growing = self._growing[:end], self._growing[end:].lstrip("\n")
            self._commit(whole)
        if time.monotonic() - self._drawn >= _SECONDS_BETWEEN:
            self._draw()

    def end(self) -> None:
        """Print what is left."""
        self._commit(self._growing)
        self._growing = ""

    def _draw(self) -> None:
        if not self._growing.strip():
            return
        shown = _Lines(self._render(self._growing), is_growing=True)
        if self._live is None:
            # Only what we draw: nothing else prints while an answer comes.
            self._live = Live(
                shown,
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
        else:
            self._live.update(shown, refresh=True)
        self._drawn = time.monotonic()

    def _commit(self, text: str) -> None:
        """Print a part for good, in place of what was drawn of it."""
        if self._live is not None:
            self._live.update(_Lines(self._render(text)))
            self._live.stop()
            self._live = None
        elif text.strip():
            self._console.print(_Lines(self._render(text)), end="")
        self._is_first = self._is_first and not text.strip()

    def _render(self, text: str) -> RenderableType:
        markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
        markdown.parsed = _parse(text)
        return markdown if self._is_first else Group("", markdown)


class _Lines:
    """The lines of something, without the blanks that fill them up, which a copy would carry."""

    def __init__(self, whole: RenderableType, *, is_growing: bool = False) -> None:
        self._whole = whole
        self._is_growing = is_growing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options.update(height=None), pad=False)
        if self._is_growing:  # its end, as much as the screen holds
            lines = lines[-max(1, console.height - 2) :]
        for line in lines:
            yield from _strip(line)
            yield Segment.line()


def _strip(line: list[Segment]) -> list[Segment]:
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        last = kept.pop()
        if text := last.text.rstrip(" "):
            return [*kept, Segment(text, last.style)]
    return kept


def find_end(text: str) -> int:
    """Return where the last whole part of a text ends; 0 while there is none.

    Parts end at a blank line that is not inside a block of code.
    """
    ends = [gap.start() for gap in _GAP.finditer(text)]
    return next((end for end in reversed(ends) if not _is_in_code(text[: end + 1])), 0)


def _is_in_code(text: str) -> bool:
    fence = ""
    for found in _FENCE.finditer(text):
        mark = found.group(1)
        if not fence:
            fence = mark
        elif mark[0] == fence[0] and len(mark) >= len(fence):
            fence = ""
    return bool(fence)


def _parse(text: str) -> list[Token]:
    """Return the tokens of a text, in which its line breaks stay."""
    tokens = _PARSER.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens
