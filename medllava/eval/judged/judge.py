"""A language model compares two answers: what it is asked, and what its replies say.

Questions and answers enter as requests for `llm.runner`; score pairs leave, however the judge wrote
them. Each pair of answers is shown in both orders, because judges favour a position.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medllava.eval.judged.chat_questions import ChatQuestion
from medllava.llm.protocol import ChatRequest, Message
from medllava.score.final_answer import without_reasoning

PROMPT_VERSION = 1
LOWEST, HIGHEST = 0.0, 10.0

_MAX_NEW_TOKENS = 1024
_INSTRUCTIONS = """\
You grade answers to questions about a biomedical figure. You cannot see the figure; take its \
caption and the passages that mention it as the truth about it. Grade each of the two answers \
for helpfulness, relevance, accuracy and level of detail, then give it one overall grade from 1 \
(useless or wrong) to 10 (as good as an answer can be). What the caption and passages contradict \
is wrong, however well it is put. Neither the order of the answers nor their length deserves \
anything.

Begin your reply with one line that holds exactly two numbers with a space between them: the \
overall grade of answer 1, then that of answer 2. Explain the grades after that line."""
_REMINDER = "Your reply must begin with a line of exactly two numbers, such as: 6 8"
_LABEL = r"(?:assistant|answer|response|model|score|grade|rating)s?"
_NUMBERED = re.compile(rf"{_LABEL}\s*(?:of\s+|for\s+)?(?:{_LABEL}\s*)?[#(]?([12AB])\b\)?", re.I)
_OUT_OF = re.compile(r"(\d)\s*(?:/\s*10\b|\bout of (?:10|ten)\b)(?:\.0+)?", re.I)
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w])")
_LABELLED = re.compile(
    rf"{_LABEL}\s*[#(]?([12AB])\)?[^\d\n]{{0,40}}?(\d+(?:\.\d+)?)(?![\w.]*\d)", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One time that two answers are compared."""

    question_id: str
    candidate_first: bool
    repeat: int
    attempt: int = 0

    @property
    def request_id(self) -> str:
        """Name it in the ledger."""
        order = "candidate-reference" if self.candidate_first else "reference-candidate"
        return f"judge {self.question_id} {order} {self.repeat} {self.attempt}"


def plan_trials(questions: Sequence[ChatQuestion], *, repeats: int) -> Iterator[Trial]:
    """Yield every comparison: each question in both orders, `repeats` times."""
    for question in questions:
        for repeat in range(repeats):
            for candidate_first in (False, True):
                yield Trial(question_id=question.id, candidate_first=candidate_first, repeat=repeat)


def build_request(
    trial: Trial, question: ChatQuestion, answer: str, *, temperature: float
) -> ChatRequest:
    """Return what the judge is asked.

    Args:
        trial: order and repeat.
        question: with the reference answer.
        answer: of the candidate.
        temperature: of the judge.
    """
    answers = (question.reference, answer)
    first, second = reversed(answers) if trial.candidate_first else answers
    parts = {
        "Caption": f"{question.label} {question.caption}".strip() or "(none)",
        "Passages": "\n".join(f"- {mention}" for mention in question.mentions) or "(none)",
        "Question": question.text,
        "Answer 1": first or "(empty)",
        "Answer 2": second or "(empty)",
    }
    text = "\n\n".join(f"[{name}]\n{content}" for name, content in parts.items())
    if trial.attempt:
        text += f"\n\n{_REMINDER}"
    return ChatRequest(
        request_id=trial.request_id,
        messages=(
            Message(role="system", content=_INSTRUCTIONS),
            Message(role="user", content=text),
        ),
        max_new_tokens=_MAX_NEW_TOKENS,
        temperature=temperature,
        seed=trial.repeat,
    )


def parse_scores(reply: str) -> tuple[float, float] | None:
    """Return the two grades that a reply gives, or None where it does not say exactly two.

    The first line with words is read first: "8 9", "8, 9", "8/10 and 9/10", "Answer 1: 8, answer
    2: 9" all say the same. Else a JSON object with two numbers, else the grades that are labelled
    with the number of their answer. Reasoning is taken off before.
    """
    reply = without_reasoning(reply)
    lines = [line for line in reply.splitlines() if re.search(r"\w", line)]
    for line in lines[:1]:
        if "".join(_NUMBERED.findall(line)).upper() not in {"", "12", "AB"}:
            break  # labelled in another order, or more than once
        found = _numbers(_NUMBERED.sub(" ", _OUT_OF.sub(r"\1", line)))
        if len(found) == 2:
            return _valid(found[0], found[1])
    return _json_scores(reply) or _labelled_scores(reply)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]


def _valid(first: float, second: float) -> tuple[float, float] | None:
    is_valid = all(LOWEST <= value <= HIGHEST for value in (first, second))
    return (first, second) if is_valid else None


def _json_scores(reply: str) -> tuple[float, float] | None:
    start, end = reply.find("{"), reply.rfind("}")
    try:
        values = json.loads(reply[start : end + 1])
    except ValueError:
        return None
    found = [
        float(value)
        for value in (values.values() if isinstance(values, Mapping) else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return _valid(*found) if len(found) == 2 else None


def _labelled_scores(reply: str) -> tuple[float, float] | None:
    found: dict[str, set[float]] = {"1": set(), "2": set()}
    for label, number in _LABELLED.findall(reply):
        found[{"a": "1", "b": "2"}.get(label.lower(), label)].add(float(number))
    if any(len(grades) != 1 for grades in found.values()):
        return None
    return _valid(found["1"].pop(), found["2"].pop())
