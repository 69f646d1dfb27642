"""How sure is the model of a closed answer? Read off the first token's probabilities.

A question with lettered choices has its letters for answers, one that begins with a verb such as
"is" has yes and no. The number is the probability that the answer *begins* with the choice: a model
that answers in sentences begins with neither, and both are near zero.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LETTERED = re.compile(r"^\s*\(?([A-H])[.):]\s+\S", re.MULTILINE)
_YES_NO = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might)\b",
    re.IGNORECASE,
)


def find_choices(question: str) -> tuple[str, ...]:
    """Return the answers that a closed question allows; none for an open one."""
    letters = tuple(dict.fromkeys(_LETTERED.findall(question)))
    if len(letters) > 1 and letters == tuple("ABCDEFGH"[: len(letters)]):
        return letters
    last = question.strip().splitlines()[-1] if question.strip() else ""
    sentence = re.split(r"(?<=[.!?:])\s+", last)[-1]
    return ("yes", "no") if _YES_NO.match(sentence) and sentence.endswith("?") else ()


def choice_probabilities(
    logits: Tensor,
    choices: Sequence[str],
    tokenizer: Any,  # noqa: ANN401 - any tokenizer
) -> dict[str, float]:
    """Return each choice's probability by the logits (V,) of an answer's first token.

    All ways to begin with the choice count: with or without a space, upper or lower case. A token
    that two choices share is counted for neither.
    """
    starts = {choice: _first_ids(choice, tokenizer) for choice in choices}
    if not starts:
        return {}
    probabilities = torch.softmax(logits, -1)
    found = {}
    for choice, ids in starts.items():
        others = set().union(*(other for name, other in starts.items() if name != choice))
        own = sorted(ids - others)
        found[choice] = round(float(probabilities[own].sum()), 6) if own else 0.0
    return found


def _first_ids(choice: str, tokenizer: Any) -> set[int]:  # noqa: ANN401 - any tokenizer
    ids = set()
    for word in {choice, choice.lower(), choice.upper(), choice.capitalize()}:
        for text in (word, f" {word}"):
            encoded = tokenizer(text, add_special_tokens=False)["input_ids"]
            first = [i for i in encoded if tokenizer.decode([i]).strip()]
            if first and word.startswith(tokenizer.decode([first[0]]).strip()):
                ids.add(int(first[0]))
    return ids
