"""Two pictures drawn here, so that the page can be tried without anyone's data."""

import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFilter

_SIDE = 336


def draw_phantom() -> Image.Image:
    """Draw a slice through a head-like phantom: nested ellipses of different gray."""
    image = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(image)
    for box, gray in (
        ((58, 20, 278, 316), 235),
        ((70, 34, 266, 302), 95),
        ((108, 96, 152, 214), 35),
        ((186, 108, 226, 206), 35),
        ((136, 74, 204, 128), 135),
        ((156, 222, 180, 246), 170),
    ):
        draw.ellipse(box, fill=gray)
    return image.filter(ImageFilter.GaussianBlur(1.2)).convert("RGB")


def draw_cells() -> Image.Image:
    """Draw bright round nuclei on a dark field, as fluorescence shows them; seeded."""
    chance = random.Random(7)
    image = Image.new("RGB", (_SIDE, _SIDE), (4, 8, 18))
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        x, y, r = chance.randint(12, 324), chance.randint(12, 324), chance.randint(8, 17)
        light = chance.randint(130, 255)
        draw.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=(20, light // 2, light))
    return image.filter(ImageFilter.GaussianBlur(1.5))


EXAMPLES: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "phantom": (draw_phantom, "What does this image show?"),
    "cells": (draw_cells, "What kind of image is this?"),
}
"""Name to (how it is drawn, the question offered with it)."""
