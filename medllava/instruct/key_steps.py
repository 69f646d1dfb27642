"""Stage 5's rewards by step: a teacher writes what a sound line of reasoning passes through.

Questions with their answers go in, the same questions with `key_steps` come out. A step is a thing
to name on the way to the answer, in the few wordings it may have. Wordings that the question says
already, or that are the answer, are taken out: naming them shows no reasoning. A question for which
nothing is left stays as it was, and `rejected.jsonl` says why.

Source: R1-VL, Zhang et al. 2025 (arXiv 2503.12937), for key steps in several wordings that a
language model extracts; the words of the request and the checks are ours.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.questions import QuestionSet, load_asked
from medllava.data.benchmarks.task import task_names
from medllava.errors import DataError
from medllava.images.encode import image_address
from medllava.images.load import load_image
from medllava.instruct.config import TEMPLATE_TEACHER, GenerateConfig
from medllava.instruct.output import InstructionsWriter
from medllava.instruct.teacher import LEDGER, Teacher
from medllava.llm.ledger import Ledger
from medllava.llm.protocol import ChatRequest, Message
from medllava.llm.replies import useless_reason
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.own import Choice, read_choice
from medllava.progress import Progress
from medllava.records import Question, StepSummary
from medllava.score.normalize import contains, words
from medllava.store import contained_path

KEY_STEPS_VERSION = "key-steps-1"
NO_STEPS, NO_IMAGE = "no_usable_steps", "image_missing"
_MOST_STEPS, _MOST_WORDINGS, _MOST_WORDS = 6, 6, 8
_MOST_TOKENS = 512
_RULES = """\
You prepare questions about biomedical images so that somebody's reasoning can be followed.
You are given a question{and_picture} and its correct answer. List what a careful reader has to
notice or conclude on the way to that answer, in order: findings, places, properties, comparisons.
Two to five steps, each a short noun phrase of one to five words. For each step give the wordings by
which a specialist may name it, the commonest first. Leave out what the question says already, and
leave out the answer itself. Do not add what the answer does not rest on.
Answer with JSON only: {{"key_steps": [["wording", "another wording"], ["wording"]]}}"""
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["key_steps"],
    "properties": {
        "key_steps": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    },
}


def load_to_be_stepped(config: GenerateConfig) -> tuple[QuestionSet, Choice]:
    """Read the questions, and what was decided about their privacy.

    Raises:
        DataError: they cannot be read, no model is named, or they are somebody's own and nothing
            says that the privacy gate looked at them.
    """
    if config.teacher == TEMPLATE_TEACHER:
        raise DataError("--stage reinforce needs a model: name it with --teacher.")
    if config.formats or config.llava_json:
        raise DataError("questions are written in one layout. Leave --format and --llava-json out.")
    asked = load_asked(str(config.figures), image_dir=config.image_dir)
    if config.limit is not None:
        asked = replace(asked, questions=asked.questions[: config.limit])
    choice = read_choice(asked.file.parent)
    if choice is not None:
        return asked, choice
    is_published = str(config.figures) in task_names()
    if not is_published and config.privacy is not PrivacyMode.OFF:
        raise DataError(
            f"nothing says that the privacy gate looked at these: {config.figures}. Make them "
            "with generate-instructions, or add --privacy off."
        )
    return asked, Choice(mode=PrivacyMode.OFF, is_own=not is_published)


def estimate_key_steps(config: GenerateConfig) -> StepSummary:
    """Count what a teacher would be asked; ask nothing, write nothing."""
    asked, _ = load_to_be_stepped(config)
    count = len(asked.questions)
    return StepSummary(
        step="generate-instructions",
        counts={"questions": count, "requests": count},
        details={"dry_run": True},
    )


def write_key_steps(
    config: GenerateConfig, asked: QuestionSet, writer: InstructionsWriter, progress: Progress
) -> dict[str, Any]:
    """Write every question, with its steps where the teacher named any; return what asking took.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: it does not answer any more; run again to go on.
    """
    from medllava.instruct.conversations import describe_usage  # noqa: PLC0415 - imports all rules

    teacher = Teacher(config)
    waiting: deque[Question] = deque()
    root = asked.image_dir or asked.file.parent

    def requests() -> Iterator[ChatRequest]:
        for question in asked.questions:
            request = _build_request(config, question, root)
            if request is None:
                writer.reject(question.id, NO_IMAGE, image=question.image)
                writer.write_stepped(question)
                progress.advance()
                continue
            waiting.append(question)
            yield request

    progress.start("finding key steps", total=len(asked.questions))
    with Ledger(config.output_dir / LEDGER) as ledger:
        outcomes = teacher.ask(requests(), ledger=ledger, progress=progress, useless=useless_reason)
        for outcome in outcomes:
            question = waiting.popleft()
            steps: tuple[tuple[str, ...], ...] = ()
            if outcome.reply is None:
                leave = writer.reject if outcome.is_final else writer.leave
                leave(question.id, outcome.reason, detail=outcome.detail)
            else:
                steps = usable_steps(question, read_steps(outcome.reply.text))
                if not steps:
                    writer.reject(question.id, NO_STEPS, raw=outcome.reply.text)
            writer.write_stepped(replace(question, key_steps=steps or question.key_steps))
        return {"model": teacher.model.name, **describe_usage(ledger, teacher.price)}


def read_steps(text: str) -> list[list[str]]:
    """Return the steps of a reply as it names them; none where it is not the JSON asked for."""
    start, end = text.find("{"), text.rfind("}")
    try:
        values = json.loads(text[start : end + 1])["key_steps"]
    except (ValueError, KeyError, TypeError):
        return []
    if not isinstance(values, list):
        return []
    listed = [[value] if isinstance(value, str) else value for value in values]
    return [
        [wording for wording in step if isinstance(wording, str)]
        for step in listed
        if isinstance(step, list)
    ]


def usable_steps(question: Question, steps: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the steps that show reasoning: neither said by the question nor its answer."""
    asked = words(" ".join([question.question, *question.choices]))
    answers = {words(text) for text in (question.answer, *question.answers)}
    taken: set[tuple[str, ...]] = set()
    usable: list[tuple[str, ...]] = []
    for step in steps:
        wordings = []
        for wording in step:
            said = words(wording)
            if not said or len(said) > _MOST_WORDS or said in answers or said in taken:
                continue
            if not contains(asked, said):
                taken.add(said)
                wordings.append(" ".join(wording.split()))
        if wordings:
            usable.append(tuple(wordings[:_MOST_WORDINGS]))
    return tuple(usable[:_MOST_STEPS])


def _build_request(config: GenerateConfig, question: Question, root: Path) -> ChatRequest | None:
    """Return what the teacher is asked; None where it is to see pictures that are not there."""
    pictures: tuple[str, ...] = ()
    if config.see_image:
        try:
            shown = [load_image(contained_path(root, image)) for image in question.images]
        except DataError:
            return None
        pictures = tuple(image_address(picture) for picture in shown)
    facts: dict[str, Any] = {"question": question.question, "correct answer": question.answer}
    if question.choices:
        facts["options"] = list(question.choices)
    rules = _RULES.format(and_picture=", its picture" if pictures else "")
    return ChatRequest(
        request_id=f"steps {question.id}",
        messages=(
            Message(role="system", content=rules),
            Message(role="user", content=json.dumps(facts, ensure_ascii=False), images=pictures),
        ),
        max_new_tokens=_MOST_TOKENS,
        temperature=config.temperature,
        seed=config.seed,
        response_schema=_SCHEMA,
    )
