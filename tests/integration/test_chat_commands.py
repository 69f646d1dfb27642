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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_colours import plain
from loopback import Handler, serving

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

    def read_until(self, wanted: str, *, is_raw: bool = False) -> str:
        """Return everything up to and with `wanted`, without colours and cursor moves."""
        give_up = time.monotonic() + DEADLINE
        while wanted not in plain_text(self._unread):
            assert time.monotonic() < give_up, f"no {wanted!r} in {plain_text(self._unread)!r}"
            if select.select([self._terminal], [], [], 0.2)[0]:
                self._unread += os.read(self._terminal, 65536).decode(errors="replace")
        seen = plain_text(self._unread)
        raw, cut = self._unread, seen.index(wanted) + len(wanted)
        self._unread = seen[cut:]
        return raw if is_raw else seen[:cut]


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
        time.sleep(0.5)  # a Ctrl-C between readline's prompt and its wait is seen at the next key
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


class _Model(Handler):
    """An OpenAI-compatible server that answers with what it was asked, and with mischief."""

    server_state: "_State"

    def get(self) -> None:
        self.server_state.slow.set()
        time.sleep(20)  # a picture that never comes

    def post(self) -> None:
        asked = json.loads(self.body())
        content = asked["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        self.server_state.asked.append(asked["messages"])
        said = f"\x1b]0;title\x07\x1b]52;c;aGk=\x07\x1b[2J\x9b2J<{text}>"
        self.begin_stream()
        for delta, reason in (({"content": said}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self.send_event({"id": "1", "object": "chat.completion.chunk", "created": 0,
                             "model": "m", "choices": [choice]})  # fmt: skip
        self.send_event("[DONE]")


class _State:
    """What a server was asked."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.slow = threading.Event()
        self.address = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_State]:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    state = _State()
    with serving(_Model, server_state=state) as state.address:
        yield state


def reaching(server: _State) -> list[str]:
    return ["--ckpt", "m", "--base-url", f"{server.address}/v1"]


def test_a_terminal_takes_what_people_paste_and_drag_and_obeys_no_model(
    server: _State, pictures: Path
):
    evil = pictures / "x\x1b]0;name\x07.png"
    plain("red").save(evil, "PNG")
    with terminal(*reaching(server), folder=pictures) as (screen, process):
        screen.read_until("> ")
        for typed in (
            f"/image '{pictures}/red one.png'",
            f"/image {pictures}/red\\ one.png",
            f"/image file://{pictures}/red%20one.png",
        ):
            screen.type(f"{typed}\n")
            screen.read_until("red one.png (40 x 30)")
            screen.read_until("> ")
        screen.type("first line\nsecond line\nthird line\n")  # as one paste
        screen.read_until("third line>")
        seen = screen.read_until("> ")
        assert [len(m) for m in server.asked] == [1], seen
        assert server.asked[0][0]["content"][-1]["text"] == "first line\nsecond line\nthird line"
        assert len(server.asked[0][0]["content"]) == 4, "three pictures and the text"
        screen.type("again\n")
        raw = screen.read_until("again>", is_raw=True)
        for control in ("\x1b]", "\x07", "\x1b[2J", "\x9b"):
            assert control not in raw, "the model reaches the terminal"
        assert "\\x1b]52" in raw
        screen.read_until("> ")
        screen.type(f"/image {server.address}/never.png\n")
        assert server.slow.wait(30)
        screen.type("\x03")
        assert "[stopped]" in screen.read_until("> ")
        screen.type("still here\n")
        screen.read_until("still here>")
        screen.read_until("> ")
        for typed, answer in (
            ("/set temperature 0.7", "temperature is 0.7"),
            ("/set nonsense 1", "Say /set"),
            ("/retry", "still here>"),
            ("/undo", "forgotten"),
            ("/save talk.json", "Saved"),
        ):
            screen.type(f"{typed}\n")
            screen.read_until(answer)
            screen.read_until("> ")
        screen.type("\x04")
        assert process.wait(DEADLINE) == 0
    talk = json.loads((pictures / "talk.json").read_text())
    assert [turn["role"] for turn in talk["turns"]] == ["user", "assistant"] * 2
    assert len(talk["turns"][0]["images"]) == 3
    done = subprocess.run(
        [*COMMAND, *reaching(server), "--continue", "talk.json", "--prompt", "go on", "--json"],
        capture_output=True, text=True, cwd=pictures, env=os.environ | PATHS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["text"].endswith("<go on>")
    assert len(server.asked[-1]) == 5
    done = subprocess.run(
        [*COMMAND, *reaching(server), str(evil), "--prompt", "go on"],
        capture_output=True, text=True, cwd=pictures, env=os.environ | PATHS,
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("stdin", [b"", b"\n \n"])
def test_an_empty_stdin_is_told_and_is_one_object(server: _State, stdin: bytes):
    done = subprocess.run(
        [*COMMAND, *reaching(server), "--json"],
        input=stdin, capture_output=True, env=os.environ | PATHS,
    )  # fmt: skip
    assert done.returncode == 4
    assert "stdin was empty" in json.loads(done.stdout)["error"]["message"]


def test_latin_1_bytes_are_asked_as_what_they_are(server: _State):
    for arguments, stdin in (([], b"caf\xe9?\n"), (["--prompt", b"caf\xe9?"], b"")):
        done = subprocess.run(
            [*COMMAND, *reaching(server), *arguments, "--json"],
            input=stdin, capture_output=True, env=os.environ | PATHS | {"LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["summary"]["prompt"] == "caf\u00e9?"


def test_a_page_honours_image_prompt_and_window_and_prints_its_address_even_quietly(
    server: _State, pictures: Path
):
    arguments = ["blue.png", "--web", "--port", "0", "--prompt", "What?", "--frame", "0", "-q"]
    with subprocess.Popen(
        [*COMMAND, *reaching(server), *arguments, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=pictures,
        env=os.environ | PATHS, preexec_fn=hear_ctrl_c,
    ) as process:  # fmt: skip
        address = json.loads(process.stdout.readline())["summary"]["address"]
        page = httpx.get(address).text
        assert '"question": "What?"' in page
        assert '"given": ["blue.png"]' in page
        assert '"view": {"frame": 0}' in page
        assert httpx.get(f"{address}/given/0").content == (pictures / "blue.png").read_bytes()
        process.send_signal(signal.SIGINT)
        rest, talk = process.communicate(timeout=DEADLINE)
    assert rest == ""
    assert f"Open {address}" in talk
    assert "Traceback" not in talk
    assert process.returncode in {0, 130}
