"""`medllava chat`: talk about an image in a terminal, a pipe, a script or a page."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import DEFAULT_CHECKPOINT, Checkpoint, Device, Json, Quiet, Seed, Verbose

DType = StrEnum("DType", ["auto", "bf16", "fp16", "fp32"])
Load = StrEnum("Load", ["8bit", "4bit"])
Plane = StrEnum("Plane", ["axial", "coronal", "sagittal"])


def run(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="Show these: PNG, JPEG, TIFF, WebP, DICOM or NIfTI files, folders of a DICOM "
            "series, or http(s) addresses.",
        ),
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="Ask this and leave; unset asks each line of stdin."),
    ] = None,
    continued: Annotated[
        Path | None,
        typer.Option("--continue", metavar="FILE", help="Go on with a conversation from /save."),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page to talk in instead of the terminal.")
    ] = False,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Serve the page at this address; $MEDLLAVA_WEB_PASSWORD protects it.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Serve the page at this port.")
    ] = 7860,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            help="Let an OpenAI-compatible server answer; --ckpt is its name of the model.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Cut an answer after this many tokens.")
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0, help="Draw tokens; 0 takes the likeliest always."),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            min=0.01,
            max=1,
            help="Draw from the likeliest tokens that together reach this probability.",
        ),
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=0,
            help="Draw from this many likeliest tokens; unset follows the checkpoint.",
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty",
            min=0.1,
            help="Make what was said less likely; unset follows the checkpoint.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Annotated[
        DType, typer.Option("--dtype", help="Load the weights in this precision.")
    ] = DType.auto,
    load: Annotated[
        Load | None, typer.Option("--load", help="Quantize the weights (CUDA, bitsandbytes).")
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option(
            "--frame",
            min=0,
            help="Show this frame of a DICOM or TIFF, or slice of a series, from 0.",
        ),
    ] = None,
    plane: Annotated[
        Plane, typer.Option("--plane", help="Show this plane of a NIfTI volume.")
    ] = Plane.axial,
    slice_index: Annotated[
        int | None,
        typer.Option("--slice", min=0, help="Show this slice of a NIfTI volume, from 0."),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--window",
            metavar="CENTER WIDTH",
            help="Show this window of measured values, such as Hounsfield units.",
        ),
    ] = None,
    look: Annotated[
        bool,
        typer.Option(
            "--look", help="Tell with --json which parts of the picture each answer depends on."
        ),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Talk with a model about an image. Research use only."""
    from medllava.chat.config import NOTICE, ChatConfig, ViewConfig
    from medllava.cli.chat_modes import answer, serve, talk
    from medllava.model.sampling import Sampling
    from medllava.provenance import is_gguf

    if base_url is not None or is_gguf(checkpoint):
        _refuse(
            {
                "--top-p": top_p != 1,
                "--top-k": top_k is not None,
                "--repetition-penalty": repetition_penalty is not None,
                "--dtype": dtype is not DType.auto,
                "--load": load is not None,
                "--look": look,
            },
            "is for a model that transformers loads here; a server has its own.",
        )
    _refuse({"--look": look and not json_output}, "is for --json; type /look, or use the page.")
    if web:
        _refuse({"--continue": continued is not None}, "is not for --web: open it on the page.")
    console = Console("chat", json_output=json_output, quiet=quiet, verbose=verbose)
    config = ChatConfig(
        checkpoint=checkpoint,
        base_url=base_url,
        device=device,
        dtype=dtype.value,
        load=load.value if load else None,
        sampling=Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
    )
    view = ViewConfig(frame=frame, plane=plane.value, slice_index=slice_index, window=window)
    console.tell(NOTICE)
    if web:
        serve(config, images or [], view, console, host=host, port=port, question=prompt)
    elif prompt is None and sys.stdin is not None and sys.stdin.isatty() and not json_output:
        talk(config, images or [], view, console, continued=continued)
    else:
        questions = [prompt] if prompt is not None else sys.stdin or []
        answer(
            config, images or [], view, console, questions=questions, continued=continued, look=look
        )


def _refuse(given: dict[str, bool], reason: str) -> None:
    """Refuse what would have no effect, rather than drop it silently.

    Raises:
        typer.BadParameter: one was given.
    """
    for option, is_given in given.items():
        if is_given:
            raise typer.BadParameter(f"{option} {reason}")
