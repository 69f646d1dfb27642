"""A second model reads what the first one wrote: which pairs hold, and how surely.

A conversation and what its writer saw go in as one request; a verdict for each pair comes out. A
verdict that cannot be read says nothing, so its figure is left for another run and never kept
unread.
"""

import json
from dataclasses import dataclass
from typing import Any

from medllava.instruct.parse import Pair
from medllava.llm.protocol import ChatReply, ChatRequest, Message
from medllava.llm.replies import EMPTY, useless_reason
from medllava.records import FigureRecord

VERIFY_VERSION = "verify-2"
UNVERIFIED = "verifier_says_no"
CHECKS = ("supported", "self_contained", "no_leak")
_MOST_TOKENS = 1024
_RULES = """\
You check training data for an assistant that looks at biomedical images. You get the text that
belongs to a figure{image} and numbered pairs of question and answer about it. Judge every pair on
its own:
- supported: the text{or_picture} bears the answer out; nothing in the answer contradicts it or goes
  beyond it, side, plane, kind of image, organ and finding included.
- self_contained: somebody with the picture and nothing else before them understands the question,
  and cannot answer it without the picture.
- no_leak: neither question nor answer speaks of a caption or another text, and the question does
  not say the answer.
- Where options are offered as wrong, supported also means that none of them is right.
- score: from 0 (surely unfit) to 1 (surely fit).
Answer with JSON only."""

_VERDICT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["number", *CHECKS, "score", "reason"],
    "properties": {
        "number": {"type": "integer"},
        **{name: {"type": "boolean"} for name in CHECKS},
        "score": {"type": "number"},
        "reason": {"type": "string"},
    },
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["verdicts"],
    "properties": {"verdicts": {"type": "array", "items": _VERDICT}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the verifier says of one pair."""

    failed: tuple[str, ...]
    """Checks that it did not pass."""
    score: float
    """0 to 1."""
    reason: str

    def passes(self, min_score: float) -> bool:
        """Tell whether the pair may be kept."""
        return not self.failed and self.score >= min_score


def build_verification(
    figure: FigureRecord, pairs: tuple[Pair, ...], *, image: str | None
) -> ChatRequest:
    """Ask about the pairs of a figure.

    Args:
        figure: with what its words say.
        pairs: to be judged.
        image: path of the picture, for verifiers that see; None sends text only.
    """
    rules = _RULES.format(
        image=" and the picture itself" if image else "",
        or_picture=" or the picture" if image else "",
    )
    lines = [f"Caption: {figure.label} {' '.join(figure.caption.split())}"]
    lines += [f"- {' '.join(mention.split())}" for mention in figure.in_text_mentions[:10]]
    for number, pair in enumerate(pairs, start=1):
        lines += [f"{number}. Question: {pair.question}", f"   Answer: {pair.answer}"]
        if pair.wrong_options:
            lines.append(f"   Offered as wrong: {'; '.join(pair.wrong_options)}")
    return ChatRequest(
        request_id=f"verify {figure.figure_id}",
        messages=(
            Message(role="system", content=rules),
            Message(
                role="user", content="\n".join(lines), images=() if image is None else (image,)
            ),
        ),
        max_new_tokens=_MOST_TOKENS,
        response_schema=_SCHEMA,
    )


def useless_verdicts(reply: ChatReply) -> str | None:
    """Name why a verifier's reply is of no use, or None."""
    return useless_reason(reply) or (None if _items(reply.text) else EMPTY)


def parse_verdicts(text: str, num_pairs: int) -> list[Verdict | None]:
    """Return a verdict for each pair; None where the reply has none that can be read."""
    verdicts: list[Verdict | None] = [None] * num_pairs
    for item in _items(text):
        number, score = item.get("number"), item.get("score")
        checks = [item.get(name) for name in CHECKS]
        if (
            isinstance(number, int)
            and 1 <= number <= num_pairs
            and isinstance(score, int | float)
            and 0 <= score <= 1
            and all(isinstance(check, bool) for check in checks)
        ):
            failed = tuple(n for n, check in zip(CHECKS, checks, strict=True) if not check)
            reason = str(item.get("reason") or "")[:300]
            verdicts[number - 1] = Verdict(failed=failed, score=float(score), reason=reason)
    return verdicts


def _items(text: str) -> list[dict[str, Any]]:
    start = text.find("{")
    try:
        value, _ = json.JSONDecoder().raw_decode(text, max(start, 0))
    except (ValueError, RecursionError):
        return []
    items = value.get("verdicts") if isinstance(value, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
