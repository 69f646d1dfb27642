"""The three ways `medllava chat` talks: a terminal, a pipe or script, a page."""

import sys
from collections.abc import Iterable, Sequence

import typer

from medllava.chat.config import ChatConfig, ViewConfig
from medllava.cli.console import SCHEMA_VERSION, Console, print_json


def talk(config: ChatConfig, images: Sequence[str], view: ViewConfig, console: Console) -> None:
    """Talk in the terminal until the user leaves."""
    import readline  # noqa: F401 - line editing for input(); its history stays in memory

    from medllava.chat.start import open_model
    from medllava.chat.terminal import Terminal
    from medllava.chat.thumbnail import render_thumbnail

    with console.progress() as progress:
        new_conversation = open_model(config, progress=progress)
    Terminal(
        new_conversation(),
        model=config.checkpoint,
        view=view,
        read=input,
        out=sys.stdout,
        draw=render_thumbnail if sys.stdout.isatty() else lambda _: "",
    ).run(images)


def answer(
    config: ChatConfig,
    images: Sequence[str],
    view: ViewConfig,
    console: Console,
    *,
    questions: Iterable[str],
) -> None:
    """Answer every question of one conversation; a line of text or one JSON object each."""
    from medllava.chat.exchange import open_image
    from medllava.chat.start import open_model

    pictures = [open_image(source, view) for source in images]  # before the model: it is quick
    with console.progress() as progress:
        conversation = open_model(config, progress=progress)()
    for picture in pictures:
        conversation.show(picture)
    for number, question in enumerate(filter(None, map(str.strip, questions)), start=1):
        for piece in conversation.ask(question):
            if not console.json_output:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
        if not console.json_output:
            typer.echo()
        elif facts := conversation.last_answer:
            print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "command": "chat",
                    "status": "ok",
                    "summary": {"turn": number, "prompt": question, **facts.to_json()},
                    "artifacts": {},
                }
            )


def serve(config: ChatConfig, *, host: str, port: int, console: Console) -> None:
    """Serve the page until Ctrl-C."""
    from urllib.parse import urlsplit

    from medllava.chat.start import open_model
    from medllava.chat.web import serve_page

    with console.progress() as progress:
        new_conversation = open_model(config, progress=progress)
    serve_page(
        new_conversation,
        model=config.checkpoint,
        host=host,
        port=port,
        announce=console.hint,
        sent_to=urlsplit(config.base_url).netloc or None if config.base_url else None,
    )
