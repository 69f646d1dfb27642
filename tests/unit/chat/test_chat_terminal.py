import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from medllava.chat.config import Answer, ViewConfig
from medllava.chat.terminal import Terminal
from medllava.chat.thumbnail import render_thumbnail
from medllava.data.conversation import user_turn
from medllava.errors import DataError, RemoteError
from medllava.records import Turn


class Echo:
    """A conversation that repeats the question, word by word, and can be made to fail."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.last_answer: Answer | None = None
        self.shown: list[Image.Image] = []
        self.before_piece: Callable[[int], None] = lambda _: None
        self.closed_after: list[int] = []

    def ask(self, text: str, images=(), options=None):
        self.shown += images
        if options is not None and options.keep is not None:
            del self.turns[options.keep :]
        number = 0
        try:
            for number, word in enumerate(text.split()):
                self.before_piece(number)
                yield f"{word} "
        finally:
            self.closed_after.append(number)
            self.turns += [
                user_turn(text, num_images=len(images)),
                Turn(role="assistant", content=text),
            ]

    def clear(self) -> None:
        self.turns.clear()
        self.shown.clear()

    def forget(self) -> None:
        pass


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a b.png"
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def run(echo: Echo, *lines: str | type[BaseException], images: tuple[str, ...] = ()) -> str:
    """Type the lines, then Ctrl-D; return what was written."""
    typed = iter(lines)

    def read(prompt: str) -> str:
        line = next(typed, EOFError)
        if isinstance(line, type):
            raise line
        return line

    out = io.StringIO()
    terminal = Terminal(
        echo, model="m", view=ViewConfig(), read=read, out=out, draw=lambda _: "<drawn>"
    )
    terminal.run(images)
    return out.getvalue()


def test_questions_are_answered_in_order_until_the_end_of_input(picture: Path):
    echo = Echo()
    text = run(echo, "what is this", "", "and that", images=(str(picture),))
    assert "<drawn>" in text
    assert f"{picture} (8 x 6)" in text
    assert text.index("what is this") < text.index("and that")
    assert len(echo.shown) == 1
    assert len(echo.turns) == 4


def test_exit_leaves_before_the_end_of_input():
    echo = Echo()
    run(echo, "/exit", "never asked")
    assert echo.turns == []


def test_another_image_may_have_spaces_in_its_name(picture: Path):
    echo = Echo()
    run(echo, f"/image {picture}", "what?")
    assert echo.shown[0].size == (8, 6)


def test_a_wrong_image_is_told_and_the_conversation_goes_on(tmp_path: Path):
    echo = Echo()
    text = run(echo, "/image gone.png", "/image", "still here")
    assert "Error: no such image: gone.png" in text
    assert "Name a file" in text
    assert len(echo.turns) == 2


def test_a_wrong_image_on_the_command_line_is_an_error():
    with pytest.raises(DataError):
        run(Echo(), images=("gone.png",))


def test_ctrl_c_stops_the_answer_and_not_the_program():
    echo = Echo()

    def interrupt(number: int) -> None:
        if number == 2:
            echo.before_piece = lambda _: None
            raise KeyboardInterrupt

    echo.before_piece = interrupt
    text = run(echo, "one two three four", "next question")
    assert "one two  [stopped]" in text
    assert "three" not in text
    assert "next question" in text


def test_ctrl_c_at_the_prompt_says_how_to_leave():
    assert "Ctrl-D" in run(Echo(), KeyboardInterrupt, "go on")


def test_a_failing_server_does_not_end_the_conversation():
    echo = Echo()

    def fail(_: int) -> None:
        echo.before_piece = lambda _: None
        raise RemoteError("no answer: server. Start it.")

    echo.before_piece = fail
    text = run(echo, "first", "second")
    assert "Error: no answer" in text
    assert "second" in text


def test_clear_help_and_unknown_commands(picture: Path):
    echo = Echo()
    text = run(echo, "hello", "/clear", "/help", "/bogus", images=(str(picture),))
    assert echo.turns == []
    assert echo.shown == []
    assert "/save FILE" in text
    assert "No command /bogus" in text


def test_save_writes_json_and_markdown_and_never_overwrites(tmp_path: Path, picture: Path):
    target, page = tmp_path / "talk.json", tmp_path / "talk.md"
    text = run(
        Echo(), "hello you", f"/save {target}", f"/save {page}", f"/save {target}", "/save",
        images=(str(picture),),
    )  # fmt: skip
    assert json.loads(target.read_text()) == {
        "model": "m",
        "images": [str(picture)],
        "turns": [
            {"role": "user", "content": "hello you", "images": [{"source": str(picture)}]},
            {"role": "assistant", "content": "hello you"},
        ],
    }
    assert "**User:** hello you" in page.read_text()
    assert "the file exists" in text
    assert "Name a file: /save" in text


@pytest.mark.parametrize(
    ("environment", "start"),
    [
        ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "\x1b[38;2;255;0;0;48;2;255;0;0m"),
        ({"TERM": "xterm-256color"}, "\x1b[38;5;196;48;5;196m"),
    ],
)
def test_a_thumbnail_is_drawn_by_what_the_terminal_can(environment: dict[str, str], start: str):
    drawn = render_thumbnail(Image.new("RGB", (300, 200), (255, 0, 0)), environment)
    assert drawn.startswith(start)
    assert drawn.endswith("\n")


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_plain_terminal_is_left_alone(environment: dict[str, str]):
    assert render_thumbnail(Image.new("RGB", (3, 3)), environment) == ""


def test_half_blocks_keep_the_shape_of_a_narrow_image():
    drawn = render_thumbnail(Image.new("RGB", (300, 1)), {"TERM": "x", "COLORTERM": "24bit"})
    assert drawn.count("\u2580") == 48
    assert drawn.count("\n") == 1


def test_kitty_gets_its_data_in_pieces_it_accepts():
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    drawn = render_thumbnail(noise, {"TERM": "xterm-kitty"})
    pieces = drawn.strip().split("\x1b\\")[:-1]
    assert len(pieces) > 2
    assert all(len(piece.partition(";")[2]) <= 4096 for piece in pieces)
    assert ["m=1" in piece for piece in pieces] == [True] * (len(pieces) - 1) + [False]
