"""A conversation in a terminal: typed lines in, streamed answers out, a few commands.

Reading and writing are handed in, so the same loop serves a terminal and a test. Ctrl-C stops the
answer or the download that is running and nothing else; nothing typed is kept on disk unless
`/save` says so. What the model says is printed without control characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from PIL import Image

from medllava.chat.config import Answer, Options, ViewConfig
from medllava.chat.conversation import Conversation
from medllava.chat.exchange import Said, open_images, parse_source, save_conversation
from medllava.chat.occlusion import CAPTION, draw_overlay
from medllava.chat.privacy import PrivacyWatch
from medllava.chat.transcript import parse_transcript
from medllava.errors import DataError, MedllavaError
from medllava.model.sampling import Sampling
from medllava.printable import printable, repair

HELP = """\
/image FILE      show another image with the next question (a path or an http(s) address)
/look            tint what the last answer depends on in its picture
/retry           ask the last question again
/undo            forget the last question and its answer
/set NAME VALUE  change temperature, top_p, top_k, repetition_penalty, max_new_tokens or seed
/system TEXT     change the system prompt; without a text, use the checkpoint's own
/clear           forget the conversation and its images; the model stays
/save FILE       write the conversation as JSON, or as Markdown if FILE ends in .md
/load FILE       go on with a conversation that /save or the page wrote as JSON
/help            this list
/exit            leave (Ctrl-D does it too)
Ctrl-C stops an answer or a download.
"""
_PROMPT = "> "
_NUMBERS = {field.name: field for field in fields(Sampling) if field.name != "stop"}


class AnswerView(Protocol):
    """Where one answer appears, piece by piece; see `medllava.cli.markdown`."""

    def write(self, piece: str) -> None:
        """Show a piece, which holds no control characters."""
        ...

    def end(self) -> None:
        """Show the rest and end the line."""
        ...


class Terminal:
    """The loop around one conversation."""

    def __init__(  # noqa: PLR0913 - each is handed in once, by the command
        self,
        conversation: Conversation,
        *,
        model: str,
        view: ViewConfig,
        read: Callable[[str], str],
        out: TextIO,
        draw: Callable[[Image.Image], str],
        sampling: Sampling | None = None,
        new_answer: Callable[[], AnswerView] | None = None,
        watch: PrivacyWatch | None = None,
    ) -> None:
        """Hold what the loop needs.

        Args:
            conversation: empty.
            model: as the user named it, for `/save`.
            view: which picture of a file with several.
            read: like `input`: takes the prompt, returns a line, raises EOFError at the end.
            out: answers and talk.
            draw: image to the text that shows it here; empty where that is not possible.
            sampling: what `/set` changes.
            watch: looks at every picture before it is asked about; unset tells nothing.
            new_answer: begins an answer on the screen; unset streams plain text to `out`.
        """
        self._conversation = conversation
        self._model = model
        self._view = view
        self._read = read
        self._out = out
        self._draw = draw
        self._new_answer = new_answer or (lambda: _PlainAnswer(out))
        self._watch = watch
        self._pending: list[tuple[str, ViewConfig, Image.Image]] = []
        self._said: list[Said] = []
        self._images: list[tuple[Image.Image, ...]] = []  # of every turn in _said
        self._options = Options(sampling=sampling)
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self.show,
            "/look": self._look,
            "/retry": self._retry,
            "/undo": self._undo,
            "/set": self._set,
            "/system": self._set_system,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self.load,
            "/help": self._help,
        }

    def run(self, images: Sequence[str]) -> None:
        """Talk until the user leaves.

        Raises:
            MedllavaError: one of `images`, named on the command line, cannot be read.
        """
        for source in images:
            self._show(source)
        self._write("Ask about the image. /help lists the commands.\n")
        while True:
            try:
                line = repair(self._read(_PROMPT)).strip()
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

    def show(self, text: str) -> None:
        """Show the image that was typed, pasted or dragged here with the next question."""
        if not text:
            self._write("Name a file: /image FILE\n")
            return
        self._show(parse_source(text))

    def load(self, name: str) -> None:
        """Go on with a conversation from a file.

        Raises:
            DataError: it cannot be read, or is no conversation.
        """
        if not name:
            self._write("Name a file: /load FILE\n")
            return
        path = Path(parse_source(name))
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read ({error.strerror}): {path}. Check the path.") from None
        talk = parse_transcript(raw, folder=path.parent)
        self._conversation.restore(talk.turns, talk.images)
        self._pending = []
        self._images = [tuple(shown) for shown in talk.images]
        self._said = [
            Said(turn=turn, images=tuple(zip(sources, views, strict=True)))
            for turn, sources, views in zip(talk.turns, talk.sources, talk.views, strict=True)
        ]
        for one in self._said:
            self._write(f"{_PROMPT if one.turn.role == 'user' else ''}{_plain(one)}\n")
        for one, shown in zip(self._said, self._images, strict=True):
            for (source, _), image in zip(one.images, shown, strict=True):
                self._warn(source, [image])

    def _show(self, source: str) -> None:
        opened = open_images(source, self._view)
        for view, image in opened:
            self._pending.append((source, view, image))
            self._out.write(self._draw(image))  # escape sequences of our own
            part = f", slice {view.frame}" if Path(source).is_dir() else ""
            self._write(f"{source} ({image.width} x {image.height}{part})\n")
        self._warn(source, [image for _, image in opened])

    def _warn(self, source: str, images: Sequence[Image.Image]) -> None:
        for told in self._watch.look(source, images) if self._watch else ():
            self._write(f"{'Warning' if told.is_urgent else 'Note'}: {told.text}\n")

    def _handle(self, line: str) -> None:
        """Run a command or ask; what goes wrong is told, and the conversation goes on."""
        word, _, rest = line.partition(" ")
        try:
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/") and not Path(word).exists():
                self._write(f"No command {word}. /help lists them.\n")
            else:
                self._answer(line)
        except MedllavaError as error:
            self._write(f"Error: {error}\n")
        except KeyboardInterrupt:
            self._write(" [stopped]\n")

    def _answer(self, question: str) -> None:
        pending = list(self._pending)
        images = [image for _, _, image in pending]
        options = replace(self._options, keep=len(self._said))
        pieces = self._conversation.ask(question, images, options)
        view = self._new_answer()
        try:
            for piece in pieces:
                view.write(printable(piece))
        except KeyboardInterrupt:
            pieces.close()
            view.write(" [stopped]")
        finally:
            pieces.close()
            view.end()
        self._tell_choices(self._conversation.last_answer)
        turns = self._conversation.turns
        if len(turns) >= len(self._said) + 2:  # else it was stopped before a word came
            shown = tuple((source, view) for source, view, _ in pending)
            self._said += [Said(turn=turns[-2], images=shown), Said(turn=turns[-1])]
            self._images += [tuple(images), ()]
            self._pending = []

    def _tell_choices(self, answer: Answer | None) -> None:
        if answer is not None and answer.choices:
            shares = (f"{name} {100 * share:.1f} %" for name, share in answer.choices.items())
            self._write(f"(began with: {', '.join(shares)})\n")

    def _look(self, _: str) -> None:
        if not self._said:
            self._write("Nothing was asked yet.\n")
            return
        images = self._images[-2]
        for number, image in enumerate(images):
            parts = self._conversation.look(images, number)
            self._out.write(self._draw(draw_overlay(image, parts)))
        self._write(f"{CAPTION}\n" if images else "The last question showed no picture.\n")

    def _retry(self, _: str) -> None:
        if not self._said:
            self._write("Nothing was asked yet.\n")
            return
        question, images = self._said[-2], self._images[-2]
        self._said, self._images = self._said[:-2], self._images[:-2]
        again = zip(question.images, images, strict=True)
        self._pending = [(source, view, image) for (source, view), image in again]
        self._write(f"{_PROMPT}{_plain(question)}\n")
        self._answer(_plain(question))

    def _undo(self, _: str) -> None:
        self._said, self._images = self._said[:-2], self._images[:-2]
        self._write("The last question is forgotten.\n")

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name not in _NUMBERS or not value:
            self._write(f"Say /set NAME VALUE with one of {', '.join(_NUMBERS)}.\n")
            return
        sampling = self._options.sampling or Sampling()
        is_whole = name in {"max_new_tokens", "top_k", "seed"}
        try:
            number = int(value) if is_whole else float(value)
        except ValueError:
            self._write(f"{name} is a number, and {value} is none.\n")
            return
        if number < 0 or (name == "max_new_tokens" and number < 1):
            self._write(f"{name} cannot be {value}.\n")
            return
        change: dict[str, Any] = {name: number}
        self._options = replace(self._options, sampling=replace(sampling, **change))
        self._write(f"{name} is {number}.\n")

    def _set_system(self, text: str) -> None:
        self._options = replace(self._options, system=text or None)
        self._write("The system prompt is changed.\n" if text else "The checkpoint's own.\n")

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        self._pending, self._said, self._images = [], [], []
        self._write("Forgotten. /image FILE shows the next image.\n")

    def _save(self, name: str) -> None:
        if not name:
            self._write("Name a file: /save FILE\n")
            return
        path = Path(parse_source(name))
        save_conversation(path, said=self._said, model=self._model)
        self._write(f"Saved {path}\n")

    def _help(self, _: str) -> None:
        self._write(HELP)

    def _write(self, text: str) -> None:
        self._out.write(printable(text))
        self._out.flush()


class _PlainAnswer:
    """Text as it comes, for pipes and for terminals that move no cursor."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, piece: str) -> None:
        self._out.write(piece)
        self._out.flush()

    def end(self) -> None:
        self.write("\n")


def _plain(one: Said) -> str:
    return one.turn.content.replace("<image>", "").strip()
