"""A conversation in a terminal: typed lines in, streamed answers out, a few commands.

Reading and writing are handed in, so the same loop serves a terminal and a test. Ctrl-C stops the
answer that is running and nothing else; nothing typed is kept on disk unless `/save` says so.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from PIL import Image

from medllava.chat.config import ViewConfig
from medllava.chat.conversation import Conversation
from medllava.chat.exchange import open_image, save_conversation
from medllava.errors import MedllavaError

HELP = """\
/image FILE   show another image with the next question (a path or an http(s) address)
/clear        forget the conversation and its images; the model stays
/save FILE    write the conversation as JSON, or as Markdown if FILE ends in .md
/help         this list
/exit         leave (Ctrl-D does it too)
Ctrl-C stops an answer.
"""
_PROMPT = "> "


class Terminal:
    """The loop around one conversation."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        model: str,
        view: ViewConfig,
        read: Callable[[str], str],
        out: TextIO,
        draw: Callable[[Image.Image], str],
    ) -> None:
        """Hold what the loop needs.

        Args:
            conversation: empty.
            model: as the user named it, for `/save`.
            view: which picture of a file with several.
            read: like `input`: takes the prompt, returns a line, raises EOFError at the end.
            out: answers and talk.
            draw: image to the text that shows it here; empty where that is not possible.
        """
        self._conversation = conversation
        self._model = model
        self._view = view
        self._read = read
        self._out = out
        self._draw = draw
        self._images: list[str] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self.show,
            "/clear": self._clear,
            "/save": self._save,
            "/help": self._help,
        }

    def run(self, images: Sequence[str]) -> None:
        """Talk until the user leaves.

        Raises:
            MedllavaError: one of `images`, named on the command line, cannot be read.
        """
        for source in images:
            self.show(source)
        self._write("Ask about the image. /help lists the commands.\n")
        while True:
            try:
                line = self._read(_PROMPT).strip()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._write("\nCtrl-D or /exit leaves.\n")
                continue
            if line in {"/exit", "/quit"}:
                return
            if line:
                self._handle(line)

    def show(self, source: str) -> None:
        """Show an image with the next question."""
        if not source:
            self._write("Name a file: /image FILE\n")
            return
        image = open_image(source, self._view)
        self._conversation.show(image)
        self._images.append(source)
        self._write(self._draw(image))
        self._write(f"{source} ({image.width} x {image.height})\n")

    def _handle(self, line: str) -> None:
        """Run a command or ask; what goes wrong is told, and the conversation goes on."""
        word, _, rest = line.partition(" ")
        try:
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/"):
                self._write(f"No command {word}. /help lists them.\n")
            else:
                self._answer(line)
        except MedllavaError as error:
            self._write(f"Error: {error}\n")

    def _answer(self, question: str) -> None:
        pieces = self._conversation.ask(question)
        try:
            for piece in pieces:
                self._write(piece)
        except KeyboardInterrupt:
            pieces.close()
            self._write(" [stopped]")
        self._write("\n")

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        self._images.clear()
        self._write("Forgotten. /image FILE shows the next image.\n")

    def _save(self, name: str) -> None:
        if not name:
            self._write("Name a file: /save FILE\n")
            return
        path = Path(name).expanduser()
        save_conversation(
            path, turns=self._conversation.turns, images=self._images, model=self._model
        )
        self._write(f"Saved {path}\n")

    def _help(self, _: str) -> None:
        self._write(HELP)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
