"""`medllava eval chat`: open-ended answers, graded by a judge against reference answers."""

from pathlib import Path
from typing import Annotated

import typer

from medllava.cli import asking, options
from medllava.cli.console import Console


def run(
    judge: Annotated[
        str, typer.Option("--judge", help="Let this model, named with its date, grade the answers.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Ask these questions: LLaVA-Med's JSONL, or one of the same form."
        ),
    ] = None,
    ckpt: options.Checkpoint = options.DEFAULT_CHECKPOINT,
    predictions: asking.Predictions = None,
    image_dir: asking.ImageDir = None,
    limit: options.Limit = None,
    judge_base_url: asking.JudgeBaseUrl = None,
    judge_repeats: asking.JudgeRepeats = 1,
    max_cost: asking.MaxCost = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Cut an answer after this many tokens.")
    ] = 512,
    batch_size: asking.BatchSize = 0,
    backend: asking.Backend = "transformers",
    gpus: asking.Gpus = 1,
    device: options.Device = "auto",
    temperature: asking.Temperature = 0.0,
    seed: options.Seed = 0,
    draws: asking.Draws = 10_000,
    output_dir: asking.OutputDir = None,
    images: asking.Images = True,
    resume: options.Resume = True,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Grade a checkpoint's open-ended answers against reference answers, by a judge."""
    from medllava.eval.config import DecodingConfig, EvalConfig, parse_backend
    from medllava.eval.judged.ask_judge import JudgeConfig
    from medllava.eval.judged.chat_run import TASK, chat_lines, judge_chat
    from medllava.eval.run import default_output_dir

    console = Console("eval", json_output=json_output, quiet=quiet, verbose=verbose)
    kind, base_url = parse_backend(backend, checkpoint=None if predictions else ckpt)
    config = EvalConfig(
        task=TASK,
        checkpoint=None if predictions else ckpt,
        predictions=predictions,
        output_dir=output_dir or default_output_dir(TASK, checkpoint=ckpt, predictions=predictions),
        data=data,
        image_dir=image_dir,
        limit=limit,
        decoding=DecodingConfig(
            max_new_tokens=max_new_tokens, temperature=temperature, batch_size=batch_size
        ),
        backend=kind,
        base_url=base_url,
        gpus=gpus,
        device=device,
        seeds=(seed,),
        draws=draws,
        resume=resume,
        images_on_page=images,
    )
    by = JudgeConfig(
        model=judge, base_url=judge_base_url, repeats=judge_repeats, max_cost_usd=max_cost
    )
    with console.progress() as progress:
        summary = judge_chat(config, by, progress=progress)
    for line in chat_lines(summary):
        console.say(line)
    console.finish(summary)
