"""Every command line of the documentation is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from medllava.cli.app import app
from medllava.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_START = re.compile(
    r"(?:\$ )?((?:[A-Z_]+=\S+ )*)(?:medllava|torchrun .*-m medllava|srun .*medllava) "
)
_ELLIPSES = {"...", "…"}


def documented_commands(text: str) -> list[str]:
    """Return what stands behind `medllava` in indented blocks and `code`, lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`(medllava [^`]+)`", joined.replace("\n", " "))
    return [
        re.split(r"\s(?:\||>|2>|#|&&|&|;)\s?", line[match.end() :])[0]
        for line in lines
        if (match := _START.match(line))
    ]


def commands() -> list[tuple[str, str]]:
    return [
        (page.name, command)
        for page in PAGES
        for command in dict.fromkeys(documented_commands(page.read_text()))
    ]


def _with_values(command: str) -> str:
    """Put values where a text has [optional] words, first|second, N, or stops at an option."""
    command = re.sub(r"[\[\]]", "", command)
    command = re.sub(r"(?<=\s)(\w+)\|[\w|]+", r"\1", command)
    command = re.sub(r"(?<=\s)[A-Z](?=\s|$)", "1", command)
    if command.startswith("train") and "--stage" not in command:
        command += " --stage 1"
    return command


def refusal(command: str) -> str:
    """Parse a command line without running it; return why it is refused, empty if it is taken."""
    words = [word for word in shlex.split(_with_values(command)) if word not in _ELLIPSES]
    group = typer.main.get_command(app)
    context = group.make_context("medllava", [], resilient_parsing=True)
    try:
        name, subcommand, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
        # What a text leaves out (an `-o`) is not asked for; what it says must exist and fit.
        for parameter in subcommand.params:
            parameter.required = False
        subcommand.make_context(name, rest, parent=context)
    except Exception as error:  # noqa: BLE001 - typer's own copy of click raises what it likes
        if type(error).__name__ == "Exit":  # --help and --version end here
            return ""
        words_of = getattr(error, "format_message", None)
        return f"{type(error).__name__}: {words_of() if words_of else error}"
    return ""


@pytest.mark.parametrize(("page", "command"), commands())
def test_the_command_line_takes_it(page: str, command: str) -> None:
    assert not refusal(command), f"{page}: medllava {command}"


def test_the_documentation_is_found() -> None:
    found = commands()
    assert len(found) > 60
    assert {"fetch-pmc", "generate-instructions", "train", "eval", "chat", "push"} <= {
        command.split()[0] for _, command in found
    }


def test_an_option_that_does_not_exist_is_seen() -> None:
    assert "no-such-option" in refusal("train --no-such-option 1")
    assert "integer" in refusal("train --max-steps many")
    assert refusal("training --stage 1")


def test_every_setting_that_a_page_names_exists() -> None:
    recipe = load_recipe("debug").to_toml_values()
    named = {
        (page.name, key)
        for page in PAGES
        for command in documented_commands(page.read_text())
        if command.startswith("train")
        for key in re.findall(r"--set ([a-z_.]+)=", command)
    }
    assert named
    for page, key in sorted(named):
        value: object = recipe
        for part in key.split("."):
            assert isinstance(value, dict), f"{page}: no setting {key}"
            assert part in value, f"{page}: no setting {key}"
            value = value[part]
