"""What a teacher is told: how to turn a caption into a conversation about an image.

A `FigureRecord` goes in, a `ChatRequest` comes out, and `parse` reads the answer. The instructions
and the examples come first and never change, so servers that cache prompts read them once. The
examples' answers rest on their captions alone; they hold whether or not sentences of the article
are shown.

Source: LLaVA-Med, Li et al. 2023, "Biomedical visual instruction-tuning data"; the rules are the
paper's, the words and the examples are ours.
"""

import json
from dataclasses import replace
from typing import Any

from medllava.instruct.config import Kind
from medllava.instruct.examples import EXAMPLES, Prompt
from medllava.instruct.phrases import NAMES
from medllava.instruct.question_prompts import CHOICE_PROMPT, VQA_PROMPT
from medllava.llm.protocol import ChatRequest, Message
from medllava.records import FigureRecord

PROMPT_VERSION = "converse-1"
"""Part of every record's provenance; changes with any word below."""

MOST_REPLY_TOKENS = 1024
USUAL_REPLY_TOKENS = 320
"""Length of the examples' answers in tokens, as the expectation of a dry run."""
_MOST_CAPTION_CHARACTERS = 6000
_MOST_MENTION_CHARACTERS = 3000

REPLY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["turns"],
    "properties": {
        "turns": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["question", "answer"],
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
            },
        }
    },
}

_RULES = """\
You prepare training data for an assistant that looks at biomedical images and talks about them.
{given}
Write the conversation that a curious person and the assistant could have about this image. The
person asks; the assistant answers like an expert who is looking at the picture right now.

Rules:
1. Both of them have the picture before them and nothing else. Neither ever speaks of a caption, a
   legend, a description, a figure number, an article, its authors or any other text.
2. Leave out whatever nobody could tell from the picture: names, ages, dates, places, counts of
   patients, measurements, doses, test results, abbreviations, and what happened before or after.
3. Keep to what can be seen: the kind of image and its plane or stain, organs and structures, where
   things lie, their size relative to each other, shape, color, brightness, texture, arrows and
   other marks, and how panels differ.
4. Write three to five questions, each about something else and each phrased differently. Mix
   questions that ask to describe, to locate, to compare, to count, to explain, and those that can
   be answered with yes or no.
5. Answers are complete sentences with natural spelling and capitals. Say no more than is known;
   where the material leaves something open, do not ask about it.
6. Findings may be named as findings. The assistant makes no diagnosis of a person, recommends no
   treatment and gives no medical advice.
7. Answer with JSON only: {{"turns": [{{"question": "...", "answer": "..."}}, ...]}}"""

_TEXT_ONLY = """\
You are given text that belongs to a figure of a scientific article: its caption and sometimes
sentences that mention it. The picture itself is not shown to you."""
_WITH_IMAGE = """\
You are shown a figure of a scientific article together with its caption and sometimes sentences
that mention it. Look at the picture first; use the text to name what you see. What the text says
and the picture does not show is left out. The examples below come without their pictures."""


PROMPTS = {
    Kind.CONVERSATION: Prompt(
        version=PROMPT_VERSION, rules=_RULES, schema=REPLY_SCHEMA, examples=EXAMPLES
    ),
    Kind.VQA: VQA_PROMPT,
    Kind.CHOICE: CHOICE_PROMPT,
}


def build_request(
    figure: FigureRecord,
    *,
    inline_mentions: bool,
    image: str | None = None,
    temperature: float = 0.7,
    seed: int | None = None,
    language: str | None = None,
    kind: Kind = Kind.CONVERSATION,
) -> ChatRequest:
    """Ask for a conversation or for questions about a figure.

    Args:
        figure: with a caption.
        inline_mentions: show the sentences of the article that cite the figure.
        image: path of the picture, for teachers that see; None sends text only.
        temperature: of the teacher's sampling; above 0 questions vary more.
        seed: of the teacher's sampling, where the server has one.
        language: to write in, by its two letters; None leaves it to the teacher.
        kind: of what is written.
    """
    asked = Message(
        role="user",
        content=_material(figure.label, figure.caption, _shown(figure, inline_mentions)),
        images=() if image is None else (image,),
    )
    opening = _opening(kind, inline_mentions, image is not None)
    if language is not None:
        told = f"{opening[0].content}\n8. Write all questions and answers in {NAMES[language]}."
        opening = (replace(opening[0], content=told), *opening[1:])
    return ChatRequest(
        request_id=figure.figure_id,
        messages=(*opening, asked),
        max_new_tokens=MOST_REPLY_TOKENS,
        temperature=temperature,
        seed=seed,
        response_schema=PROMPTS[kind].schema,
    )


def _opening(kind: Kind, inline_mentions: bool, with_image: bool) -> tuple[Message, ...]:  # noqa: FBT001
    key = (kind, inline_mentions, with_image)
    if key not in _OPENINGS:
        prompt = PROMPTS[kind]
        given = _WITH_IMAGE if with_image else _TEXT_ONLY
        messages = [Message(role="system", content=prompt.rules.format(given=given))]
        for example in prompt.examples:
            mentions = example.mentions if inline_mentions else ()
            asked = _material(example.label, example.caption, mentions)
            answer = json.dumps({"turns": example.as_json()}, ensure_ascii=False)
            messages += [
                Message(role="user", content=asked),
                Message(role="assistant", content=answer),
            ]
        _OPENINGS[key] = tuple(messages)
    return _OPENINGS[key]


_OPENINGS: dict[tuple[Kind, bool, bool], tuple[Message, ...]] = {}
"""The same objects in every request: a million of them share one copy."""


def _shown(figure: FigureRecord, inline_mentions: bool) -> tuple[str, ...]:  # noqa: FBT001
    shown, room = [], _MOST_MENTION_CHARACTERS if inline_mentions else 0
    for mention in figure.in_text_mentions:
        text = " ".join(mention.split())
        room -= len(text)
        if room < 0:
            break
        shown.append(text)
    return tuple(shown)


def _material(label: str, caption: str, mentions: tuple[str, ...]) -> str:
    text = " ".join(caption.split())[:_MOST_CAPTION_CHARACTERS]
    lines = [f"Caption: {label}. {text}" if label else f"Caption: {text}"]
    if mentions:
        lines += ["Sentences of the article:", *(f"- {mention}" for mention in mentions)]
    return "\n".join(lines)
