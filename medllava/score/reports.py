"""Reports: how many of the reference's words, in its order, does a written report have?

Two texts enter, numbers between 0 and 1 leave. They say how alike two texts are and little about
whether a finding is right: a fluent report about somebody else scores too, so its scores stand
beside them (`length_matched`), and `eval.score.clinical` reads the findings.

Source: Papineni et al. 2002 (BLEU, by sacrebleu); Lin 2004 (ROUGE-L, its F-measure).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?")


def report_tokens(text: str) -> list[str]:
    """Return the words of a report in small letters; numbers keep their decimals."""
    return _TOKEN.findall(text.lower())


def report_bleu(reply: str, reference: str) -> float:
    """Return sacrebleu's sentence BLEU-4 with its usual smoothing, over the words of a report."""
    said, expected = report_tokens(reply), report_tokens(reference)
    if not said or not expected:
        return 0.0
    score = _bleu_metric().sentence_score(" ".join(said), [" ".join(expected)]).score
    return float(score) / 100


def rouge_l(reply: str, reference: str) -> float:
    """Return ROUGE-L: the F-measure of the longest common subsequence of words."""
    said, expected = report_tokens(reply), report_tokens(reference)
    common = _longest_common(said, expected)
    return 2 * common / (len(said) + len(expected)) if common else 0.0


def length_matched(
    replies: Sequence[str], references: Sequence[str], images: Sequence[str]
) -> list[str]:
    """Return for each reply the reference of another image whose length is nearest to its own.

    Of several equally near ones it is the first behind its own place, so that one reference does
    not answer for all. A floor: what a report of this length scores that is about somebody else.

    Args:
        replies: of the model.
        references: of the same questions.
        images: the image of each question; a reference of the same image is never taken.
    """
    lengths = [len(report_tokens(reference)) for reference in references]
    found = []
    for row, reply in enumerate(replies):
        wanted, number = len(report_tokens(reply)), len(references)
        others = [
            i % number for i in range(row + 1, row + number) if images[i % number] != images[row]
        ]
        nearest = min(others, key=lambda i: abs(lengths[i] - wanted), default=None)
        found.append("" if nearest is None else references[nearest])
    return found


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence; bits of one number are a row of it."""
    places: dict[str, int] = {}
    for place, token in enumerate(second):
        places[token] = places.get(token, 0) | 1 << place
    everything = (1 << len(second)) - 1
    row = everything
    for token in first:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & everything
    return len(second) - row.bit_count()


@lru_cache(maxsize=1)
def _bleu_metric() -> Any:  # noqa: ANN401 - sacrebleu has no types
    import sacrebleu  # noqa: PLC0415 - costs 0.1 s, only for reports

    return sacrebleu.BLEU(effective_order=True, tokenize="none")
