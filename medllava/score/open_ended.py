"""Open questions: how much of the reference is in the reply, and how much else?

Two strings enter, numbers between 0 and 1 leave (length is in words). Shared words are counted with
clipping, so that saying a word three times finds it once.
"""

from collections import Counter
from functools import lru_cache
from typing import Any

from medllava.score.normalize import words


def exact_match(reply: str, reference: str) -> float:
    """Return 1 if both consist of the same words in the same order."""
    return float(words(reply) == words(reference))


def token_recall(reply: str, reference: str) -> float:
    """Return the share of the reference's words that the reply has; 0 for an empty reply."""
    expected = words(reference)
    return _num_shared(reply, reference) / len(expected) if expected else 0.0


def token_f1(reply: str, reference: str) -> float:
    """Return the harmonic mean of word precision and word recall."""
    total = len(words(reply)) + len(words(reference))
    return 2 * _num_shared(reply, reference) / total if total else 0.0


def bleu(reply: str, reference: str) -> float:
    """Return sacrebleu's sentence BLEU, with effective order because answers are short."""
    said, expected = words(reply), words(reference)
    if not said or not expected:
        return 0.0
    score = _bleu_metric().sentence_score(" ".join(said), [" ".join(expected)]).score
    return float(score) / 100


def num_words(reply: str) -> float:
    """Return the length of a reply."""
    return float(len(words(reply)))


def repetition(reply: str) -> float:
    """Return the share of words that were said before in the same reply."""
    said = words(reply)
    return 1 - len(set(said)) / len(said) if said else 0.0


@lru_cache(maxsize=65536)
def _num_shared(reply: str, reference: str) -> int:
    return (Counter(words(reply)) & Counter(words(reference))).total()


@lru_cache(maxsize=1)
def _bleu_metric() -> Any:  # noqa: ANN401 - sacrebleu has no types
    import sacrebleu  # noqa: PLC0415 - costs 0.1 s, only for open questions

    return sacrebleu.BLEU(effective_order=True, tokenize="none")
