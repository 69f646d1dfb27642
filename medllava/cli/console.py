"""The one sink of the command line: results to stdout, talk to stderr, one JSON object for scripts.

Every command builds a `Console` from its own `--json`, `--quiet` and `--verbose` and hands it the
step's summary. Progress bars are drawn on a terminal only.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from medllava.errors import MedllavaError
from medllava.progress import Progress, SilentProgress
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
        logging.basicConfig(
            level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
        )
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

    def say(self, text: str) -> None:
        """Print a result for a person on stdout; dropped under `--json` and `--quiet`."""
        if not (self.json_output or self.quiet):
            typer.echo(text)

    def hint(self, text: str) -> None:
        """Print talk on stderr; dropped under `--json` and `--quiet`."""
        if not (self.json_output or self.quiet):
            typer.echo(text, err=True)

    def finish(self, summary: StepSummary) -> None:
        """Print the outcome and leave, with exit code 6 if some items are left.

        Raises:
            typer.Exit: the step finished but is incomplete.
        """
        artifacts = {name: str(path) for name, path in summary.artifacts.items()}
        if self.json_output:
            status = "ok" if summary.complete else "incomplete"
            print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "command": self.command,
                    "status": status,
                    "summary": {**summary.counts, **summary.details},
                    "artifacts": artifacts,
                }
            )
        elif self.quiet:
            if artifacts:
                typer.echo(next(iter(artifacts.values())))
        else:
            for name, value in summary.counts.items():
                number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
                typer.echo(f"{name.replace('_', ' '):<28} {number:>14}")
            for name, path in artifacts.items():
                typer.echo(f"{name.replace('_', ' '):<28} {path}")
        if not summary.complete:
            self.hint("Some items are left. Run the same command again to go on.")
            raise typer.Exit(EXIT_INCOMPLETE)
        if summary.hint:
            self.hint(f"Next: {summary.hint}")


def print_json(value: dict[str, object]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))


def report_error(error: MedllavaError, *, command: str, json_output: bool) -> None:
    """Print a known error: one line on stderr, and the JSON object where it was asked for."""
    typer.echo(f"Error: {error}", err=True)
    if json_output:
        print_json(
            {
                "schema_version": SCHEMA_VERSION,
                "command": command,
                "status": "error",
                "summary": {},
                "artifacts": {},
                "error": {
                    "type": type(error).__name__,
                    "message": str(error),
                    "exit_code": error.exit_code,
                },
            }
        )


class _LineProgress(SilentProgress):
    """Progress for a pipe or a log file: phases and notes as lines on stderr."""

    def start(self, phase: str, *, total: int | None = None) -> None:
        """Print the phase."""
        typer.echo(f"{phase}{'' if total is None else f' ({total:,})'}", err=True)

    def note(self, message: str) -> None:
        """Print the note."""
        typer.echo(f"  {message}", err=True)
