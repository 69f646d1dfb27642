"""Command lines that no one would type, and files that no one would name, for every command.

Seeded, so that a failure can be run again: `python tests/benchmarks/cli_fuzz.py --seed N`.
"""

import json
import random
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner, Result

from medllava.cli.app import app

COMMANDS = ("fetch-pmc", "generate-instructions", "train", "eval", "chat", "push", "env")
CLIPBOARD, TITLE, CLEAR, C1 = "\x1b]52;c;aGk=\x07", "\x1b]0;gotcha\x07", "\x1b[2J", "\x9b2J"
VALUES = (
    *("", " ", "0", "-1", "1e309", "nan", "99999999999999999999", "x", "--", "-", "--json", "-5 5"),
    *("~", "~/nowhere.png", "/dev/full", "/dev/null", "/proc/self/mem", "/", ".", "..", "a=b", "="),
    *("align", "instruct", "all", "local:", "recorded:", "template", "vqarad", "chat", "\u0000"),
    *(
        "file:///etc/hostname",
        "http://127.0.0.1:9/x.png",
        "\u202egnp.exe",
        "\udcff\udce9",
        "日本語",
    ),
    *("日本語", "x" * 5000, "'quoted name.png'", f"name{TITLE}.png", f"{CLEAR}{CLIPBOARD}", C1),
)
INPUTS = (b"", b"\n\n", b"What?\n", b"caf\xe9 \xff\xfe\n", b"\x1b]0;x\x07\n", b"{}", b"\x00")
_REACHES = {
    "fetch-pmc": ["--base-url", "http://127.0.0.1:9"],  # nothing listens there
    "chat": ["--host", "203.0.113.7"],  # not ours: cannot be bound, so --web never serves
}
_NEVER = {"--help", "--install-completion", "--show-completion", "--executor", "--classifier"}
"""Classifier and executor import what they are told to."""


def command_line(chance: random.Random, command: str, folder: Path) -> list[str]:
    """Draw options and values, right and wrong, for one command."""
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    words = [command, *_REACHES.get(command, [])]
    for parameter in chance.sample(parameters, k=chance.randint(0, min(5, len(parameters)))):
        name = chance.choice([*parameter.opts, *parameter.secondary_opts])
        if name in _NEVER:
            continue
        if parameter.param_type_name == "option":
            words.append(name if chance.random() < 0.95 else f"{name}z")
        if not getattr(parameter, "is_flag", False) and chance.random() < 0.95:
            words += [_value(chance, folder, parameter) for _ in range(max(1, parameter.nargs))]
    return [*words, "--json"]


def _value(chance: random.Random, folder: Path, parameter: Any) -> str:
    descriptor = parameter.type_descriptor
    if chance.random() < 0.5:  # a value that is taken, to come further in
        if descriptor.is_choice:
            return chance.choice(
                [str(getattr(choice, "value", choice)) for choice in descriptor.choices]
            )
        if descriptor.annotation in {int, float}:
            return chance.choice(["1", "2", "3"])
    if chance.random() < 0.4:
        return str(folder / chance.choice(["empty", "file.txt", "folder", "new/er", "file.txt/in"]))
    return chance.choice(VALUES)


def prepare(folder: Path) -> None:
    """Write the few paths that the command lines name."""
    (folder / "folder").mkdir()
    (folder / "empty").write_bytes(b"")
    (folder / "file.txt").write_text("not what is expected\n")


def run(words: list[str], stdin: bytes, folder: Path) -> Result:
    """Run a command line with no checkpoint and no hub in reach."""
    environment = {
        "MEDLLAVA_CKPT": str(folder / "folder"),
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
        "MEDLLAVA_BASE_URL": "http://127.0.0.1:9/v1",
    }
    return CliRunner().invoke(app, words, input=stdin, env=environment)


def complaint(result: Result, words: list[str]) -> str:
    """Return what is wrong with how a run ended; empty where nothing is."""
    if result.exit_code not in {0, 2, 3, 4, 5, 6, 7} or "Traceback" in result.stderr:
        return f"exit code {result.exit_code}: {result.stderr[-3000:]}"
    if any(control in result.output for control in "\x1b\x07\x9b\u202e"):
        return f"control characters reach the terminal: {result.output!r}"
    lines = result.stdout.splitlines()
    if len(lines) != 1:
        return f"{len(lines)} lines on stdout: {lines!r}"
    value = json.loads(lines[0])
    wanted = {0: "ok", 6: "incomplete"}.get(result.exit_code, "error")
    code = value.get("error", {}).get("exit_code", result.exit_code)
    if (value["status"], value["command"], code) != (wanted, words[0], result.exit_code):
        return f"not the object of {words[0]} with {wanted}, {result.exit_code}: {value}"
    return ""


def fuzz(command: str, folder: Path, *, seed: int, count: int) -> list[str]:
    """Run `count` drawn command lines; return what is wrong with each that is wrong."""
    found = []
    for number in range(count):
        chance = random.Random(f"{command} {seed} {number}")
        words = command_line(chance, command, folder)
        result = run(words, chance.choice(INPUTS), folder)
        if wrong := complaint(result, words):
            found.append(f"{words!r}\n  {wrong}")
    return found
