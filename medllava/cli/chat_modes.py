"""The three ways `medllava chat` talks: a terminal, a pipe or script, a page."""

import gc
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from medllava.chat.config import ChatConfig, ViewConfig
from medllava.cli.console import Console, print_result

if TYPE_CHECKING:
    from medllava.chat.start import ConversationMaker


def talk(config: ChatConfig, images: Sequence[str], view: ViewConfig, console: Console) -> None:
    """Talk in the terminal until the user leaves."""
    import readline  # noqa: F401 - line editing for input(); its history stays in memory

    from medllava.chat.terminal import Terminal
    from medllava.chat.thumbnail import render_thumbnail

    new_conversation = _open_model(config, console)
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

    pictures = [open_image(source, view) for source in images]  # before the model: it is quick
    conversation = _open_model(config, console)()
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
            print_result("chat", summary={"turn": number, "prompt": question, **facts.to_json()})


def serve(config: ChatConfig, *, host: str, port: int, console: Console) -> None:
    """Serve the page until Ctrl-C."""
    from urllib.parse import urlsplit

    from medllava.chat.web import serve_page

    new_conversation = _open_model(config, console)
    serve_page(
        new_conversation,
        model=config.checkpoint,
        host=host,
        port=port,
        announce=console.hint,
        sent_to=urlsplit(config.base_url).netloc or None if config.base_url else None,
    )


def _open_model(config: ChatConfig, console: Console) -> "ConversationMaker":
    """Load the model, or find the server, that answers, showing progress."""
    from medllava.chat.start import open_model

    with console.progress() as progress:
        if config.base_url is None:
            _import_model_code()
        return open_model(config, progress=progress)


def _import_model_code() -> None:
    """Import torch and transformers without garbage collection, a fifth of their import time.

    Modules are never garbage: what they made is set aside, so no later collection walks it.
    """
    if "transformers" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import medllava.chat.session
        import medllava.model.load  # noqa: F401 - for the side effect
    finally:
        gc.freeze()
        gc.enable()
