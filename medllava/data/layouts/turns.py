"""What makes a conversation usable: who speaks when, that words are words, where images stand.

Turns enter as a file has them; the same turns leave, or `UnusableRecordError` says by name why not.
Two things are put right and told (`Repair`), since they change no meaning: a reply before the first
question is left out, and image tokens whose number does not fit go first.
"""

import re
from collections.abc import Sequence
from enum import StrEnum

from medllava.data.conversation import remove_image_tokens
from medllava.data.dropped import DropReason, UnusableRecordError
from medllava.records import IMAGE_TOKEN, Turn

_SPECIAL = re.compile(
    r"<[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask|im_start|im_end|im_patch|image_soft_token)>"
    r"|<(?:start|end)_of_(?:turn|image|text|role)>|</?tool_call>|\[/?INST\]|\[/?SYSTEM_PROMPT\]"
    r"|<</?SYS>>|\[(?:PAD|IMG|IMG_BREAK|IMG_END)\]|<(?:video|audio)>"
)
"""Control tokens of the chat templates in use. In a turn's text they would be read as structure."""


class Repair(StrEnum):
    """What was put right in a record that is used."""

    IMAGE_PLACE = "image token put first"
    LEADING_REPLY = "reply before the first question left out"


def place_image_token(turns: list[Turn], *, num_images: int) -> list[Turn]:
    """Return the turns with exactly `num_images` image tokens, moved only where they were wrong.

    Turns that already hold the right number in user turns come back unchanged. Otherwise every
    token is removed and all are put on lines of their own before the first user turn's text, so
    that a filter which drops the first question cannot leave an image unseen.
    """
    held = sum(turn.content.count(IMAGE_TOKEN) for turn in turns if turn.role == "user")
    total = sum(turn.content.count(IMAGE_TOKEN) for turn in turns)
    if held == total == num_images:
        return turns
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
    placed = []
    for i, turn in enumerate(turns):
        text = remove_image_tokens(turn.content) if total else turn.content
        if i == first and num_images:
            text = "\n".join([IMAGE_TOKEN] * num_images + ([text] if text else []))
        placed.append(Turn(role=turn.role, content=text, answer_type=turn.answer_type))
    return placed


def tidy_turns(turns: list[Turn], *, num_images: int) -> tuple[list[Turn], list[Repair]]:
    """Return turns that a model can learn from, and what was put right in them.

    Raises:
        UnusableRecordError: they cannot be used without changing what they mean.
    """
    repairs = []
    first = 1 if turns and turns[0].role == "system" else 0
    asked = first
    while asked < len(turns) and turns[asked].role == "assistant":
        asked += 1
    if asked > first:
        turns = turns[:first] + turns[asked:]
        repairs.append(Repair.LEADING_REPLY)
    tokens, held = _check(turns, first)
    if tokens > num_images and num_images != 1:
        # One image named twice is still that image; with several nobody knows which is missing.
        raise UnusableRecordError(
            DropReason.PLACEHOLDERS, f"{tokens} {IMAGE_TOKEN} and {num_images} images"
        )
    if tokens == held == num_images:
        return turns, repairs
    placed = place_image_token(turns, num_images=num_images)
    _check(placed, first)  # taking a token out may leave nothing
    return placed, [*repairs, Repair.IMAGE_PLACE]


def _check(turns: Sequence[Turn], first: int) -> tuple[int, int]:
    """See that user and assistant take turns with words in them.

    Returns:
        How many image tokens there are, and how many of them in turns of the user.
    """
    tokens = held = 0
    for number, turn in enumerate(turns):
        if number >= first:
            expected = "assistant" if (number - first) & 1 else "user"
            if turn.role != expected:
                raise UnusableRecordError(
                    DropReason.ROLE_ORDER, f"turn {number + 1} is of {turn.role}, not {expected}"
                )
        text = turn.content
        if "<" in text or "[" in text:
            here = text.count(IMAGE_TOKEN)
            tokens += here
            held += here if turn.role == "user" else 0
            if found := _SPECIAL.search(text):
                raise UnusableRecordError(
                    DropReason.SPECIAL_TOKEN, f"turn {number + 1}: {found.group()}"
                )
        if not text or text.isspace() or not text.isascii():
            _check_text(turn, number + 1)
    if len(turns) < first + 2:
        raise UnusableRecordError(DropReason.NO_REPLY)
    return tokens, held


def _check_text(turn: Turn, number: int) -> None:
    """Look closer at a text that is empty, or in other letters than ASCII."""
    if not turn.content.strip():
        reason = DropReason.EMPTY_REPLY if turn.role == "assistant" else DropReason.EMPTY_TURN
        raise UnusableRecordError(reason, f"turn {number}")
    try:
        turn.content.encode()
    except UnicodeEncodeError:
        # Half of a character that takes two, which no tokenizer can read.
        raise UnusableRecordError(
            DropReason.NOT_TEXT, f"turn {number}: half of a character"
        ) from None
