"""`medllava eval`: a checkpoint, or its answers, against a benchmark or a file of one's own."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medllava.cli import asking, options
from medllava.cli.console import Console

ChoiceName = StrEnum("ChoiceName", ["REPLY", "LIKELIHOOD"])


def run(
    task: Annotated[
        str,
        typer.Argument(
            help="Answer vqarad, slake, pathvqa, ..., or a folder or file of questions."
        ),
    ],
    ckpt: options.Checkpoint = options.DEFAULT_CHECKPOINT,
    predictions: asking.Predictions = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Read the benchmark from this local copy.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Answer the questions of this split: train, validation or test."
        ),
    ] = None,
    image_dir: asking.ImageDir = None,
    language: Annotated[
        str,
        typer.Option(
            "--language", help="Answer the questions in this language: en, or zh for slake."
        ),
    ] = "en",
    limit: options.Limit = None,
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            help="Measure floors too: permuted, blank, text, majority, constant, or all.",
        ),
    ] = "majority,constant",
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations",
            min=1,
            help="Permute the images in this many orders; the floor is their average.",
        ),
    ] = 3,
    probes: Annotated[
        str,
        typer.Option(
            "--probes",
            help="Ask closed questions again: negated, reworded, shuffled, corrupted, "
            "negated-option, presence, absence, or all.",
        ),
    ] = "",
    verify: Annotated[
        str,
        typer.Option(
            "--verify",
            help="Put replies right by rule and score them beside the real ones: polarity.",
        ),
    ] = "",
    clinical: Annotated[
        str,
        typer.Option(
            "--clinical",
            help="Score reports by their findings too: radgraph, chexbert, ratescore, or all.",
        ),
    ] = "",
    train_data: Annotated[
        list[str] | None,
        typer.Option(
            "--train-data",
            help="Look for the questions' images in this training data, or TASK:SPLIT; repeatable.",
        ),
    ] = None,
    train_image_dir: Annotated[
        Path | None,
        typer.Option("--train-image-dir", help="Read the training images from this folder."),
    ] = None,
    encoder_twins: Annotated[
        bool,
        typer.Option(
            "--encoder-twins/--no-encoder-twins",
            help="Look for near images a second time, by the checkpoint's vision encoder.",
        ),
    ] = True,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", help="Score by strict rules, or add LLaVA-Med's own numbers (llava-med)."
        ),
    ] = "strict",
    choice_by: Annotated[
        ChoiceName,
        typer.Option(
            "--choice-by",
            help="Answer closed questions in words, or by the likeliest option.",
        ),
    ] = ChoiceName.REPLY,
    closed_prompt: Annotated[
        str | None,
        typer.Option(
            "--closed-prompt", help="Put this text after closed questions; '' puts nothing."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Let this model, named with its date, grade open answers."),
    ] = None,
    judge_base_url: asking.JudgeBaseUrl = None,
    judge_repeats: asking.JudgeRepeats = 1,
    judge_labels: Annotated[
        Path | None,
        typer.Option(
            "--judge-labels", help="Measure the judge by these answers that people graded."
        ),
    ] = None,
    max_cost: asking.MaxCost = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Cut an answer after this many tokens; unset: 64, for reports 512.",
        ),
    ] = None,
    batch_size: asking.BatchSize = 0,
    backend: asking.Backend = "transformers",
    gpus: asking.Gpus = 1,
    device: options.Device = "auto",
    temperature: asking.Temperature = 0.0,
    seed: options.Seed = 0,
    num_seeds: Annotated[
        int, typer.Option("--num-seeds", min=1, help="Ask with this many seeds and average.")
    ] = 1,
    draws: asking.Draws = 10_000,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Test two files of answers, or eval folders, on the same questions.",
        ),
    ] = None,
    output_dir: asking.OutputDir = None,
    images: asking.Images = True,
    resume: options.Resume = True,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Score a checkpoint, or answers made elsewhere, with intervals and floors."""
    from medllava.eval.compare import compare_predictions, comparison_lines
    from medllava.eval.config import (
        ChoiceBy,
        DecodingConfig,
        EvalConfig,
        Protocol,
        parse_backend,
        parse_clinical,
        parse_conditions,
        parse_verifiers,
    )
    from medllava.eval.judged.ask_judge import JudgeConfig
    from medllava.eval.probes import parse_probes
    from medllava.eval.run import default_output_dir, evaluate_task, score_lines

    if task == "chat":
        raise typer.BadParameter(
            "judged chat is a command of its own: medllava eval chat --judge MODEL --data FILE ..."
        )
    console = Console("eval", json_output=json_output, quiet=quiet, verbose=verbose)
    if protocol not in list(Protocol):
        raise typer.BadParameter(f"{protocol!r} is not one of {', '.join(Protocol)}.")
    answers = predictions or (compare[0] if compare else None)
    kind, base_url = parse_backend(backend, checkpoint=None if predictions else ckpt)
    config = EvalConfig(
        task=task,
        checkpoint=None if predictions else ckpt,
        predictions=predictions,
        output_dir=output_dir or default_output_dir(task, checkpoint=ckpt, predictions=answers),
        data=data,
        split=split,
        image_dir=image_dir,
        language=language,
        limit=limit,
        conditions=parse_conditions(controls),
        permutations=permutations,
        probes=parse_probes(probes),
        verify=parse_verifiers(verify),
        clinical=parse_clinical(clinical),
        train_data=tuple(train_data or ()),
        train_image_dir=train_image_dir,
        encoder_twins=encoder_twins,
        protocol=Protocol(protocol),
        decoding=DecodingConfig(
            max_new_tokens=max_new_tokens or 0,
            temperature=temperature,
            batch_size=batch_size,
            closed_prompt=closed_prompt,
            choice_by=ChoiceBy(choice_by.value),
        ),
        backend=kind,
        base_url=base_url,
        gpus=gpus,
        device=device,
        seeds=tuple(range(seed, seed + num_seeds)),
        draws=draws,
        resume=resume,
        images_on_page=images,
    )
    by = None
    if judge is not None:
        by = JudgeConfig(
            model=judge,
            base_url=judge_base_url,
            repeats=judge_repeats,
            max_cost_usd=max_cost,
            labels=judge_labels,
        )
    with console.progress() as progress:
        if compare is not None:
            summary = compare_predictions(config, *compare, progress=progress)
            lines = comparison_lines(summary)
        else:
            summary = evaluate_task(config, judge=by, progress=progress)
            lines = score_lines(summary)
    for line in lines:
        console.say(line)
    console.finish(summary)
