"""The three ways `medllava chat` talks: a terminal, a pipe or script, a page."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medllava.chat.config import ChatConfig, ViewConfig
from medllava.cli.console import Console, print_result
from medllava.cli.outcome import EXIT_INTERRUPTED
from medllava.printable import printable, repair

if TYPE_CHECKING:
    from PIL.Image import Image

    from medllava.chat.conversation import Conversation
    from medllava.chat.start import ConversationMaker
    from medllava.chat.terminal import AnswerView


_PASTE_SECONDS = 0.03
"""The lines of a pasted block come faster than this; nobody types so fast."""


def talk(
    config: ChatConfig,
    images: Sequence[str],
    view: ViewConfig,
    console: Console,
    *,
    continued: Path | None,
) -> None:
    """Talk in the terminal until the user leaves."""
    from medllava.chat.privacy import PrivacyWatch
    from medllava.chat.terminal import Terminal
    from medllava.chat.thumbnail import render_thumbnail

    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - line editing for input(); its history stays in memory
    new_conversation = _open_model(config, console)
    terminal = Terminal(
        new_conversation(),
        model=config.checkpoint,
        view=view,
        read=_BlockReader().read,
        out=sys.stdout,
        draw=render_thumbnail if sys.stdout.isatty() else lambda _: "",
        sampling=config.sampling,
        new_answer=_answer_view(),
        watch=PrivacyWatch(config.sent_to),
    )
    if continued is not None:
        terminal.load(str(continued))
    terminal.run(images)


def _answer_view() -> "Callable[[], AnswerView] | None":
    """Return how answers are drawn: as Markdown, where the terminal can draw anew."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in {"", "dumb"}:
        return None
    from medllava.cli.markdown import MarkdownAnswer

    return lambda: MarkdownAnswer(sys.stdout)


def answer(
    config: ChatConfig,
    images: Sequence[str],
    view: ViewConfig,
    console: Console,
    *,
    questions: Iterable[str],
    continued: Path | None,
    look: bool,
) -> None:
    """Answer every question of one conversation; a line of text or one JSON object each.

    Raises:
        DataError: there is no question.
    """
    from medllava.chat.exchange import open_images
    from medllava.chat.transcript import parse_transcript
    from medllava.errors import DataError

    # All of it before the model is loaded: it is quick.
    opened = [(source, [one for _, one in open_images(source, view)]) for source in images]
    pictures = [image for _, shown in opened for image in shown]
    talk = parse_transcript(_read(continued), folder=continued.parent) if continued else None
    if talk is not None:
        for names, shown in zip(talk.sources, talk.images, strict=True):
            opened += [(name, [image]) for name, image in zip(names, shown, strict=True)]
    _warn(opened, config, console)
    conversation = _open_model(config, console)()
    if talk is not None:
        conversation.restore(talk.turns, talk.images)
    number = 0
    asked = (repair(text).strip() for text in questions)
    for number, question in enumerate(filter(None, asked), start=1):
        _answer_one(conversation, question, pictures, console, number=number, look=look)
        pictures = []  # they belong to the first question
    if number == 0:
        raise DataError("no question: stdin was empty. Give --prompt, or a question a line.")


def _warn(
    opened: Iterable[tuple[str, Sequence["Image"]]], config: ChatConfig, console: Console
) -> None:
    """Tell what of the pictures may name somebody, before any of them is sent."""
    from medllava.chat.privacy import PrivacyWatch

    watch = PrivacyWatch(config.sent_to)
    for source, images in opened:
        for told in watch.look(source, images):
            if told.is_urgent:
                console.tell(f"Warning: {source}: {told.text}")
            else:
                console.hint(f"Note: {source}: {told.text}")


def _answer_one(
    conversation: "Conversation",
    question: str,
    pictures: Sequence["Image"],
    console: Console,
    *,
    number: int,
    look: bool,
) -> None:
    pieces = conversation.ask(question, pictures)
    try:
        for piece in pieces:
            if not console.json_output:
                typer.echo(printable(piece), nl=False)
                sys.stdout.flush()
    finally:
        pieces.close()
    facts = conversation.last_answer
    if not console.json_output:
        typer.echo()
    elif facts is not None:
        parts = {"parts": conversation.look(pictures)} if look and pictures else {}
        summary = {"turn": number, "prompt": question, **facts.to_json(), **parts}
        print_result("chat", summary=summary)


def serve(
    config: ChatConfig,
    images: Sequence[str],
    view: ViewConfig,
    console: Console,
    *,
    host: str,
    port: int,
    question: str | None,
) -> None:
    """Serve the page until Ctrl-C."""
    from medllava.chat.web import Opening, read_given, serve_page

    opening = Opening(question=question or "", images=read_given(images, view), view=view)
    new_conversation = _open_model(config, console)
    is_first = True

    def announce(text: str) -> None:
        nonlocal is_first
        if is_first and console.json_output:
            print_result("chat", summary={"address": text.split()[1]})
        is_first = False
        console.tell(text)

    try:
        serve_page(
            new_conversation,
            model=config.checkpoint,
            host=host,
            port=port,
            announce=announce,
            sent_to=config.sent_to,
            opening=opening,
        )
    except KeyboardInterrupt:  # how a page ends; its object is printed already
        raise typer.Exit(EXIT_INTERRUPTED) from None


class _BlockReader:
    """Reads a pasted block as one text: its lines lie ready when the first has been read."""

    def __init__(self) -> None:
        self._ahead: list[str] = []

    def read(self, prompt: str) -> str:
        """Read like `input`; a line that begins with `/` is a command and stands alone."""
        lines = [self._ahead.pop(0) if self._ahead else input(prompt)]
        while not lines[0].startswith("/") and _is_ready():
            line = input()
            if line.startswith("/"):
                self._ahead.append(line)
                break
            lines.append(line)
        return "\n".join(lines)


def _is_ready() -> bool:
    """Whether a line can be read without waiting; never on Windows, which cannot say."""
    import select

    try:
        return bool(select.select([sys.stdin], [], [], _PASTE_SECONDS)[0])
    except (OSError, ValueError):
        return False


def _read(path: Path) -> bytes:
    from medllava.errors import DataError

    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror}): {path}. Check the path.") from None


def _open_model(config: ChatConfig, console: Console) -> "ConversationMaker":
    """Load the model, or find the server, that answers, showing progress."""
    from medllava.chat.start import open_model
    from medllava.provenance import is_gguf

    with console.progress() as progress:
        if config.base_url is None and not is_gguf(config.checkpoint):
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
        atexit.register(gc.unfreeze)  # else triton, on exit, lists all of it as leaked
        gc.enable()
