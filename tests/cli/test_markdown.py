"""Markdown on a terminal while it streams, read off an emulated screen."""

import io

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllava.cli.markdown import MarkdownAnswer, find_end

ANSWER = """\
# Findings

The **left** lung is _clear_; see [the atlas](https://example.org/a).
p < 0.05 and <b>not bold</b>.

1. first
2. second

   still second

| side | size |
|---|---|
| left | 4 cm |

```python
x = "**not bold**"

y = 1
```

Done."""


class Screen:
    """A terminal that keeps what scrolled out of sight."""

    def __init__(self, columns: int = 60, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.columns, self.rows = columns, rows

    def lines(self) -> list[str]:
        above = [
            "".join(line[x].data for x in range(self.columns)) for line in self.screen.history.top
        ]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    def text(self) -> str:
        return "\n".join(self.lines()).strip()


class Wire(io.StringIO):
    """Passes on what is written, as a terminal's driver does."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def write(self, text: str) -> int:
        self.screen.stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("medllava.cli.markdown._SECONDS_BETWEEN", 0.0)


def show(text: str, size: int) -> Screen:
    screen = Screen()
    answer = MarkdownAnswer(Wire(screen))
    for start in range(0, len(text), size):
        answer.write(text[start : start + size])
    answer.end()
    return screen


def words(screen: Screen) -> list[str]:
    """Its lines but for empty ones: parts that came one by one stand a line apart."""
    return [line for line in screen.lines() if line.strip()]


@pytest.mark.parametrize("size", [1, 17, 10_000])
def test_an_answer_looks_the_same_however_it_came(size: int):
    screen = show(ANSWER, size)
    assert words(screen) == words(show(ANSWER, 100_000))
    text = screen.text()
    assert "**left**" not in text
    assert "see the atlas (https://example.org/a)." in " ".join(text.split())
    assert "p < 0.05 and <b>not bold</b>." in text, "words were lost"
    assert 'x = "**not bold**"' in text
    assert text.count("Done.") == 1
    bold = [
        cell.data for row in screen.screen.buffer.values() for cell in row.values() if cell.bold
    ]
    assert "".join(bold).count("left") >= 1


def test_an_answer_longer_than_the_screen_is_whole_afterwards():
    lines = [f"line {number}" for number in range(100)]
    for text in ("\n".join(lines), "```\n" + "\n".join(lines) + "\n```"):
        seen = [line.strip() for line in show(text, 5).lines()]
        assert [line for line in seen if line.startswith("line")] == lines


def test_while_it_grows_its_end_is_in_sight():
    screen = Screen()
    answer = MarkdownAnswer(Wire(screen))
    for number in range(60):
        answer.write(f"word{number}\n")
        assert f"word{number}" in "\n".join(screen.screen.display)


def test_a_part_ends_at_a_blank_line_outside_code():
    assert find_end("one\n\ntwo") == 3
    assert find_end("one\n\n") == 0, "the next line may go on with a list"
    assert find_end("- one\n\n  more") == 0
    assert find_end("```\na\n\nb") == 0
    assert find_end("```\na\n```\n\nb") == 9


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab *_`#-|<>[]()!1.\n\t\\&~", max_size=120))
def test_no_letter_is_lost(text: str):
    """Whatever a model writes: every letter of it stands on the screen, once."""
    seen = show(text, 7).text()
    assert [c for c in seen if c in "ab"] == [c for c in text if c in "ab"] or _is_address(text)


def _is_address(text: str) -> bool:
    """Links, pictures, headings' fences and entities move or name letters of their own."""
    return any(mark in text for mark in ("](", "]:", "&", "~~~", "```", "["))
