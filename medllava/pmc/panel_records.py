"""A figure record and its picture become one record per panel, each linked to the whole."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from medllava.images.encode import encode_image
from medllava.images.perceptual_hash import compute_perceptual_hash
from medllava.pmc.images import CleanImage
from medllava.pmc.modality import classify_modality
from medllava.pmc.panels import split_figure
from medllava.records import FigureRecord, Modality

SURE_ENOUGH = 0.3
"""Confidence from which a split is believed; below it the figure stays whole."""
_KINDS = {"jpg": "JPEG", "png": "PNG"}


def iter_panel_records(
    whole: FigureRecord,
    image: CleanImage,
    *,
    min_pixels: int,
    path_of: Callable[[int, str], str],
) -> Iterator[tuple[FigureRecord, CleanImage]]:
    """Yield a record and a picture for each panel; nothing where the figure stays whole.

    Only panels that the caption names are taken: a box without words of its own teaches nothing.

    Args:
        whole: of the figure, with one image.
        image: that image.
        min_pixels: of a panel's shorter side; smaller ones stay in the whole only.
        path_of: panel number from 1 and extension to a relative path.
    """
    found = split_figure(image.pixels, whole.caption)
    if len(found.panels) < 2 or found.confidence < SURE_ENOUGH:
        return
    for number, panel in enumerate(found.panels, start=1):
        left, top, right, bottom = panel.box
        if not panel.label or min(right - left, bottom - top) < min_pixels:
            continue
        pixels = image.pixels.crop(panel.box)
        data = encode_image(pixels, _KINDS[image.extension])
        sha256 = hashlib.sha256(data).hexdigest()
        modality = classify_modality(panel.caption, ())
        yield (
            dataclasses.replace(
                whole,
                figure_id=f"{whole.figure_id}/{panel.label}",
                caption=panel.caption,
                images=(path_of(number, image.extension),),
                modality=whole.modality if modality is Modality.OTHER else modality,
                panel=panel.label,
                panel_box=panel.box,
                panel_score=round(1.0 - found.confidence, 3),
                whole_figure_id=whole.figure_id,
                sha256=(sha256,),
            ),
            CleanImage(
                pixels=pixels,
                data=data,
                extension=image.extension,
                sha256=sha256,
                perceptual_hash=compute_perceptual_hash(pixels),
                has_gutters=False,
            ),
        )
