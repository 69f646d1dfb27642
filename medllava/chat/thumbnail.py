"""An image as text that a terminal shows: kitty's and iTerm2's graphics, else colored half blocks.

What the terminal can is read from its environment; where it can nothing, nothing is printed.
"""

import base64
import os
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from medllava.images.encode import encode_image, shrink

_CELLS = (48, 16)
"""Columns and rows that a thumbnail takes at most."""

Rgb = tuple[int, int, int]
_CHUNK = 4096
"""Kitty takes base64 in pieces of this size."""


def render_thumbnail(image: Image.Image, environment: Mapping[str, str] = os.environ) -> str:
    """Return escape sequences that draw the image and end the line; empty for a plain terminal."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in {"", "dumb"} or "NO_COLOR" in environment:
        return ""
    if term == "xterm-kitty" or "KITTY_WINDOW_ID" in environment or program == "ghostty":
        return _kitty(image)
    if program in {"iTerm.app", "WezTerm"}:
        return _iterm(image)
    if environment.get("COLORTERM") in {"truecolor", "24bit"}:
        return _half_blocks(image, _true_color)
    return _half_blocks(image, _palette_color) if "256color" in term else ""


def _png(image: Image.Image) -> str:
    return base64.b64encode(encode_image(shrink(image, (480, 320)))).decode()


def _kitty(image: Image.Image) -> str:
    data = _png(image)
    pieces = [data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK)]
    drawn = []
    for number, piece in enumerate(pieces):
        keys = f"a=T,f=100,r={_CELLS[1]}," if number == 0 else ""
        more = int(number < len(pieces) - 1)
        drawn.append(f"\x1b_G{keys}m={more};{piece}\x1b\\")
    return "".join(drawn) + "\n"


def _iterm(image: Image.Image) -> str:
    return f"\x1b]1337;File=inline=1;height={_CELLS[1]};preserveAspectRatio=1:{_png(image)}\x07\n"


def _half_blocks(image: Image.Image, color: Callable[[Rgb], str]) -> str:
    """Draw two pixels per cell: the upper half in the foreground color, the lower behind it."""
    small = shrink(image, (_CELLS[0], 2 * _CELLS[1]))
    pixels: Any = small.load()
    lines = []
    for y in range(0, small.height - small.height % 2 or 1, 2):
        below = min(y + 1, small.height - 1)
        cells = (
            f"\x1b[38;{color(pixels[x, y])};48;{color(pixels[x, below])}m\u2580"
            for x in range(small.width)
        )
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def _true_color(rgb: Rgb) -> str:
    return "2;{};{};{}".format(*rgb)


def _palette_color(rgb: Rgb) -> str:
    """Return the nearest of xterm's 6 x 6 x 6 colors, or of its 24 grays for a gray."""
    red, green, blue = rgb
    if max(rgb) - min(rgb) < 12:
        return f"5;{232 + min(23, red * 24 // 256)}"
    return f"5;{16 + 36 * (red * 6 // 256) + 6 * (green * 6 // 256) + blue * 6 // 256}"
