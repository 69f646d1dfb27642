"""Assembly of the command line: six commands, the error map, the version.

No command module imports the library at its top, so `--help` loads neither torch nor lxml.
"""

from typing import Annotated

import typer
import typer.core

from medllava import __version__
from medllava.cli import chat, evaluate, fetch_pmc, generate_instructions, push, train
from medllava.cli.console import report_error
from medllava.errors import MedllavaError


class ErrorMappingGroup(typer.core.TyperGroup):
    """Turns a `MedllavaError` into one line on stderr and its exit code."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer vendors click's Context
        """Run the command.

        Raises:
            typer.Exit: with the exit code of the error.
        """
        args = [*ctx._protected_args, *ctx.args]  # noqa: SLF001 - the only place raw arguments are
        try:
            return super().invoke(ctx)
        except MedllavaError as error:
            report_error(error, command=args[0] if args else "", json_output="--json" in args)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="medllava",
    cls=ErrorMappingGroup,
    help="From PubMed Central to a biomedical vision-language assistant. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Route: fetch-pmc, generate-instructions, train, eval, chat, push.",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"medllava {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
) -> None:
    """From PubMed Central to a biomedical vision-language assistant. Research use only."""


app.command("fetch-pmc")(fetch_pmc.run)
app.command("generate-instructions")(generate_instructions.run)
app.command("train")(train.run)
app.command("eval")(evaluate.run)
app.command("chat")(chat.run)
app.command("push")(push.run)


def main() -> None:
    """Entry point of the console script."""
    app()
