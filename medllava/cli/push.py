"""`medllava push`: publish a model or a data set with its card and licences."""

from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import Json, Quiet, Verbose


def run(
    folder: Annotated[
        Path, typer.Argument(help="Folder written by train, fetch-pmc or generate-instructions.")
    ],
    repo: Annotated[str, typer.Argument(help="Repository on the hub, as owner/name.")],
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder to put together [default: FOLDER/push]."),
    ] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option("--eval", help="Folder of an evaluation outside FOLDER/eval; repeatable."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to push to; made if absent.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of pushing to main.")
    ] = False,
    accepted_risks: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-license-risk", metavar="NAME", help="Publish despite this risk; repeatable."
        ),
    ] = None,
    load_check: Annotated[
        bool,
        typer.Option(
            "--load-check/--no-load-check",
            help="Load the model in a fresh process and ask it one question first.",
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder and card; open no connection.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Publish a model or data set, with a card whose every number has a source."""
    from medllava.hub.config import PushConfig
    from medllava.hub.push import push

    console = Console("push", json_output=json_output, quiet=quiet, verbose=verbose)
    config = PushConfig(
        folder=folder,
        repo_id=repo,
        output_dir=output_dir,
        reports=tuple(reports or ()),
        private=private,
        revision=revision,
        create_pr=create_pr,
        accepted_risks=tuple(accepted_risks or ()),
        load_check=load_check,
        dry_run=dry_run,
    )
    with console.progress() as progress:
        summary = push(config, progress=progress)
    console.finish(summary)
