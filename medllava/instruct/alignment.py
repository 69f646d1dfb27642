"""Stage 1 data: one instruction to describe the image, answered by the figure's own caption.

A figure goes in, one record comes out. Captions under thirty words answer a request for a brief
description, longer ones a request for a detailed one.

Source: LLaVA-Med, Li et al. 2023, "Biomedical concept alignment data"; the wordings are ours.
"""

import hashlib

from medllava.records import IMAGE_TOKEN, FigureRecord, InstructionRecord, Stage, Turn

ALIGN_VERSION = "align-1"
BRIEF_BELOW_WORDS = 30
"""Captions of fewer words than this are brief descriptions. Source: as above."""

BRIEF_WORDINGS = (
    "Describe the image briefly.",
    "Summarise what this image shows in a few words.",
    "Write a short caption for the image.",
    "What does the image show, in brief?",
    "Give a concise description of the image.",
    "State in short what can be seen here.",
    "Offer a compact summary of this picture.",
    "In a sentence or two, what is shown?",
    "Tell me shortly what this figure depicts.",
    "Provide a succinct account of the image.",
    "Name the main content of the picture.",
)
DETAILED_WORDINGS = (
    "Describe the image in detail.",
    "Explain thoroughly what this image shows.",
    "Write a full description of the picture.",
    "Give a comprehensive account of what is visible.",
    "What can be seen in the image? Be as complete as you can.",
    "Walk me through everything that the image shows.",
    "Provide a detailed caption for this figure.",
    "Characterise the image closely.",
    "Describe all that is relevant in this picture.",
    "Present an elaborate explanation of the figure.",
    "Analyse the image and report its content at length.",
    "Give me a rich description of what is depicted.",
    "Look closely and describe the whole image.",
    "Set out the content of the image with its details.",
    "What does the figure present? Answer extensively.",
    "Compose an in-depth description of the image.",
)


def align_figure(figure: FigureRecord, *, seed: int, image_position: str) -> InstructionRecord:
    """Pair an instruction with the figure's caption.

    Args:
        figure: with a caption and exactly one image.
        seed: with the figure's id it fixes the wording and the place of the image token, whatever
            the order or the selection of figures.
        image_position: `before` or `after` the instruction, or `random`.
    """
    caption = " ".join(figure.caption.split())
    is_brief = caption.count(" ") + 1 < BRIEF_BELOW_WORDS
    wordings = BRIEF_WORDINGS if is_brief else DETAILED_WORDINGS
    number = draw(seed, figure.figure_id)
    user = place_image(
        wordings[number % len(wordings)],
        image_position,
        draw=number >> 32,
        num_images=len(figure.images),
    )
    return InstructionRecord(
        record_id=figure.figure_id,
        images=figure.images,
        turns=(Turn(role="user", content=user), Turn(role="assistant", content=caption)),
        stage=Stage.ALIGN,
        figure_id=figure.figure_id,
        modality=figure.modality,
        license=figure.license,
        split=figure.split,
        provenance={"version": ALIGN_VERSION},
    )


def place_image(text: str, position: str, *, draw: int, num_images: int = 1) -> str:
    """Put a line for each image `before` or `after` the text, or as drawn."""
    is_after = bool(draw & 1) if position == "random" else position == "after"
    tokens = "\n".join([IMAGE_TOKEN] * num_images)
    return f"{text}\n{tokens}" if is_after else f"{tokens}\n{text}"


def draw(seed: int, key: str) -> int:
    """Return 64 bits that depend on seed and key only; cheaper than a generator per record."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
