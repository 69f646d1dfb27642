"""LLaVA-Med's own scores, every quirk of its released scripts included, beside ours.

The paper's "closed accuracy" finds "no" inside "normal", its "open" is a recall that repeating a
word raises, and its "exact match" is a precision. Numbers under these rules are for comparing with
its published rows and for nothing else. A question and a reply enter, one number leaves; NaN means
that the script leaves the question out of its denominator.

Source: LLaVA-Med v1.0.0, `run_eval.py` before and after its fix #35, and `run_eval_batch.py`.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medllava.eval.score.llava_med_words import CONTRACTIONS
from medllava.records import AnswerType

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_MAX_STOPS = 32
"""A regex flag is passed where the count belongs, so that later full stops survive."""
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_MAX_ORDER = 4


@lru_cache(maxsize=65536)
def normalize(text: str) -> str:
    """Return `text` as the reference compares it.

    A punctuation mark is deleted everywhere if it touches a space anywhere or if the text holds
    digit-comma-digit anywhere; otherwise it becomes a space everywhere.
    """
    text = text.lower()
    has_grouped_digits = _DIGIT_COMMA_DIGIT.search(text) is not None
    spaced = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        spaced = spaced.replace(mark, "" if touches_space or has_grouped_digits else " ")
    said = [_NUMBERS.get(word, word) for word in _STOP.sub("", spaced, _MAX_STOPS).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in said if word not in _ARTICLES)


@lru_cache(maxsize=65536)
def _counts(text: str) -> Counter[str]:
    """Return the words of a text; the scripts normalize what was normalized once more."""
    return Counter(normalize(normalize(text)).split())


def token_scores(reply: str, reference: str) -> tuple[float, float, float]:
    """Return (F1, precision, recall); a shared word counts as often as the reply says it."""
    said, expected = _counts(reply), _counts(reference)
    hits = sum(count for word, count in said.items() if word in expected)
    if not hits:
        return 0.0, 0.0, 0.0
    precision = hits / said.total()
    missed = sum(count for word, count in expected.items() if word not in said)
    recall = hits / (hits + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


def exact_match(reply: str, reference: str) -> float:
    """Return different reference words found over words said: a precision, whatever its name."""
    said = _counts(reply)
    return sum(word in said for word in _counts(reference)) / said.total() if said else 0.0


def bleu(reply: str, reference: str, *, order: int | None = None) -> float:
    """Return unsmoothed sentence BLEU-4, or the precision of one n-gram order times its penalty.

    Where an order has no match, the reference's library returns about 1e-77; here it is 0.
    """
    said, expected = normalize(reply).split(), normalize(reference).split()
    precisions = [_ngram_precision(said, expected, n) for n in range(1, _MAX_ORDER + 1)]
    if not precisions[0]:
        return 0.0
    penalty = 1.0 if len(said) > len(expected) else math.exp(1 - len(expected) / len(said))
    if order is not None:
        return penalty * precisions[order - 1]
    return penalty * math.prod(precisions) ** (1 / _MAX_ORDER)


def is_inside(reply: str, reference: str) -> float:
    """Tell whether the reference is a part of the reply, letters within words included."""
    return float(normalize(reference) in normalize(reply))


def closed_gated(reply: str, reference: str) -> float:
    """Return `run_eval.py`'s closed hit after its fix: 0 unless "yes" or "no" is somewhere."""
    said = normalize(reply)
    return float(("yes" in said or "no" in said) and normalize(reference) in said)


def closed_before_fix(reply: str, reference: str) -> float:
    """Return the same before the fix: a wrong reply with "yes" or "no" in it is not counted."""
    said = normalize(reply)
    if "yes" in said or "no" in said:
        return 1.0 if normalize(reference) in said else math.nan
    return 0.0


class CandidateMatcher:
    """`run_eval.py`'s open accuracy: is the most similar training answer the reference?"""

    def __init__(self, candidates: Sequence[str]) -> None:
        """Index the candidates, in the order in which ties are decided.

        Args:
            candidates: open answers of the training split; at least one.
        """
        self._texts = [normalize(answer) for answer in candidates]
        words = [set(text.split()) for text in self._texts]
        self._sizes = [len(found) for found in words]
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        for place, found in enumerate(words):
            for word in found:
                self._places[word].append(place)

    def hit(self, reply: str, reference: str) -> float:
        """Return 1 if the candidate with the largest share of its words said is the reference.

        Without any shared word the first candidate is taken, so that nonsense can score.
        """
        shared = Counter(place for word in _counts(reply) for place in self._places.get(word, ()))
        best = max(
            shared, key=lambda place: (shared[place] / self._sizes[place], -place), default=0
        )
        return float(self._texts[best] == normalize(normalize(reference)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyMetric:
    """One number of one script."""

    script: str
    name: str
    """As the paper or the script calls it, whatever it is."""
    answer_type: AnswerType
    score: Callable[[str, str], float]


def legacy_metrics(candidates: Sequence[str]) -> tuple[LegacyMetric, ...]:
    """Return every number of the scripts; one of them only where there are candidates."""
    open_, closed = AnswerType.OPEN, AnswerType.CLOSED
    metrics = [
        LegacyMetric(script=script, name=name, answer_type=open_, score=score)
        for script in (RUN_EVAL, RUN_EVAL_BATCH)
        for name, score in _OPEN_SCORES.items()
    ]
    if candidates:
        hit = CandidateMatcher(candidates).hit
        metrics.append(
            LegacyMetric(script=RUN_EVAL, name="open_accuracy", answer_type=open_, score=hit)
        )
    for script, name, kind, score in (
        (RUN_EVAL, "closed_accuracy", closed, closed_gated),
        (RUN_EVAL_BEFORE_FIX, "closed_accuracy", closed, closed_before_fix),
        (RUN_EVAL_BATCH, "open_accuracy", open_, is_inside),
        (RUN_EVAL_BATCH, "closed_accuracy", closed, is_inside),
        (RUN_EVAL_BATCH, "recall_closed", closed, _recall),
    ):
        metrics.append(LegacyMetric(script=script, name=name, answer_type=kind, score=score))
    return tuple(metrics)


def _recall(reply: str, reference: str) -> float:
    return token_scores(reply, reference)[2]


def _ngram_precision(said: Sequence[str], expected: Sequence[str], order: int) -> float:
    """Return clipped n-gram matches over n-grams said."""
    ngrams = Counter(tuple(said[i : i + order]) for i in range(len(said) - order + 1))
    known = Counter(tuple(expected[i : i + order]) for i in range(len(expected) - order + 1))
    return (ngrams & known).total() / ngrams.total() if ngrams else 0.0


RUN_EVAL = "run_eval"
RUN_EVAL_BEFORE_FIX = "run_eval_before_fix_35"
RUN_EVAL_BATCH = "run_eval_batch"

_OPEN_SCORES: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": lambda reply, reference: token_scores(reply, reference)[0],
    "precision": lambda reply, reference: token_scores(reply, reference)[1],
    "recall": _recall,
    "bleu_score": bleu,
    "bleu_score_1": lambda reply, reference: bleu(reply, reference, order=1),
    "bleu_score_2": lambda reply, reference: bleu(reply, reference, order=2),
    "bleu_score_3": lambda reply, reference: bleu(reply, reference, order=3),
}
