"""Turns to the one text that training, evaluation and chat all send.

Turns enter; the model's own chat template, saved with its processor, makes the text. For training
the character spans of the replies leave with it, each with its end token, so that labels come from
the template and never from counting tokens. Ids and labels are made next, in `tokenize`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from medllava.errors import SetupError
from medllava.records import IMAGE_TOKEN, AnswerType, Question, Turn

ASSISTANT = "assistant"
Span = tuple[int, int]
"""First character and the one after the last."""

_SET_PROMPT = "Name all that apply, separated by commas."
_SET_OF_CHOICES_PROMPT = "Several choices are right. Answer with all of their letters."
_BOX_PROMPT = (
    "Answer with one box [left, top, right, bottom] in thousandths of the image's width and height."
)
_PROBE = "medllava probe"
_string_templates: dict[str, bool] = {}
"""Template to whether it takes string contents; found once per template."""


def user_turn(text: str, *, num_images: int) -> Turn:
    """Return what a user says about some images: the images first, each on its line, then the text.

    Args:
        text: placeholders typed into it are taken out; only real images get one.
        num_images: shown with this turn.
    """
    plain = text.replace(IMAGE_TOKEN, "").strip()
    return Turn(role="user", content=f"{IMAGE_TOKEN}\n" * num_images + plain)


def image_first(content: str) -> str:
    """Put the one image of a turn on a line of its own before the words, as LLaVA does.

    Training, evaluation and chat write every turn through here, so a model is asked as it learned,
    wherever a file has the token. Several images of a turn stay where its words need them.
    """
    if content.count(IMAGE_TOKEN) != 1 or content.startswith(f"{IMAGE_TOKEN}\n"):
        return content
    words = remove_image_tokens(content)
    return f"{IMAGE_TOKEN}\n{words}" if words else IMAGE_TOKEN


def remove_image_tokens(text: str) -> str:
    """Take image tokens out of a text; between words one blank or line break is left."""
    head, *rest = text.split(IMAGE_TOKEN)
    for piece in rest:
        if head[-1:] in (" ", "\n") and piece[:1] == " ":
            piece = piece[1:]
        if piece[:1] == "\n":
            head = head.rstrip(" \n") if head.endswith("\n") else head.rstrip(" ")
        head += piece
    return head.strip()


def find_special_token(processor: Any, turns: Sequence[Turn]) -> str | None:  # noqa: ANN401 - any processor
    """Return a special token of the model that stands in a turn's own words, or None.

    A tokenizer takes it for structure: words behind it would be somebody else's.
    """
    pattern = _special_tokens(getattr(processor, "tokenizer", processor))
    found = (pattern.search(turn.content) for turn in turns)
    return next((match.group().strip() for match in found if match), None)


def question_text(question: Question, *, closed_prompt: str = "") -> str:
    """Return what is asked: the question, its choices, and how to answer if it is closed.

    Training on a benchmark and being measured on it both ask with these words.
    """
    lines = [question.question.strip()]
    lines += [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(question.choices)]
    if question.box:
        lines.append(_BOX_PROMPT)
    elif question.answers:
        lines.append(_SET_OF_CHOICES_PROMPT if question.choices else _SET_PROMPT)
    elif question.answer_type is AnswerType.CLOSED and closed_prompt:
        lines.append(closed_prompt)
    return "\n".join(lines)


def render_prompt(processor: Any, turns: Sequence[Turn], *, open_reply: bool) -> str:  # noqa: ANN401 - any processor or tokenizer with a chat template
    """Write a conversation in the model's own format.

    Args:
        processor: has the chat template, with the recipe's system prompt in it.
        turns: in order; a user turn holds one `<image>` for each image it shows.
        open_reply: end where the assistant's next words begin, as for an answer.

    Raises:
        SetupError: the processor has no chat template, or it refuses these turns.
    """
    as_lists = not _accepts_strings(processor)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        # White space around a reply could melt into a token with the prompt before it.
        content = turn.content.strip() if turn.role == ASSISTANT else image_first(turn.content)
        messages.append({"role": turn.role, "content": _parts(content) if as_lists else content})
    return _apply(processor, messages, open_reply=open_reply)


def render_replies(processor: Any, turns: Sequence[Turn]) -> tuple[str, list[Span]]:  # noqa: ANN401 - as above
    """Write a whole conversation and say which characters the model is to learn.

    Returns:
        The text, and one span per assistant turn: its reply and the end token after it.

    Raises:
        SetupError: the template rewrites earlier turns, drops a reply, or ends replies with no
            token of its own, so that a model could not learn to stop.
    """
    text = render_prompt(processor, turns, open_reply=False)
    end_token = _special_tokens(getattr(processor, "tokenizer", processor))
    spans = []
    for number, turn in enumerate(turns):
        if turn.role != ASSISTANT:
            continue
        prefix = render_prompt(processor, turns[:number], open_reply=True)
        reply = turn.content.strip()
        found = text.find(reply, len(prefix)) if text.startswith(prefix) else -1
        end = end_token.match(text, found + len(reply)) if found >= 0 else None
        if end is None:
            raise SetupError(
                f"the chat template does not write reply {reply!r:.40} after its prompt and "
                "before an end token. Set model.language_model.chat_template in the recipe."
            )
        spans.append((len(prefix), end.end()))
    return text, spans


def needs_special_tokens(processor: Any, text: str) -> bool:  # noqa: ANN401 - as above
    """Tell whether the tokenizer must still add its start token to a rendered text.

    The rule is the one of `apply_chat_template(tokenize=True)`, so that ids agree everywhere.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    return not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def _template_of(processor: Any) -> str:  # noqa: ANN401 - as above
    template = processor.chat_template or getattr(processor, "tokenizer", processor).chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise SetupError(
            "the processor has no chat template. Set model.language_model.chat_template."
        )
    return str(template)


def _accepts_strings(processor: Any) -> bool:  # noqa: ANN401 - as above
    """Tell a template for string contents from one that only reads lists of parts."""
    template = _template_of(processor)
    if template not in _string_templates:
        try:
            text = _apply(processor, [{"role": "user", "content": _PROBE}], open_reply=False)
        except SetupError:
            text = ""
        _string_templates[template] = _PROBE in text
    return _string_templates[template]


def _apply(processor: Any, messages: list[dict[str, Any]], *, open_reply: bool) -> str:  # noqa: ANN401 - as above
    try:
        text = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_reply
        )
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        raise SetupError(f"the chat template refuses this conversation ({error}).") from None
    return str(text)


def _parts(content: str) -> list[dict[str, str]]:
    """Split a turn at its images, for templates that want lists."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(content.split(IMAGE_TOKEN)):
        if number:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip("\n")})
    return parts or [{"type": "text", "text": content}]


@lru_cache(maxsize=16)
def _special_pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return re.compile(rf"\s*(?:{alternatives})")


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:  # noqa: ANN401 - any tokenizer
    """Return a pattern of one special token, white space before it allowed."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    tokens = {*tokenizer.all_special_tokens, *added} - {IMAGE_TOKEN}
    return _special_pattern(tuple(sorted(tokens)))
