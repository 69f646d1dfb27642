"""Help as plain text: the sections a command names, one line of names and one of meaning each.

Plain, because rich's panels cost as much time as all the rest and need a terminal that draws them.
"""

import re
from pathlib import Path
from typing import Any

import typer
import typer.core

_RANGE = re.compile(r"(?:([\d.]+)<=)?x(?:>=([\d.]+)|<=([\d.]+))")
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class HelpCommand(typer.core.TyperCommand):
    """A command whose options stand under the headings of their `rich_help_panel`."""

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # noqa: ANN401 - typer's private class
        """Write arguments, then the options section by section, then those all commands share."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[arg-type]  # typer's own context
            record = parameter.get_help_record(ctx)  # type: ignore[arg-type]
            if record is None:
                continue
            panel = getattr(parameter, "rich_help_panel", None)
            is_argument = parameter.param_type_name == "argument"
            name = panel or ("Arguments" if is_argument else "Options")
            meaning = _RANGE.sub(_say_range, record[1])
            sections.setdefault(name, []).append((_label(parameter, record[0]), meaning))
        sections["Options"] = sections.pop("Options", [])
        for name, rows in sections.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows, col_max=26)


def _say_range(found: re.Match[str]) -> str:
    low, alone, high = found.groups()
    return f"at least {alone}" if alone else f"from {low} to {high}" if low else f"at most {high}"


def _label(parameter: Any, given: str) -> str:  # noqa: ANN401 - typer's private classes
    """Return a parameter's names with what to put there, such as `--limit N`."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names = f"{names} / {', '.join(parameter.secondary_opts)}"
    if parameter.is_flag or parameter.count:
        return names
    annotation = parameter.type_descriptor.annotation
    inner = (getattr(annotation, "__args__", None) or (annotation,))[0]
    placeholder = parameter.metavar or _PLACEHOLDERS.get(inner)
    if placeholder is None:  # a choice: typer lists them in its own label
        placeholder = given.rpartition(" ")[2].strip("<>").removeprefix("list[").rstrip("]")
    return f"{names} {placeholder}"
