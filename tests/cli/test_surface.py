"""The tree of commands and options is frozen: growing it is a decision, made in the JSON."""

import json
from pathlib import Path

import typer.main

from medllava.cli.app import app

FROZEN = Path(__file__).with_name("test_surface.json")


def surface() -> dict[str, list[str]]:
    group = typer.main.get_command(app)
    return {
        name: sorted(
            "/".join([*p.opts, *p.secondary_opts]) if p.param_type_name == "option" else p.name
            for p in command.params
        )
        for name, command in sorted(group.commands.items())
    }


def test_commands_and_options_are_the_frozen_ones():
    assert surface() == json.loads(FROZEN.read_text())


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(surface(), indent=1) + "\n")
