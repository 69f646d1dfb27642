"""Statistics of conversations, gathered record by record in memory that stays small.

`output` feeds it every record; `report` draws it. Question openings and verb-object pairs follow
the picture that LLaVA-Med's paper draws of its data; theirs came from a parser, ours from a list of
verbs and the words after them, which is enough to see whether questions vary.
"""

import heapq
import re
from collections import Counter
from dataclasses import dataclass, field

from medllava.instruct.alignment import draw
from medllava.records import IMAGE_TOKEN, InstructionRecord

NUM_SAMPLES = 20
_MOST_KEYS = 20_000
_WORD = re.compile(r"[a-z][a-z'-]*")
_VERBS = {
    form: verb
    for verb, forms in {
        "describe": "describe describes described",
        "explain": "explain explains explained",
        "show": "show shows shown showing",
        "see": "see sees seen",
        "identify": "identify identified identifies",
        "compare": "compare compares compared",
        "indicate": "indicate indicates indicated indicating",
        "locate": "locate locates located",
        "use": "use uses used",
        "point": "point points pointing",
        "name": "name names named",
        "give": "give gives given",
        "provide": "provide provides provided",
        "tell": "tell tells told",
        "summarise": "summarise summarize summarises summarizes",
        "characterise": "characterise characterize",
        "depict": "depict depicts depicted",
        "represent": "represent represents represented",
        "reveal": "reveal reveals revealed",
        "contain": "contain contains contained",
        "have": "have has",
        "appear": "appear appears",
        "look": "look looks looking",
        "affect": "affect affects affected",
        "suggest": "suggest suggests suggested",
        "mark": "mark marks marked",
        "surround": "surround surrounds surrounded surrounding",
        "differ": "differ differs",
        "count": "count counts",
        "find": "find finds found",
        "notice": "notice noticed",
        "observe": "observe observed observes",
        "take": "take taken takes",
        "visualise": "visualise visualize visualised visualized",
        "report": "report reports reported",
        "write": "write writes written",
        "present": "present presents presented",
    }.items()
    for form in forms.split()
}
_SKIPPED = frozenset(
    ("a", "an", "the", "this", "that", "these", "those", "any", "some", "its", "their", "each")
)
_STOPS = frozenset(
    (
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "with",
        "by",
        "from",
        "and",
        "or",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "can",
        "could",
        "you",
        "we",
        "i",
        "it",
        "as",
        "than",
        "here",
        "there",
        "what",
        "which",
        "where",
        "how",
        "why",
        "when",
        "who",
        "not",
        "within",
        "inside",
        "between",
    )
)


@dataclass(slots=True)
class CaptionStatistics:
    """Counts over the records seen so far."""

    records: int = 0
    modalities: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    pairs: Counter[int] = field(default_factory=Counter)
    """Records by number of question-answer pairs."""
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)
    verb_objects: Counter[str] = field(default_factory=Counter)
    seed: int = 0
    _samples: list[tuple[int, str, InstructionRecord]] = field(default_factory=list)

    def add(self, record: InstructionRecord) -> None:
        """Count one record."""
        self.records += 1
        self.modalities[record.modality.value if record.modality else "unknown"] += 1
        self.licenses[record.license or "unknown"] += 1
        num_pairs = 0
        for turn in record.turns:
            if turn.role == "assistant":
                num_pairs += 1
                self.answer_words[_bin(turn.content.count(" ") + 1)] += 1
            elif turn.role == "user":
                self._add_question(turn.content.replace(IMAGE_TOKEN, "").strip())
        self.pairs[num_pairs] += 1
        # The records with the largest draws are a sample that no order of figures changes.
        entry = (draw(self.seed, record.record_id), record.record_id, record)
        if len(self._samples) < NUM_SAMPLES:
            heapq.heappush(self._samples, entry)
        elif entry[:2] > self._samples[0][:2]:
            heapq.heapreplace(self._samples, entry)

    def samples(self) -> list[InstructionRecord]:
        """Return up to twenty records, drawn evenly."""
        return [record for _, _, record in sorted(self._samples, key=lambda entry: entry[:2])]

    def _add_question(self, question: str) -> None:
        words = _WORD.findall(question.lower())
        self.question_words[_bin(question.count(" ") + 1)] += 1
        _count(self.openings, " ".join(words[:2]))
        if pair := find_verb_object(words):
            _count(self.verb_objects, " ".join(pair))


def find_verb_object(words: list[str]) -> tuple[str, str] | None:
    """Return the first known verb of a question and the head of the words after it, or None.

    >>> find_verb_object("describe the large pleural effusion on the left".split())
    ('describe', 'effusion')
    """
    for i, word in enumerate(words):
        verb = _VERBS.get(word)
        if verb is None:
            continue
        chunk: list[str] = []
        for after in words[i + 1 :]:
            if after in _SKIPPED and not chunk:
                continue
            if after in _STOPS or after in _SKIPPED or after in _VERBS:
                break
            chunk.append(after)
        if chunk:
            return verb, chunk[-1]
    return None


def _count(counter: Counter[str], key: str) -> None:
    if key in counter or len(counter) < _MOST_KEYS:
        counter[key] += 1


def _bin(words: int) -> int:
    """Return the lower end of the word count's class: 1, 5, 10, 15 ... 50, then by 50."""
    if words < 5:
        return 1
    step = 5 if words < 50 else 50
    return words // step * step
