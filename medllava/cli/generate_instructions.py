"""`medllava generate-instructions`: from figures to conversations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import Json, Limit, OutputDir, Quiet, Seed, Verbose

StageName = StrEnum("StageName", ["ALIGN", "INSTRUCT"])
SplitName = StrEnum("SplitName", ["TRAIN", "VALIDATION", "TEST", "ALL"])
PositionName = StrEnum("PositionName", ["BEFORE", "AFTER", "RANDOM"])


def run(
    figures: Annotated[Path, typer.Argument(help="Figures folder made by fetch-pmc.")],
    output_dir: OutputDir,
    stage: Annotated[StageName, typer.Option("--stage", help="Which stage to make data for.")],
    teacher: Annotated[
        str, typer.Option("--teacher", help="Who writes conversations; template needs no model.")
    ] = "template",
    split: Annotated[SplitName, typer.Option("--split", help="Figures to use.")] = SplitName.TRAIN,
    limit: Limit = None,
    questions_per_figure: Annotated[
        int, typer.Option("--questions-per-figure", min=1, help="template: most per figure.")
    ] = 1,
    closed_share: Annotated[
        float, typer.Option("--closed-share", min=0, max=1, help="template: share of yes/no.")
    ] = 0.5,
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", help="template: one conversation per figure.")
    ] = False,
    image_position: Annotated[
        PositionName | None,
        typer.Option("--image-position", help="Default: random for align, before for instruct."),
    ] = None,
    seed: Seed = 0,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Turn figures into conversations that a model can learn from."""
    from medllava.instruct.config import GenerateConfig, ImagePosition
    from medllava.instruct.generate import generate_instructions
    from medllava.records import Split, Stage

    console = Console(
        "generate-instructions", json_output=json_output, quiet=quiet, verbose=verbose
    )
    config = GenerateConfig(
        figures=figures,
        output_dir=output_dir,
        stage=Stage(stage.value),
        teacher=teacher,
        split=None if split is SplitName.ALL else Split(split.value),
        limit=limit,
        questions_per_figure=questions_per_figure,
        closed_share=closed_share,
        multi_turn=multi_turn,
        image_position=None if image_position is None else ImagePosition(image_position.value),
        seed=seed,
    )
    with console.progress() as progress:
        summary = generate_instructions(config, progress=progress)
    console.finish(summary)
