"""Worked examples that a teacher is shown: captions, and what was written from them alone.

The answers rest on the captions; they hold whether or not sentences of the article are shown.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A worked example of one domain."""

    label: str
    caption: str
    mentions: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    wrong_options: tuple[tuple[str, ...], ...] = ()
    """Of each question with choices, those that are wrong."""

    def as_json(self) -> list[dict[str, str | list[str]]]:
        """Return the turns as a teacher writes them."""
        turns: list[dict[str, str | list[str]]] = [
            {"question": question, "answer": answer} for question, answer in self.turns
        ]
        for turn, wrong in zip(turns, self.wrong_options, strict=False):
            turn["wrong_options"] = list(wrong)
        return turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """How to ask for one kind of data."""

    version: str
    """Part of every record's provenance; changes with any word below."""
    rules: str
    """The system message; `{given}` says what the teacher is shown."""
    schema: dict[str, Any]
    """Of the reply."""
    examples: tuple[Example, ...]


EXAMPLES = (
    Example(
        label="Figure 1",
        caption="Posteroanterior chest radiograph of a 61-year-old man on admission, showing a "
        "large right-sided pleural effusion with shift of the trachea to the left. The left lung "
        "is clear.",
        mentions=("Chest radiography (Figure 1) was performed two hours after admission.",),
        turns=(
            (
                "What kind of image is this, and from which direction was it taken?",
                "It is a chest X-ray in posteroanterior projection, with the beam passing from "
                "back to front.",
            ),
            (
                "One half of the chest looks much whiter than the other. What is seen there?",
                "The right side is opaque because a large amount of fluid fills the pleural "
                "space, which hides the lung behind it.",
            ),
            (
                "Is the trachea in the midline?",
                "No, it is pushed to the left, away from the fluid.",
            ),
            ("How does the left lung compare?", "The left lung is clear and normally dark."),
        ),
    ),
    Example(
        label="Fig. 3",
        caption="Contrast-enhanced axial CT of the abdomen. A well-defined hypodense lesion "
        "(arrow) measuring 4.2 cm is present in segment VI of the liver; there is no dilatation "
        "of the bile ducts.",
        mentions=("CT revealed a solitary liver lesion (Fig. 3), later confirmed as a cyst.",),
        turns=(
            (
                "Describe the scan in a sentence.",
                "This is an axial CT section through the upper abdomen after contrast was given, "
                "in which the liver takes up most of the left side of the picture.",
            ),
            (
                "What does the arrow point at?",
                "It points at a sharply outlined area in the right part of the liver that is "
                "darker than the tissue around it.",
            ),
            ("Do the bile ducts appear widened?", "No, the bile ducts are not dilated."),
        ),
    ),
    Example(
        label="Figure 2",
        caption="Sagittal T2-weighted MRI of the lumbar spine demonstrating loss of disc height "
        "and low signal at L4/L5 with posterior disc protrusion compressing the thecal sac.",
        mentions=(),
        turns=(
            (
                "Which imaging method and plane are we looking at?",
                "It is an MRI of the lower back in the sagittal plane. The bright fluid around "
                "the nerves shows that it is T2-weighted.",
            ),
            (
                "Where along the spine is the abnormal disc?",
                "It lies between the fourth and the fifth lumbar vertebra, near the lower end of "
                "the lumbar spine.",
            ),
            (
                "How does that disc differ from a healthy one?",
                "It is flatter and darker, and it bulges backwards.",
            ),
            (
                "Does the bulge touch anything behind it?",
                "Yes, it presses on the thecal sac, which is narrowed at that level.",
            ),
        ),
    ),
    Example(
        label="Figure 4",
        caption="Histology of the resected specimen (haematoxylin and eosin, x200): nests of "
        "polygonal cells with clear cytoplasm separated by a delicate network of blood vessels. "
        "Ki-67 index was 5%.",
        mentions=(
            "Microscopy showed clear cell nests (Figure 4).",
            "The patient was discharged on day 6.",
        ),
        turns=(
            (
                "How was this tissue stained?",
                "With haematoxylin and eosin, which colors nuclei blue to purple and the rest "
                "of the tissue pink.",
            ),
            (
                "Explain how the cells are arranged.",
                "They lie together in nests, and thin blood vessels form a fine network between "
                "the nests.",
            ),
            (
                "What is striking about the cytoplasm?",
                "It is clear, so that the polygonal cells look almost empty around their nuclei.",
            ),
        ),
    ),
    Example(
        label="Fig 5",
        caption="Gross appearance of the opened stomach. An ulcerated mass with raised, irregular "
        "borders occupies the antrum; the remaining mucosa is unremarkable.",
        mentions=("The surgical specimen is shown in Fig 5.",),
        turns=(
            (
                "What organ is shown here, and how was it prepared?",
                "It is a stomach that was cut open so that its inner surface can be seen.",
            ),
            (
                "Point out the main abnormality.",
                "In the antrum there is a mass with an ulcer in its center and a raised, uneven "
                "rim.",
            ),
            (
                "Is the rest of the lining affected too?",
                "No, the mucosa elsewhere looks unremarkable.",
            ),
        ),
    ),
)
