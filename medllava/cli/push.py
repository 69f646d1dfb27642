"""`medllava push`: publish a model or a data set with its card and licenses."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import GateName, Json, Privacy, Quiet, Verbose


class Gated(StrEnum):
    """Who lets readers in."""

    AUTO = "auto"
    MANUAL = "manual"


def run(
    folder: Annotated[
        Path,
        typer.Argument(help="Publish this folder of train, fetch-pmc or generate-instructions."),
    ],
    repo: Annotated[
        str | None,
        typer.Argument(
            help="Publish to this repository of the hub, owner/name; without one, see --export."
        ),
    ] = None,
    exports: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            metavar="FORMAT",
            help="Write files for other engines too, kept only if they answer as transformers "
            "does: gguf (llama.cpp, Ollama), gguf-f32, gguf-f16, gguf-q8_0, gguf-q4_1, adapter "
            "(peft), fp8 (vLLM). Repeatable; without a repository nothing is sent.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Put the files together in this folder. [default: FOLDER/push, or FOLDER/export]",
        ),
    ] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval", help="Put the scores of this evaluation on the card too; repeatable."
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public/--private", help="Let everyone see a new repository, or only you."),
    ] = False,
    gated: Annotated[
        Gated | None,
        typer.Option(
            "--gated", help="Let readers ask first: the hub grants it at once, or you do."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Push to this branch; it is made if absent.")
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
    privacy: Privacy = GateName.AUTO,
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
    from medllava.privacy.findings import PrivacyMode

    if not repo and not exports:
        raise typer.BadParameter("name a repository, or --export FORMAT to write files only.")
    console = Console("push", json_output=json_output, quiet=quiet, verbose=verbose)
    config = PushConfig(
        folder=folder,
        repo_id=repo or "",
        exports=tuple(exports or ()),
        output_dir=output_dir,
        reports=tuple(reports or ()),
        private=not public,
        gated=gated.value if gated else None,
        revision=revision,
        create_pr=create_pr,
        accepted_risks=tuple(accepted_risks or ()),
        privacy=PrivacyMode(privacy.value),
        load_check=load_check,
        dry_run=dry_run,
    )
    with console.progress() as progress:
        summary = push(config, progress=progress)
    if url := summary.details.get("url"):
        console.say(f"{'address':<28} {url}")
    console.finish(summary)
