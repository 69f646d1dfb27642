"""Every command x every way to end: the exit code, one object under `--json`, no traceback."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer.main
from loopback import Handler, serving
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.cli.outcome import explain
from medllava.errors import DataError
from medllava.printable import printable, repair

STEPS = {
    "fetch-pmc": ("medllava.pmc.fetch.fetch_figures", ["-o", "out"]),
    "generate-instructions": (
        "medllava.instruct.generate.generate_instructions",
        ["figures", "-o", "out", "--stage", "align"],
    ),
    "train": (
        "medllava.train.run.train_stage",
        ["debug", "--stage", "1", "--data", ".", "-o", "out"],
    ),
    "eval": ("medllava.eval.run.evaluate_task", ["vqarad", "-o", "out"]),
    "chat": ("medllava.chat.start.open_model", ["--prompt", "What is this?"]),
    "push": ("medllava.hub.push.push", ["folder", "me/model", "--dry-run"]),
}
ENDINGS = [
    (lambda: KeyboardInterrupt(), 130, "Interrupted", "interrupted"),
    (lambda: OSError(errno.ENOSPC, "No space left", "/data/x"), 7, "SetupError", "/data/x"),
    (lambda: OSError(errno.EROFS, "Read-only file system", "/ro"), 7, "SetupError", "Read-only"),
    (lambda: NotADirectoryError(errno.ENOTDIR, "Not a folder", "/f/x"), 7, "SetupError", "/f/x"),
    (lambda: PermissionError(errno.EACCES, "Permission denied", "/root"), 7, "SetupError", "/root"),
    (lambda: MemoryError(), 7, "SetupError", "not enough memory"),
    (lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset"), 5, "RemoteError", "reset"),
    (lambda: DataError("line 3 of x.jsonl is empty."), 4, "DataError", "line 3"),
    (lambda: ZeroDivisionError("a bug"), 1, "ZeroDivisionError", "a bug"),
    (lambda: ValueError("\x1b]0;bug\x07"), 1, "ValueError", "report it"),
]  # fmt: skip
MODULE = [sys.executable, "-m", "medllava"]


@pytest.mark.parametrize("command", STEPS)
@pytest.mark.parametrize(("ending", "code", "kind", "words"), ENDINGS)
def test_what_ends_a_step_is_told_as_code_and_object(
    command: str, ending, code: int, kind: str, words: str, monkeypatch, tmp_path: Path
):
    target, arguments = STEPS[command]

    def fail(*_: object, **__: object) -> None:
        raise ending()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(target, fail)
    plain = CliRunner().invoke(app, [command, *arguments])
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert words in plain.stderr
    assert ("Traceback" in plain.stderr) == (code == 1)
    assert "\x1b" not in plain.stderr
    result = CliRunner().invoke(app, [command, *arguments, "--json"])
    assert result.exit_code == code
    (line,) = result.stdout.splitlines()
    value = json.loads(line)
    assert (value["command"], value["status"]) == (command, "error")
    assert (value["error"]["type"], value["error"]["exit_code"]) == (kind, code)
    assert words in value["error"]["message"]


@pytest.mark.parametrize("command", [*STEPS, "env"])
@pytest.mark.parametrize("wrong", [["--nonsense"], ["--verbose=3"], ["--json=2"]])
def test_a_usage_error_is_one_object_too(command: str, wrong: list[str]):
    result = CliRunner().invoke(app, [command, *wrong, "--json"])
    assert result.exit_code == 2
    value = json.loads(result.stdout)
    assert (value["command"], value["error"]["type"]) == (command, "UsageError")
    assert wrong[0].partition("=")[0] in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["chat", "--help"]])
def test_help_under_json_is_one_object_and_the_text_on_stderr(arguments: list[str]):
    result = CliRunner().invoke(app, [*arguments, "--json"] if len(arguments) > 1 else arguments)
    if len(arguments) > 1:
        assert json.loads(result.stdout)["status"] == "ok"
        assert "Usage: " in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_unknown_command_names_itself(options: list[str]):
    result = CliRunner().invoke(app, ["chatt", *options])
    assert result.exit_code == 2
    assert "chatt" in result.stderr
    assert not options or json.loads(result.stdout)["command"] == "chatt"


def test_what_a_library_or_a_child_prints_never_mixes_with_the_object(tmp_path: Path):
    code = (
        "import subprocess, sys\n"
        "import medllava.hub.push as room\n"
        "def push(config, progress):\n"
        "    print('talk of a library'); subprocess.run(['echo', 'talk of a child'])\n"
        "    from medllava.records import StepSummary\n"
        "    return StepSummary(step='push', counts={'files': 3})\n"
        "room.push = push\n"
        "from medllava.cli.app import main\n"
        "sys.argv = ['medllava', 'push', '.', 'me/model', '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"] == {"files": 3}
    assert "talk of a library" in done.stderr
    assert "talk of a child" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_told(options: list[str]):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*MODULE, "env", *options], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 7
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_the_run_quietly(options: list[str]):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [*MODULE, "env", *options], stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    assert done.returncode == 7
    assert "closed it before all was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("generate-instructions", ["figures", "--stage", "align"]),
        ("fetch-pmc", ["--input", "figures"]),
        ("train", ["debug", "--stage", "1", "--data", "figures"]),
        ("eval", ["vqarad", "--predictions", "p.jsonl", "--data", "figures"]),
    ],
)
def test_a_file_where_the_output_folder_should_be_is_told(
    command: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("figures").mkdir()
    Path("p.jsonl").write_text('{"id": "1", "text": "yes"}\n')
    Path("taken").write_text("a file")
    done = CliRunner().invoke(app, [command, *arguments, "-o", "taken/out", "--json"])
    assert done.exit_code in {4, 7}, done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == done.exit_code
    assert "Traceback" not in done.stderr


class _Slow(Handler):
    """Takes a request and never answers."""

    asked = threading.Event()

    def post(self) -> None:
        _Slow.asked.set()
        threading.Event().wait(15)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_ends_with_130_and_one_object(options: list[str], tmp_path: Path):
    _Slow.asked.clear()
    with serving(_Slow) as address:
        arguments = ["chat", "--prompt", "What?", "--base-url", address, "--ckpt", "m", *options]
        with subprocess.Popen(
            [*MODULE, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"OPENAI_API_KEY": "none"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:  # fmt: skip
            assert _Slow.asked.wait(60)
            process.send_signal(signal.SIGINT)
            out, talk = process.communicate(timeout=60)
    assert process.returncode == 130, talk
    assert "Traceback" not in talk
    if options:
        assert json.loads(out)["error"] == {
            "type": "Interrupted", "message": "interrupted.", "exit_code": 130,
        }  # fmt: skip


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
@pytest.mark.parametrize("encoding", [None, "cp1252", "latin-1", "ascii"])
def test_output_is_utf_8_whatever_the_locale(locale: str, encoding: str | None, tmp_path: Path):
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if encoding:
        environment["PYTHONIOENCODING"] = encoding
    done = subprocess.run(
        [*MODULE, "generate-instructions", "日本 caf\xe9".encode(), "--stage", "align", "-o", "out",
         "--json"],
        capture_output=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 4
    assert "Traceback" not in done.stderr.decode()
    json.loads(done.stdout.decode("utf-8"))


def test_controls_are_spelled_out_and_words_stay():
    assert printable("a\x1b]52;c;aGk=\x07b\x9b2J\r\n\tc\u202e") == (
        "a\\x1b]52;c;aGk=\\x07b\\x9b2J\n\tc\\u202e"
    )
    assert printable("Röntgen 日本 \U0001f9e0 \u05d0") == "Röntgen 日本 \U0001f9e0 \u05d0"


def test_typed_bytes_that_are_not_utf_8_are_read_as_latin_1():
    assert repair(os.fsdecode("Röntgen?".encode("latin-1"))) == "Röntgen?"
    assert repair("Röntgen 日本") == "Röntgen 日本"


def test_help_says_each_default_once_and_speaks_in_sentences():
    for command in [*STEPS, "env"]:
        shown = CliRunner().invoke(app, [command, "--help"]).stdout
        assert shown.isascii()
        assert shown.count("[default: ") == shown.lower().count("[default: ")
        assert "<" not in shown, "a type stands where a word should"


VERBS = {
    "Answer", "Ask", "Change", "Collect", "Compute", "Cut", "Do", "Draw", "Drop", "Fetch", "Go",
    "Have", "Keep", "Let", "Load", "Log", "Look", "Make", "Measure", "Name", "Open", "Permute",
    "Print", "Publish", "Push", "Put", "Quantize", "Read", "Run", "Save", "Say", "Score", "Send",
    "Serve", "Share", "Show", "Start", "Stop", "Take", "Tell", "Test", "Train", "Use", "Work",
    "Write",
}  # fmt: skip


def test_every_option_is_told_in_a_whole_sentence():
    """It says what to do, with a verb, and ends; what it is by default stands in brackets."""
    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            if not (text := getattr(parameter, "help", None)):
                continue
            told = text.partition(" [default: ")[0]
            where = f"{name} {parameter.name}: {text}"
            assert told.split()[0] in VERBS, where
            assert told.endswith("."), where
            assert len(told.split()) > 2, where
            assert "default" not in told, where


def test_env_tells_versions_devices_and_extras():
    value = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)["summary"]
    assert value["packages"]["torch"]
    assert "free" in value["devices"]["cpu"]
    for name, is_there in value["extras"].items():
        assert is_there != (name in value["missing"])


def test_a_disk_that_is_full_for_sqlite_is_no_bug_of_ours(tmp_path):
    base = sqlite3.connect(tmp_path / "listing.sqlite")
    base.execute("CREATE TABLE listing (name TEXT)")
    base.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as refused:
        base.executemany("INSERT INTO listing VALUES (?)", [("x" * 4000,)] * 10)
    failure = explain(refused.value)
    assert failure.exit_code == 7
    assert "No space left" in failure.message
