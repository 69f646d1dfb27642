"""Assembly of the command line: six commands and `env`, how each run ends, the version.

No command module imports the library at its top, so `--help` loads neither torch nor lxml.
"""

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Never

import typer
import typer.core

from medllava import __version__
from medllava.cli import (
    chat,
    environment,
    evaluate,
    evaluate_chat,
    fetch_pmc,
    generate_instructions,
    push,
    train,
)
from medllava.cli.console import print_result, report_failure
from medllava.cli.help import HelpCommand
from medllava.cli.outcome import EXIT_INTERRUPTED, Failure, explain
from medllava.cli.results import Results, abandon_stdout, open_results, prepare_streams


class _Stopped(Exception):  # noqa: N818 - carries an exception past typer, which would swallow it
    """What ended a command, other than an error of usage."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class OutcomeGroup(typer.core.TyperGroup):
    """Ends every run with an exit code and, under `--json`, with exactly one object."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer vendors click's Context
        """Run the command.

        Raises:
            _Stopped: it failed, or was interrupted.
        """
        try:
            return super().invoke(ctx)
        except (OSError, EOFError, KeyboardInterrupt) as cause:
            raise _Stopped(cause) from cause

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        **extra: Any,  # noqa: ANN401 - typer's own
    ) -> Never:
        """Run the command line and leave.

        Raises:
            SystemExit: always, with the exit code.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        extra = {**extra, "standalone_mode": False}
        prepare_streams()
        with open_results(json_only=_wants_json(arguments)) as results:
            try:
                code = super().main(arguments, prog_name, complete_var, **extra)
                code = _finish(results, arguments, code if isinstance(code, int) else 0)
            except BaseException as error:  # noqa: BLE001 - the outermost place: all is told here
                code = _fail(results, arguments, error)
        sys.exit(code)

    def resolve_command(  # type: ignore[override]  # typer vendors click's Context
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, Any, list[str]]:
        """Find the command; one of two words, as `eval chat`, comes before one of its first."""
        two = " ".join(args[:2])
        if len(args) > 1 and two in self.commands:
            return two, self.commands[two], args[2:]
        return super().resolve_command(ctx, args)  # type: ignore[arg-type]

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # noqa: ANN401, ARG002 - typer's
        """Write each command with its whole sentence."""
        rows = [(name, command.help or "") for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether an object is wanted, also of arguments that cannot be parsed."""
    return "--json" in arguments


def _command_of(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def _finish(results: Results, arguments: Sequence[str], code: int) -> int:
    """Add the object of a run that printed none, such as `--help`."""
    if not _wants_json(arguments) or results.num_objects or results.is_told_elsewhere:
        return code
    if code == 0:
        print_result(_command_of(arguments))
    else:
        type_ = "Interrupted" if code == EXIT_INTERRUPTED else "Exit"
        failure = Failure(type=type_, message=f"it ended with code {code}.", exit_code=code)
        report_failure(failure, command=_command_of(arguments), json_output=True)
    return code


def _fail(results: Results, arguments: Sequence[str], error: BaseException) -> int:
    """Tell what ended the run; return its exit code."""
    cause = error.cause if isinstance(error, _Stopped) else error
    if isinstance(cause, SystemExit):
        return cause.code if isinstance(cause.code, int) else int(cause.code is not None)
    failure = explain(cause)
    wants_object = _wants_json(arguments) and not results.is_told_elsewhere
    try:
        report_failure(failure, command=_command_of(arguments), json_output=wants_object)
        sys.stdout.flush()
    except OSError:  # stdout or stderr itself is what broke
        abandon_stdout()
    return failure.exit_code


app = typer.Typer(
    name="medllava",
    cls=OutcomeGroup,
    help="From PubMed Central to a biomedical vision-language assistant. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help in half the time, and in any terminal
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
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
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """From PubMed Central to a biomedical vision-language assistant. Research use only."""


app.command("fetch-pmc", cls=HelpCommand)(fetch_pmc.run)
app.command("generate-instructions", cls=HelpCommand)(generate_instructions.run)
app.command("train", cls=HelpCommand)(train.run)
app.command("eval", cls=HelpCommand)(evaluate.run)
app.command("eval chat", cls=HelpCommand)(evaluate_chat.run)
app.command("chat", cls=HelpCommand)(chat.run)
app.command("push", cls=HelpCommand)(push.run)
app.command("env", cls=HelpCommand)(environment.run)


def main() -> None:
    """Run the console script; Ctrl-C ends it though a thread waits for a server that hangs.

    The interpreter would wait for that thread first. What must not be lost was written and told
    before this point.
    """
    try:
        app()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED and threading.active_count() > 1:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        raise
