"""What a teacher is told that writes single questions: with short answers, or with choices.

The figures of the examples are those of conversations. A teacher of choices gives the right answer
and wrong ones; letters are dealt afterwards, so that no letter is right more often than another.
"""

from dataclasses import replace
from typing import Any

from medllava.instruct.examples import EXAMPLES, Example, Prompt

_SHARED = """\
You prepare questions for training an assistant that looks at biomedical images.
{given}
Write questions about this image whose answers somebody can check by looking at it.

Rules:
1. Whoever answers has the picture and the question, nothing else. Never speak of a caption, a
   legend, a description, a figure number, an article, its authors or any other text.
2. Ask only what the picture decides. Nothing that anybody knows without it, and nothing that the
   question itself gives away.
3. Leave out whatever nobody could tell from the picture: names, ages, dates, places, counts of
   patients, measurements, doses, test results, and what happened before or after.
4. Ask about different things: the kind of image and its plane or stain, organs and structures,
   where something lies, its shape, brightness or color, what an arrow marks, what is present or
   absent. No two questions with the same answer.
5. Findings may be named as findings. No diagnosis of a person, no treatment, no advice.
"""
_VQA_RULES = (
    _SHARED
    + """\
6. Write three to six questions. An answer is one to five words, or yes or no; as many questions
   have the answer no as have the answer yes.
7. Answer with JSON only: {{"turns": [{{"question": "...", "answer": "..."}}, ...]}}"""
)
_CHOICE_RULES = (
    _SHARED
    + """\
6. Write two to four questions, each with one right answer and three wrong options. Exactly one is
   right: no wrong option may be true of this image, in part or in other words.
7. Options are of one type (four organs, four planes, four findings), equally long and equally
   exact, and each could be true of another image of this kind. Never "all of these" or "none of
   these". Write no letters before them.
8. Answer with JSON only: {{"turns": [{{"question": "...", "answer": "...",
   "wrong_options": ["...", "...", "..."]}}, ...]}}"""
)


def _schema(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON is any
    properties = {"question": {"type": "string"}, "answer": {"type": "string"}, **more}
    turn = {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["turns"],
        "properties": {"turns": {"type": "array", "items": turn}},
    }


def _examples(
    *written: tuple[int, tuple[tuple[str, str, tuple[str, ...]], ...]],
) -> tuple[Example, ...]:
    return tuple(
        replace(
            EXAMPLES[number],
            turns=tuple((question, answer) for question, answer, _ in turns),
            wrong_options=tuple(wrong for _, _, wrong in turns if wrong),
        )
        for number, turns in written
    )


VQA_PROMPT = Prompt(
    version="vqa-1",
    rules=_VQA_RULES,
    schema=_schema(),
    examples=_examples(
        (
            0,
            (
                ("Which side of the chest is opaque?", "the right side", ()),
                ("Is the trachea pushed to the right?", "no", ()),
                ("What fills the pleural space?", "fluid", ()),
                ("Is the left lung clear?", "yes", ()),
            ),
        ),
        (
            3,
            (
                ("How was the tissue stained?", "hematoxylin and eosin", ()),
                ("Are the cells arranged in nests?", "yes", ()),
                ("What does the cytoplasm of the cells look like?", "clear", ()),
                ("Are the nests separated by broad bands of fat?", "no", ()),
            ),
        ),
    ),
)
CHOICE_PROMPT = Prompt(
    version="choice-1",
    rules=_CHOICE_RULES,
    schema=_schema(wrong_options={"type": "array", "items": {"type": "string"}}),
    examples=_examples(
        (
            1,
            (
                (
                    "In which organ does the arrow mark a lesion?",
                    "liver",
                    ("spleen", "pancreas", "left kidney"),
                ),
                (
                    "How does the marked area compare with the tissue around it?",
                    "it is darker",
                    ("it is brighter", "it is equally bright", "it is striped"),
                ),
            ),
        ),
        (
            2,
            (
                (
                    "In which plane was the spine imaged?",
                    "sagittal",
                    ("axial", "coronal", "oblique"),
                ),
                (
                    "At which level is the disc flattened?",
                    "between L4 and L5",
                    ("between L1 and L2", "between L2 and L3", "between L3 and L4"),
                ),
            ),
        ),
    ),
)
