"""`medllava chat` as people and scripts start it: a real process, a pseudo-terminal, pipes."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chat_colours import plain

from medllava.chat.config import NOTICE

pytest_plugins = ["chat_colours"]
COMMAND = [sys.executable, "-m", "medllava", "chat"]
DEADLINE = 120.0


PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    plain("red").save(tmp_path / "red one.png")
    plain("blue").save(tmp_path / "blue.png")
    return tmp_path


class Screen:
    """What a person at a terminal sees, and their keys."""

    def __init__(self, terminal: int) -> None:
        self._terminal, self._unread = terminal, ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def read_until(self, wanted: str) -> str:
        """Return everything up to and with `wanted`, without colours and cursor moves."""
        give_up = time.monotonic() + DEADLINE
        while wanted not in plain_text(self._unread):
            assert time.monotonic() < give_up, f"no {wanted!r} in {plain_text(self._unread)!r}"
            if select.select([self._terminal], [], [], 0.2)[0]:
                self._unread += os.read(self._terminal, 65536).decode(errors="replace")
        seen = plain_text(self._unread)
        cut = seen.index(wanted) + len(wanted)
        self._unread = seen[cut:]
        return seen[:cut]


def plain_text(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)


def hear_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: they are born deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def take_terminal() -> None:
    hear_ctrl_c()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(*arguments: str, folder: Path) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    """Start `medllava chat` in `folder`, on a pseudo-terminal that sends Ctrl-C as a signal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | PATHS | {"TERM": "xterm-256color", "COLUMNS": "100"},
        cwd=folder,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as process:
        os.close(theirs)
        try:
            yield Screen(ours), process
        finally:
            process.kill()
            os.close(ours)


def test_a_person_talks_changes_the_image_saves_and_stops_an_answer(
    colour_checkpoint: Path, pictures: Path
):
    arguments = ["red one.png", "--ckpt", str(colour_checkpoint), "--max-new-tokens", "2000"]
    with terminal(*arguments, folder=pictures) as (screen, process):
        seen = screen.read_until("> ")
        assert seen.count(NOTICE) == 1
        assert "\u2580" in seen, "no thumbnail"
        assert "red one.png (40 x 30)" in seen
        for typed, answer in [
            ("Which colour?", "It is red."),
            ("Are you sure?", "Yes, red."),
            ("/help", "/save FILE"),
            ("/nonsense", "No command /nonsense"),
            ("/image gone.png", "no such image: gone.png"),
            ("/save talk.md", "Saved talk.md"),
            ("/clear", "Forgotten"),
            ("/image blue.png", "blue.png (40 x 30)"),
            ("Which colour?", "It is blue."),
            ("/clear", "Forgotten"),
            ("/image red one.png", "red one.png (40 x 30)"),
        ]:
            screen.type(f"{typed}\n")
            screen.read_until(answer)
            screen.read_until("> ")
        screen.type("Sing.\n")
        screen.read_until("la la la")
        screen.type("\x03")
        stopped = screen.read_until("> ")
        assert "[stopped]" in stopped
        screen.type("\x03")
        screen.read_until("Ctrl-D or /exit leaves.")
        screen.read_until("> ")
        screen.type("Sing.\n")  # the program goes on
        screen.read_until("la la la")
        screen.type("\x03")
        screen.read_until("> ")
        screen.type("\x04")
        assert process.wait(DEADLINE) == 0
    saved = (pictures / "talk.md").read_text()
    assert "**User:** Which colour?" in saved
    assert "**Assistant:** Yes, red." in saved
    assert "blue" not in saved
    assert sorted(path.name for path in pictures.iterdir()) == [
        "blue.png",
        "red one.png",
        "talk.md",
    ]


def test_lines_of_a_pipe_are_one_conversation_and_one_object_each(
    colour_checkpoint: Path, pictures: Path
):
    """The second line is sent only after the first answer came, as a program would."""
    with subprocess.Popen(
        [*COMMAND, "red one.png", "--ckpt", str(colour_checkpoint), "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | PATHS,
        cwd=pictures,
    ) as process:
        objects = []
        for question in ("Which colour?", "Are you sure?"):
            print(question, file=process.stdin, flush=True)
            objects.append(json.loads(process.stdout.readline()))
        rest, talk = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, talk
    assert rest == ""
    assert talk.count(NOTICE) == 1
    assert [(o["command"], o["status"]) for o in objects] == [("chat", "ok")] * 2
    first, second = (o["summary"] for o in objects)
    assert (first["turn"], first["prompt"], first["text"]) == (1, "Which colour?", "It is red.")
    assert (second["turn"], second["text"]) == (2, "Yes, red.")
    assert second["cached_tokens"] == first["input_tokens"] + first["output_tokens"]


def test_ctrl_c_leaves_a_pipe_with_its_exit_code(colour_checkpoint: Path, pictures: Path):
    arguments = [*COMMAND, "red one.png", "--ckpt", str(colour_checkpoint), "--prompt", "Sing."]
    with subprocess.Popen(
        [*arguments, "--max-new-tokens", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | PATHS,
        cwd=pictures,
        preexec_fn=hear_ctrl_c,
    ) as process:
        assert process.stdout.read(5) == b"la la"
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert b"Traceback" not in talk
