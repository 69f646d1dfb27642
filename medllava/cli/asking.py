"""Options that `eval` and `eval chat` share: who answers, who judges, where it is written."""

from pathlib import Path
from typing import Annotated

import typer

Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        help="Score answers made elsewhere: JSONL with id and text, or files of other tools.",
    ),
]
ImageDir = Annotated[
    Path | None,
    typer.Option("--image-dir", help="Read the questions' images from this folder."),
]
JudgeBaseUrl = Annotated[
    str | None,
    typer.Option(
        "--judge-base-url",
        help="Ask the judge at this OpenAI-compatible server; unset asks OpenAI.",
    ),
]
JudgeRepeats = Annotated[
    int,
    typer.Option(
        "--judge-repeats", min=1, help="Ask for this many judgements per question and order."
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost", min=0, help="Stop before the judge costs more than this many US dollars."
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", min=0, help="Ask this many questions at once; 0 lets the memory decide."
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Answer with transformers, vllm, or the OpenAI-compatible server at this address; "
        "llama.cpp answers for a GGUF file.",
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus", min=1, help="Share the questions among this many processes, one GPU each."
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        min=0.0,
        help="Draw tokens at this temperature; 0 takes the likeliest always.",
    ),
]
Draws = Annotated[
    int,
    typer.Option("--draws", min=1, help="Compute each interval from this many bootstrap draws."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", help="Write into this folder; unset writes CKPT/eval/TASK."),
]
Images = Annotated[
    bool, typer.Option("--images/--no-images", help="Show pictures on the page of the report.")
]
