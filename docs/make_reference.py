"""Write the reference pages from the code: every option, and every recipe setting.

A setting or an option without a meaning is an error: a page of names explains nothing.

python docs/make_reference.py          # rewrite docs/reference-*.md
python docs/make_reference.py --check  # exit 1 if a page differs from the code
"""

import ast
import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Any

import typer.main

import medllava.pmc.config
import medllava.recipe
from medllava.cli.app import app

DOCS = Path(__file__).parent


def render_commands() -> str:
    """Return one section per command: its help line, arguments and options."""
    lines = ["# Commands", "", "Made by `python docs/make_reference.py`; do not edit.", ""]
    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        lines += [f"## medllava {name}", "", inspect.cleandoc(command.help or ""), ""]
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                label = f"`{parameter.name.upper()}`" + (
                    "" if parameter.required else " (optional)"
                )
            else:
                label = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
            text = (parameter.help or "").replace("|", "\\|")
            if not text:
                sys.exit(f"medllava {name}: {label} has no help text; say what it means")
            if parameter.envvar:
                text += f" Environment: `{parameter.envvar}`."
            kind = _type(parameter.type_descriptor.annotation)
            lines.append(f"| {label} | {kind} | {_option_default(parameter)} | {text} |")
        lines.append("")
        if name == "fetch-pmc":
            lines += _fetch_settings()
    return "\n".join(lines)


def _fetch_settings() -> list[str]:
    """Return the tables of `--set` and of the TOML file of `fetch-pmc`."""
    notes = _field_notes(Path(medllava.pmc.config.__file__))
    hints = typing.get_type_hints(medllava.pmc.config.FetchConfig)
    fields = {f.name: f for f in dataclasses.fields(medllava.pmc.config.FetchConfig)}
    lines = ["Rarer settings of `fetch-pmc`, for `--set` and for its TOML file:", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for table, names in medllava.pmc.config.SETTINGS.items():
        for name in names:
            note = notes.get(("FetchConfig", name), "")
            if not note:
                sys.exit(f"fetch-pmc setting {table}.{name} has no docstring; say what it means")
            kind, default = _type(hints[name]), _default(fields[name])
            lines.append(f"| `{table}.{name}` | {kind} | {default} | {note} |")
    return [*lines, ""]


def render_recipe() -> str:
    """Return one table per recipe table: key, type, default, and its field docstring."""
    lines = ["# Recipe settings", "", "Made by `python docs/make_reference.py`; do not edit.", ""]
    notes = _field_notes(Path(medllava.recipe.__file__))
    tables = [("", medllava.recipe.Recipe)]
    while tables:
        prefix, config = tables.pop(0)
        hints = typing.get_type_hints(config)
        lines += [f"## {f'[{prefix}]' if prefix else 'top level'}", ""]
        lines += [(config.__doc__ or "").strip().splitlines()[0], ""]
        rows = []
        for field in dataclasses.fields(config):
            hint = hints[field.name]
            key = f"{prefix}.{field.name}" if prefix else field.name
            if dataclasses.is_dataclass(hint):
                tables.append((key, hint))
                continue
            owners = (notes.get((owner.__name__, field.name), "") for owner in config.__mro__)
            note = next(filter(None, owners), "")
            if not note:
                sys.exit(f"recipe setting {key} has no docstring; say what it means")
            rows.append(f"| `{field.name}` | {_type(hint)} | {_default(field)} | {note} |")
        if rows:
            lines += ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _field_notes(source: Path) -> dict[tuple[str, str], str]:
    """Map (class, field) to the string literal below the field."""
    notes = {}
    for node in ast.parse(source.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                text = re.sub(r"\s+", " ", str(below.value.value)).strip()
                notes[node.name, field.target.id] = text.replace("|", "\\|")
    return notes


def _type(hint: object) -> str:
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return ", ".join(f"`{member}`" for member in hint)
    plain = typing.get_args(hint) and not isinstance(hint, type)
    text = str(hint) if plain else str(getattr(hint, "__name__", hint))
    return text.replace("pathlib.", "").replace(" | None", ", or unset").replace("|", "\\|")


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else "empty"
    return (
        "unset"
        if field.default is None
        else f"`{field.default!s}`"
        if field.default != ""
        else "empty"
    )


def _option_default(parameter: Any) -> str:  # noqa: ANN401 - typer exports no type for it
    default = parameter.default
    if default is None or callable(default) or default in ((), [], ""):
        return "required" if parameter.required else ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{default}`"


def main(arguments: list[str]) -> None:
    """Write the pages, or compare them."""
    pages = {"reference-commands.md": render_commands(), "reference-recipe.md": render_recipe()}
    if "--check" in arguments:
        stale = [name for name, text in pages.items() if (DOCS / name).read_text() != text]
        if stale:
            sys.exit(
                f"{', '.join(stale)}: differs from the code; run python docs/make_reference.py"
            )
        return
    for name, text in pages.items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
