"""`medllava chat`: talk about an image in a terminal, a pipe, a script or a page."""

import sys
from enum import StrEnum
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
        typer.Argument(metavar="[IMAGE]...", help="PNG, JPEG, TIFF, DICOM, NIfTI..., or address."),
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Ask this once and leave; else lines of stdin.")
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Open a page instead of the terminal.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="Address of the page. Password: $MEDLLAVA_WEB_PASSWORD.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page.")] = 7860,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", help="Ask an OpenAI-compatible server; --ckpt is its model."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.01, max=1, help="Draw from the likeliest tokens only.")
    ] = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Annotated[DType, typer.Option("--dtype", help="Precision of the weights.")] = DType.auto,
    load: Annotated[
        Load | None, typer.Option("--load", help="Quantize the weights (CUDA, bitsandbytes).")
    ] = None,
    frame: Annotated[
        int | None, typer.Option("--frame", min=0, help="Frame of a DICOM or TIFF, from 0.")
    ] = None,
    plane: Annotated[Plane, typer.Option("--plane", help="Plane of a NIfTI volume.")] = Plane.axial,
    slice_index: Annotated[
        int | None, typer.Option("--slice", min=0, help="Slice of a NIfTI volume, from 0.")
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option("--window", metavar="CENTRE WIDTH", help="Of measured values, such as HU."),
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Talk with a model about an image. Research use only."""
    from medllava.chat.config import NOTICE, ChatConfig, Sampling, ViewConfig
    from medllava.cli.chat_modes import answer, serve, talk

    if base_url is not None:
        _refuse_local_options(
            {
                "--top-p": top_p != 1,
                "--dtype": dtype is not DType.auto,
                "--load": load is not None,
            }
        )
    console = Console("chat", json_output=json_output, quiet=quiet, verbose=verbose)
    config = ChatConfig(
        checkpoint=checkpoint,
        base_url=base_url,
        device=device,
        dtype=dtype.value,
        load=load.value if load else None,
        sampling=Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        ),
    )
    view = ViewConfig(frame=frame, plane=plane.value, slice_index=slice_index, window=window)
    typer.echo(NOTICE, err=True)
    if web:
        serve(config, host=host, port=port, console=console)
    elif prompt is None and sys.stdin.isatty() and not json_output:
        talk(config, images or [], view, console)
    else:
        questions = [prompt] if prompt is not None else sys.stdin
        answer(config, images or [], view, console, questions=questions)


def _refuse_local_options(given: dict[str, bool]) -> None:
    """Refuse what a server would never see, rather than drop it silently.

    Raises:
        typer.BadParameter: one was given.
    """
    for option, is_given in given.items():
        if is_given:
            raise typer.BadParameter(
                f"{option} is for a model loaded here; a server at --base-url has its own."
            )
