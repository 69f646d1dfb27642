"""`medllava train`: one stage of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import DryRun, Json, Overrides, Quiet, Resume, Verbose

DEFAULT_RECIPE = "llava-med-v1.5"


def run(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe or path of a .toml file.")] = (
        DEFAULT_RECIPE
    ),
    stage: Annotated[
        str, typer.Option("--stage", help="1 align, 2 instruct, 3 finetune.", show_default=False)
    ] = "",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs (CPU ranks) per node.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Instructions folder or file; stage 3: also a benchmark."),
    ] = None,
    image_dir: Annotated[
        Path | None, typer.Option("--image-dir", help="Folder the image paths are relative to.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", help="Checkpoint to start from; 'parts' builds it from the recipe's parts."
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", help="Folder to write.", show_default="runs/RECIPE/STAGE"
        ),
    ] = None,
    overrides: Overrides = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.")
    ] = None,
    validation_data: Annotated[
        Path | None, typer.Option("--validation-data", help="Held-out records to measure loss on.")
    ] = None,
    resume: Resume = True,
    dry_run: DryRun = False,
    show_sample: Annotated[
        bool,
        typer.Option("--show-sample", help="Print one sample and what is masked; no training."),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train one stage of a recipe."""
    from medllava.errors import SetupError
    from medllava.train.options import resolve_config
    from medllava.train.run import train_stage

    console = Console("train", json_output=json_output, quiet=quiet, verbose=verbose)
    config = resolve_config(
        recipe,
        stage=stage,
        overrides=overrides or [],
        data=data,
        image_dir=image_dir,
        init=init,
        output_dir=output_dir,
        max_steps=max_steps,
        validation_data=validation_data,
        resume=resume,
    )
    if gpus > 1 or nodes > 1 or dry_run or show_sample:
        raise SetupError(
            "--gpus, --nodes, --dry-run and --show-sample are not available yet. "
            "Train on one process without them."
        )
    with console.progress() as progress:
        summary = train_stage(config, progress=progress)
    console.finish(summary)
