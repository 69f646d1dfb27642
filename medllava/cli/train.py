"""`medllava train`: one stage of a recipe."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medllava.cli.console import EXIT_INCOMPLETE, Console
from medllava.cli.options import DryRun, GateName, Json, Overrides, Privacy, Quiet, Resume, Verbose

if TYPE_CHECKING:
    from medllava.train.config import StageRunConfig

DEFAULT_RECIPE = "llava-med-v1.5"
_STAGES = ("align", "instruct", "finetune", "prefer", "reinforce")


def _check_stage(value: str) -> str:
    numbers = [str(number) for number in range(1, len(_STAGES) + 1)]
    if value not in (*numbers, *_STAGES):
        named = ", ".join(f"{n} ({name})" for n, name in zip(numbers, _STAGES, strict=True))
        raise typer.BadParameter(f"{value!r} is not one of {named}.")
    return value


def run(
    recipe: Annotated[
        str,
        typer.Argument(help="Train by this recipe: a shipped one, or the path of a .toml file."),
    ] = (DEFAULT_RECIPE),
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help="Train stage 1 (align), 2 (instruct), 3 (finetune), 4 (prefer) or 5 (reinforce).",
            show_default=False,
            callback=_check_stage,
        ),
    ] = "",
    gpus: Annotated[
        int,
        typer.Option("--gpus", min=1, help="Run on this many GPUs (or CPU ranks) of each machine."),
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Run on this many machines.")] = 1,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="PATH[:WEIGHT]",
            help="Train on this instructions folder or file; stage 3: or a benchmark; 4: on "
            "preferences; 5: on questions or a benchmark. Several are mixed.",
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option("--image-dir", help="Read the images that the data names from this folder."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", help="Start from this checkpoint; 'parts' builds one from the recipe's parts."
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Write into this folder; it is made if absent.",
            show_default="runs/RECIPE/STAGE",
        ),
    ] = None,
    overrides: Overrides = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.")
    ] = None,
    validation_data: Annotated[
        Path | None,
        typer.Option("--validation-data", help="Measure the loss on these held-out records too."),
    ] = None,
    privacy: Privacy = GateName.AUTO,
    resume: Resume = True,
    dry_run: DryRun = False,
    show_sample: Annotated[
        bool,
        typer.Option(
            "--show-sample",
            help="Print one record as the model sees it and what is masked; train nothing.",
        ),
    ] = False,
    record_id: Annotated[
        str | None,
        typer.Option("--id", help="Print this record with --show-sample; unset prints the first."),
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train one stage of a recipe."""
    from medllava.privacy.findings import PrivacyMode
    from medllava.train.resolve import resolve_config

    console = Console("train", json_output=json_output, quiet=quiet, verbose=verbose)
    config = resolve_config(
        recipe,
        stage=stage,
        overrides=overrides or [],
        data=data,
        init=init,
        output_dir=output_dir,
        is_plan=dry_run or show_sample or record_id is not None,
        image_dir=image_dir,
        max_steps=max_steps,
        validation_data=validation_data,
        resume=resume,
        privacy=PrivacyMode(privacy.value),
        command=shlex.join(["medllava", *sys.argv[1:]]),
    )
    if dry_run:
        _print_plan(console, config, world_size=gpus * nodes)
    elif show_sample or record_id is not None:
        _print_sample(console, config, record_id=record_id)
    else:
        _train(console, config, gpus=gpus, nodes=nodes)


def _print_plan(console: Console, config: "StageRunConfig", *, world_size: int) -> None:
    from medllava.errors import DataError
    from medllava.records import StepSummary
    from medllava.train.dry_run import plan_stage
    from medllava.train.plan_text import render_plan

    with console.progress() as progress:
        plan = plan_stage(config, world_size=world_size, progress=progress)
    for name, text in render_plan(plan):
        console.say(f"{name:<20} {text}")
    if plan.refusal:
        raise DataError(plan.refusal)
    console.finish(StepSummary(step="train", details={"dry_run": True, **plan.to_json()}))


def _print_sample(console: Console, config: "StageRunConfig", *, record_id: str | None) -> None:
    from medllava.records import StepSummary
    from medllava.train.sample import show_sample

    with console.progress() as progress:
        sample = show_sample(config, record_id=record_id, progress=progress)
    console.say(f"record {sample.record_id}, images {[path.name for path in sample.images]}")
    if any(segment.is_supervised for segment in sample.segments):
        console.say("learned", fg="green", bold=True)
        console.say("masked", dim=True)
    for segment in sample.segments:
        style = {"fg": "green", "bold": True} if segment.is_supervised else {"dim": True}
        tokens = f", {segment.num_tokens} tokens" if segment.num_tokens else ""
        console.say(f"--- {segment.label}{tokens}")
        console.say(segment.text, **style)
    console.finish(StepSummary(step="train", details=sample.to_json()))


def _train(console: Console, config: "StageRunConfig", *, gpus: int, nodes: int) -> None:
    from medllava.progress import SilentProgress
    from medllava.train.ranks import find_ranks
    from medllava.train.settings import wants_launcher

    ranks = find_ranks()
    with console.progress() as progress:
        if ranks.is_launched:  # started by torchrun or srun
            from medllava.train.run import train_stage

            shown = progress if ranks.is_main else SilentProgress()
            summary = train_stage(config, ranks=ranks, progress=shown)
        elif gpus * nodes > 1 or wants_launcher(config.recipe) or config.recipe.train.restarts:
            from medllava.train.launch import launch_stage

            summary = launch_stage(config, gpus=gpus, nodes=nodes, progress=progress)
        else:
            from medllava.train.run import train_stage

            summary = train_stage(config, progress=progress)
    if ranks.is_main:
        console.finish(summary)
        return
    console.leave_to_another()
    if not summary.complete:
        raise typer.Exit(EXIT_INCOMPLETE)
