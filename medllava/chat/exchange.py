"""Images from files into a conversation, and conversations into files.

Both the terminal and a script come through here; the page, which writes no file, does not.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from medllava.chat.config import ViewConfig
from medllava.errors import DataError
from medllava.images.load import load_image
from medllava.records import IMAGE_TOKEN, Turn
from medllava.store import write_json, write_text


def open_image(source: str, view: ViewConfig) -> Image.Image:
    """Read what the user named, a path or an http(s) address, as RGB.

    Raises:
        MedllavaError: see `medllava.images.load.load_image`.
    """
    return load_image(
        source,
        frame=view.frame,
        plane=view.plane,
        slice_index=view.slice_index,
        window=view.window,
    )


def save_conversation(
    path: Path, *, turns: Sequence[Turn], images: Sequence[str], model: str
) -> None:
    """Write a conversation as JSON, or as Markdown where the name ends in `.md`.

    Raises:
        DataError: the file exists, or cannot be written.
    """
    if path.exists():
        raise DataError(f"the file exists: {path}. Choose another name.")
    try:
        if path.suffix.lower() == ".md":
            write_text(path, _render_markdown(turns, images=images, model=model))
        else:
            said = [{"role": turn.role, "content": turn.content} for turn in turns]
            write_json(path, {"model": model, "images": list(images), "turns": said})
    except OSError as error:
        raise DataError(f"cannot write ({error.strerror}): {path}. Choose another.") from None


def _render_markdown(turns: Sequence[Turn], *, images: Sequence[str], model: str) -> str:
    lines = [f"Model: {model}", *(f"Image: {name}" for name in images)]
    said = ((turn.role, turn.content.replace(IMAGE_TOKEN, "").strip()) for turn in turns)
    lines += [f"**{role.capitalize()}:** {text}" for role, text in said]
    return "\n\n".join(lines) + "\n"
