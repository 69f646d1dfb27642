"""The one sink of the command line: results to stdout, talk to stderr, one JSON object for scripts.

Every command builds a `Console` from its own `--json`, `--quiet` and `--verbose` and hands it the
step's summary. Progress bars are drawn on a terminal only.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from medllava.cli import results
from medllava.printable import printable
from medllava.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from medllava.cli.outcome import Failure
    from medllava.records import StepSummary

SCHEMA_VERSION = 1
EXIT_INCOMPLETE = 6


class Console:
    """Prints a command's outcome in the form its user asked for."""

    def __init__(
        self, command: str, *, json_output: bool = False, quiet: bool = False, verbose: int = 0
    ) -> None:
        """Remember the form and set the log level.

        Args:
            command: name as typed, for the JSON object.
            json_output: exactly one JSON object on stdout and nothing else.
            quiet: the main artifact's path only.
            verbose: 0 warnings, 1 information, 2 debugging, all on stderr.
        """
        self.command = command
        self.json_output = json_output
        self.quiet = quiet
        level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=level, handlers=[handler])
        logging.getLogger("medllava").setLevel(level)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield a progress that fits: bars on a terminal, lines on a pipe, else silence."""
        if self.json_output or self.quiet:
            yield SilentProgress()
        elif sys.stderr.isatty():
            from medllava.cli.progress_bars import BarProgress

            with BarProgress() as bars:
                yield bars
        else:
            yield _LineProgress()

    def say(self, text: str, **style: Any) -> None:  # noqa: ANN401 - typer.secho's
        """Print a result for a person on stdout; dropped under `--json` and `--quiet`."""
        if not (self.json_output or self.quiet):
            typer.secho(printable(text), **style)

    def tell(self, text: str) -> None:
        """Print on stderr what must be known even under `--json` and `--quiet`."""
        typer.echo(printable(text), err=True)

    def leave_to_another(self) -> None:
        """Print no outcome: this is one of several processes, and another one tells it."""
        results.current().is_told_elsewhere = True

    def hint(self, text: str) -> None:
        """Print talk on stderr; dropped under `--json` and `--quiet`."""
        if not (self.json_output or self.quiet):
            self.tell(text)

    def finish(self, summary: "StepSummary") -> None:
        """Print the outcome and leave, with exit code 6 if some items are left.

        Raises:
            typer.Exit: the step finished but is incomplete.
        """
        artifacts = {name: str(path) for name, path in summary.artifacts.items()}
        if self.json_output:
            status = "ok" if summary.complete else "incomplete"
            print_result(
                self.command,
                status=status,
                summary={**summary.counts, **summary.details},
                artifacts=artifacts,
            )
        elif self.quiet:
            if artifacts:
                typer.echo(printable(next(iter(artifacts.values()))))
        else:
            for name, value in summary.counts.items():
                number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
                self.say(f"{name.replace('_', ' '):<28} {number:>14}")
            for name, path in artifacts.items():
                self.say(f"{name.replace('_', ' '):<28} {path}")
        if not summary.complete:
            why = summary.details.get("stopped_by")
            self.hint(f"Stopped: {why}" if why else "Some items are left.")
            self.hint("Run the same command again to go on.")
            raise typer.Exit(EXIT_INCOMPLETE)
        if summary.hint:
            self.hint(f"Next: {summary.hint}")


def print_result(
    command: str,
    *,
    status: str = "ok",
    summary: dict[str, object] | None = None,
    artifacts: dict[str, str] | None = None,
    error: dict[str, object] | None = None,
) -> None:
    """Print the object of a run, or of one turn of it, on stdout."""
    value: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "status": status,
        "summary": summary or {},
        "artifacts": artifacts or {},
    }
    results.current().print_object(value if error is None else {**value, "error": error})


def report_failure(
    failure: "Failure",
    *,
    command: str,
    json_output: bool,
    summary: dict[str, object] | None = None,
) -> None:
    """Print what ended a run on stderr, and the object where it was asked for."""
    if failure.details:
        typer.echo(printable(failure.details), err=True, nl=False)
    typer.echo(f"Error: {printable(failure.message)}", err=True)
    if json_output:
        error: dict[str, object] = {
            "type": failure.type,
            "message": failure.message,
            "exit_code": failure.exit_code,
        }
        print_result(command, status="error", summary=summary, error=error)


class _PrintableFormatter(logging.Formatter):
    """Log lines without control characters: they quote files, servers and models."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


class _LineProgress(SilentProgress):
    """Progress for a pipe or a log file: phases and notes as lines on stderr."""

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Print the phase."""
        typer.echo(printable(f"{phase}{'' if total is None else f' ({total:,})'}"), err=True)

    def note(self, message: str) -> None:
        """Print the note."""
        typer.echo(printable(f"  {message}"), err=True)
