"""A conversation as a file: out of the terminal or the page, and in again.

JSON holds everything that goes on needs: turns, and each picture either as the path it came from
with the view that was shown, or as PNG. Markdown is for reading.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medllava.chat.config import ViewConfig
from medllava.chat.exchange import open_image
from medllava.errors import DataError
from medllava.images.encode import image_address, shrink
from medllava.records import IMAGE_TOKEN, Turn

_ROLES = ("user", "assistant")
_MAX_TURNS = 2000
_PREVIEW_PIXELS = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A conversation that was read."""

    turns: list[Turn]
    images: list[list[Image.Image]]
    """Of every turn."""
    sources: list[list[str]]
    """Name or path of every picture, of every turn."""
    views: list[list[ViewConfig]]
    """What of every picture was shown."""

    def to_page(self) -> list[dict[str, Any]]:
        """Return what a page needs to draw it."""
        return [
            {
                "role": turn.role,
                "content": turn.content.replace(IMAGE_TOKEN, "").strip(),
                "images": [
                    {"name": name, "preview": _preview(image)}
                    for name, image in zip(names, shown, strict=True)
                ],
            }
            for turn, shown, names in zip(self.turns, self.images, self.sources, strict=True)
        ]


def parse_transcript(raw: bytes, *, folder: Path | None = None) -> Transcript:
    """Read a conversation.

    Args:
        raw: a JSON file that the page or `/save` wrote.
        folder: where relative paths of pictures begin; None takes pictures within the file only,
            as for a file that came from somebody else's browser.

    Raises:
        DataError: it is no such file, or a picture cannot be opened.
    """
    try:
        value = json.loads(raw)
        entries = value["turns"]
        if not isinstance(entries, list) or len(entries) > _MAX_TURNS:
            raise TypeError
        turns, images, sources, views = [], [], [], []
        for entry in entries:
            shown = [_open(image, folder) for image in entry.get("images", [])]
            turns.append(_turn(entry, num_images=len(shown)))
            images.append([image for _, _, image in shown])
            sources.append([name for name, _, _ in shown])
            views.append([view for _, view, _ in shown])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            "not a conversation that medllava chat wrote. Choose its .json file."
        ) from None
    return Transcript(turns=turns, images=images, sources=sources, views=views)


def _turn(entry: dict[str, Any], *, num_images: int) -> Turn:
    role, content = entry["role"], entry["content"]
    if role not in _ROLES or not isinstance(content, str):
        raise TypeError
    plain = content.replace(IMAGE_TOKEN, "").strip()
    return Turn(role=role, content=f"{IMAGE_TOKEN}\n" * num_images + plain)


def _open(value: dict[str, Any], folder: Path | None) -> tuple[str, ViewConfig, Image.Image]:
    name = str(value.get("name") or value.get("source") or "picture")
    if "png" in value:
        try:
            data = base64.b64decode(str(value["png"]).partition(",")[2], validate=True)
        except binascii.Error:
            raise TypeError from None
        return name, ViewConfig(), open_image(data, ViewConfig())
    if folder is None:
        raise DataError("a picture is not in the file. Save the conversation again with it.")
    source = str(value["source"])
    is_address = source.lower().startswith(("http://", "https://"))
    view = value.get("view") or {}
    shown = ViewConfig(
        frame=view.get("frame"),
        plane=str(view.get("plane") or "axial"),
        slice_index=view.get("slice"),
        window=tuple(view["window"]) if view.get("window") else None,
    )
    return source, shown, open_image(source if is_address else str(folder / source), shown)


def _preview(image: Image.Image) -> str:
    return image_address(shrink(image, _PREVIEW_PIXELS))
