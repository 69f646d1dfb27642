"""Which of the stated answers does a model find likeliest as the first word of its reply?

Logits of the next token and the options enter, an option leaves. It needs no words of the model, so
a model that was never taught to answer with a letter is measured by what it knows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medllava.errors import SetupError


def option_tokens(tokenizer: Any, options: Sequence[str]) -> list[list[int]]:  # noqa: ANN401 - any tokenizer
    """Return the tokens with which each option may begin, in its spellings.

    Tokens that several options begin with, such as a blank, tell nothing and are left out.

    Raises:
        SetupError: an option has no token of its own.
    """
    found: list[set[int]] = []
    for option in options:
        spellings = {option, option.capitalize(), f" {option}", f" {option.capitalize()}"}
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in sorted(spellings)]
        found.append({first[0] for first in ids if first})
    own = [
        sorted(ids - set().union(*(other for other in found if other is not ids))) for ids in found
    ]
    for option, ids in zip(options, own, strict=True):
        if not ids:
            raise SetupError(
                f"this tokenizer has no token that begins {option!r} alone, so options cannot be "
                "told apart by likelihood. Leave --choice-by out."
            )
    return own


def likeliest(logits: Tensor, options: Sequence[str], tokens: Sequence[Sequence[int]]) -> str:
    """Return the option whose tokens have the greatest share together.

    Args:
        logits: (V,) of the first token of the reply.
        options: to choose from.
        tokens: of each, from `option_tokens`.
    """
    scores = [torch.logsumexp(logits[list(ids)].float(), dim=0).item() for ids in tokens]
    return options[max(range(len(options)), key=scores.__getitem__)]


def choose(tokenizer: Any, logits: Tensor, options: Sequence[Sequence[str]]) -> list[str]:  # noqa: ANN401 - any tokenizer
    """Return the likeliest option of each row.

    Args:
        tokenizer: of the model.
        logits: (B, V) of the first token of each reply.
        options: of each row.

    Raises:
        SetupError: as `option_tokens`.
    """
    return [
        likeliest(row, own, option_tokens(tokenizer, own))
        for row, own in zip(logits, options, strict=True)
    ]
