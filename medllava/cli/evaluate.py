"""`medllava eval`: a checkpoint, or its answers, against a benchmark or a file of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from medllava.cli import options
from medllava.cli.console import Console


def run(
    task: Annotated[
        str,
        typer.Argument(help="vqarad, slake, pathvqa, ..., or a folder or JSONL of questions."),
    ],
    ckpt: options.Checkpoint = options.DEFAULT_CHECKPOINT,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Score answers made elsewhere: JSONL with id and text."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Local copy of the benchmark.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, validation or test.")] = None,
    image_dir: Annotated[
        Path | None, typer.Option("--image-dir", help="Folder the questions' images are in.")
    ] = None,
    limit: options.Limit = None,
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            help="Floors beside the score: permuted, blank, text, majority, constant, or all.",
        ),
    ] = "majority,constant",
    protocol: Annotated[
        str, typer.Option("--protocol", help="strict or llava-med (its numbers beside ours).")
    ] = "strict",
    closed_prompt: Annotated[
        str | None,
        typer.Option("--closed-prompt", help="Put after closed questions; '' puts nothing."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=0, help="Questions at once; 0 chooses.")
    ] = 0,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder to write; default CKPT/eval/TASK."),
    ] = None,
    resume: options.Resume = True,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Score a checkpoint, or answers made elsewhere, with intervals and floors."""
    from medllava.eval.config import DecodingConfig, EvalConfig, Protocol, parse_conditions
    from medllava.eval.run import default_output_dir, evaluate_task, score_lines

    console = Console("eval", json_output=json_output, quiet=quiet, verbose=verbose)
    if protocol not in list(Protocol):
        raise typer.BadParameter(f"{protocol!r} is not one of {', '.join(Protocol)}.")
    config = EvalConfig(
        task=task,
        checkpoint=None if predictions else ckpt,
        predictions=predictions,
        output_dir=output_dir or default_output_dir(task, checkpoint=ckpt, predictions=predictions),
        data=data,
        split=split,
        image_dir=image_dir,
        limit=limit,
        conditions=parse_conditions(controls),
        protocol=Protocol(protocol),
        decoding=DecodingConfig(
            max_new_tokens=max_new_tokens, batch_size=batch_size, closed_prompt=closed_prompt
        ),
        device=device,
        seeds=(seed,),
        resume=resume,
    )
    with console.progress() as progress:
        summary = evaluate_task(config, progress=progress)
    for line in score_lines(summary):
        console.say(line)
    console.finish(summary)
