"""Images from files into a conversation, and conversations into files.

Both the terminal and a script come through here; the page, which writes no file, does not.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from medllava.chat.config import ViewConfig
from medllava.errors import DataError
from medllava.images.load import load_image, load_series, read_slice
from medllava.images.series import Series
from medllava.records import IMAGE_TOKEN, Turn
from medllava.store import write_json, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One turn with where its pictures came from."""

    turn: Turn
    images: tuple[tuple[str, ViewConfig], ...] = ()


def open_image(source: str | bytes | Series[bytes], view: ViewConfig) -> Image.Image:
    """Read what the user named, a path or an http(s) address, or what was uploaded, as RGB.

    Raises:
        MedllavaError: see `medllava.images.load.load_image`.
    """
    if isinstance(source, Series):
        return read_slice(source, view.frame, view.window)
    return load_image(
        source,
        frame=view.frame,
        plane=view.plane,
        slice_index=view.slice_index,
        window=view.window,
    )


def open_images(source: str, view: ViewConfig) -> list[tuple[ViewConfig, Image.Image]]:
    """Read what the user named: one picture, or those that stand for a folder's DICOM series.

    Returns:
        Each picture with the view that opens it again.

    Raises:
        MedllavaError: see `medllava.images.load.load_series`.
    """
    if view.frame is None and Path(source).is_dir():
        slices = load_series(Path(source), window=view.window)
        return [(replace(view, frame=number), image) for number, image in slices]
    return [(view, open_image(source, view))]


def parse_source(text: str) -> str:
    """Return the path or address that somebody typed, pasted, or dragged into the terminal.

    Terminals put quotes around a dragged path, or backslashes before its spaces, or make an address
    of it; the shell that would undo that is not there.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif "\\" in text and os.name != "nt" and not Path(text).exists():
        text = re.sub(r"\\(.)", r"\1", text)
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def save_conversation(path: Path, *, said: Sequence[Said], model: str) -> None:
    """Write a conversation as JSON, or as Markdown where the name ends in `.md`.

    Raises:
        DataError: the file exists, or cannot be written.
    """
    if path.exists():
        raise DataError(f"the file exists: {path}. Choose another name.")
    try:
        if path.suffix.lower() == ".md":
            write_text(path, _render_markdown(said, model=model))
        else:
            images = [source for one in said for source, _ in one.images]
            turns = [_turn_to_json(one) for one in said]
            write_json(path, {"model": model, "images": images, "turns": turns})
    except OSError as error:
        raise DataError(f"cannot write ({error.strerror}): {path}. Choose another.") from None


def _turn_to_json(one: Said) -> dict[str, Any]:
    plain = {"role": one.turn.role, "content": one.turn.content.replace(IMAGE_TOKEN, "").strip()}
    if not one.images:
        return plain
    return {**plain, "images": [_image_to_json(source, view) for source, view in one.images]}


def _image_to_json(source: str, view: ViewConfig) -> dict[str, Any]:
    """Write where a picture came from, and which slice and window of it the model was shown."""
    shown = {
        "frame": view.frame,
        "plane": None if view.plane == "axial" else view.plane,
        "slice": view.slice_index,
        "window": list(view.window) if view.window else None,
    }
    is_address = source.lower().startswith(("http://", "https://"))
    place = source if is_address else str(Path(source).absolute())
    given = {name: value for name, value in shown.items() if value is not None}
    return {"source": place, **({"view": given} if given else {})}


def _render_markdown(said: Sequence[Said], *, model: str) -> str:
    lines = [f"Model: {model}"]
    for one in said:
        for source, view in one.images:
            shown = _image_to_json(source, view).get("view", {})
            facts = ", ".join(f"{name} {value}" for name, value in shown.items())
            lines.append(f"Image: {source}{f' ({facts})' if facts else ''}")
        text = one.turn.content.replace(IMAGE_TOKEN, "").strip()
        lines.append(f"**{one.turn.role.capitalize()}:** {text}")
    return "\n\n".join(lines) + "\n"
