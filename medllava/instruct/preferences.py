"""Stage 4's data: true answers beside worse ones, made by rule, by a model, or by a teacher.

Figures or instructions go in, `preferences.jsonl` comes out. The better answer is one that the data
have already; the worse one is planted by rule (`planted`), is what a model says about a noisy or an
exchanged picture, or is the better one into which a teacher writes a plausible error. Pairs of
unequal length and pairs that say the same are left out by name.

Source: POVID, Zhou et al. 2024 (arXiv 2402.11411), for noise and for planted errors; the rules, the
words of the requests and the checks are ours.
"""

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medllava.data.dropped import Dropped
from medllava.data.other_pictures import OtherPictures
from medllava.data.sources import image_root, read_instructions
from medllava.errors import DataError
from medllava.images.encode import image_address
from medllava.images.load import load_image
from medllava.images.noise import add_diffusion_noise
from medllava.instruct.alignment import align_figure
from medllava.instruct.config import (
    TEMPLATE_TEACHER,
    GenerateConfig,
    ImagePosition,
    Rejection,
)
from medllava.instruct.facts import named_values
from medllava.instruct.figures import figures_image_dir, iter_round_robin, manifest_path
from medllava.instruct.output import InstructionsWriter
from medllava.instruct.planted import (
    Frequencies,
    is_length_matched,
    plant_error,
    same_substance,
)
from medllava.instruct.teacher import LEDGER, Teacher
from medllava.instruct.template import TemplateTeacher, count_answers
from medllava.instruct.vocabulary import TOPICS
from medllava.layout import INSTRUCTIONS_FILE
from medllava.llm.ledger import Ledger
from medllava.llm.protocol import ChatReply, ChatRequest, Message
from medllava.llm.replies import useless_reason
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.own import Choice, is_own_record, read_choice
from medllava.progress import Progress
from medllava.records import (
    IMAGE_TOKEN,
    AnswerType,
    FigureRecord,
    InstructionRecord,
    PreferenceRecord,
    Question,
    StepSummary,
    Turn,
)
from medllava.store import contained_path

RejectReason = Callable[[FigureRecord], str | None]
PREFERENCE_VERSION = "prefer-1"
SAME, UNEQUAL, NO_RULE = "same_substance", "unequal_length", "no_rule_applies"
NO_OTHER, NO_IMAGE = "no_other_picture", "image_missing"
_NOISE_STEP = 500
"""Of 1,000 steps of diffusion. Source: POVID."""
_ROOM = 3
"""Tokens a model may take per word of the better answer."""
_RULES = """\
You help to teach an assistant that looks at biomedical images not to say what is not there.
You are given a question about an image and a correct answer. Rewrite the answer so that it is wrong
in exactly one way that somebody could believe without looking: another side or place, an organ or
finding that is not there, a finding denied, another modality or stain, another number. Keep the
style and the length, and keep everything else. Never hint that something was changed.
Answer with JSON only: {"answer": "...", "kind": "side|organ|finding|negation|modality|number"}"""
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["answer", "kind"],
    "properties": {"answer": {"type": "string"}, "kind": {"type": "string"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prompt with its good answer."""

    record_id: str
    source: InstructionRecord
    turns: tuple[Turn, ...]
    """Up to the user turn."""
    chosen: str

    @property
    def question(self) -> str:
        """The words of the last user turn."""
        return self.turns[-1].content.replace(IMAGE_TOKEN, "").strip()


def write_preferences(
    config: GenerateConfig,
    writer: InstructionsWriter,
    progress: Progress,
    reject_reason: RejectReason,
) -> dict[str, Any]:
    """Write a pair for each answer that a worse one is found for; return what asking took.

    Raises:
        DataError: the data cannot be read, or a model is needed and none is named.
        AccessError: the service will not answer any request.
        RemoteError: it does not answer any more; run again to go on.
    """
    candidates = list(iter_candidates(config, reject_reason))
    if not candidates:
        raise DataError(f"no answers to make pairs of: {config.figures}. Check it and --split.")
    progress.start("pairing", total=len(candidates) * len(config.rejected))
    usage: dict[str, Any] = {}
    for way in config.rejected:
        if way is Rejection.RULE:
            _write_by_rule(config, candidates, writer, progress)
        else:
            usage[way.value] = _write_by_model(config, way, candidates, writer, progress)
    return usage


def check_ways(config: GenerateConfig) -> None:
    """Refuse what does not go together, before anything is read.

    Raises:
        DataError: a model is needed and none is named, or another trainer's layout is asked for.
    """
    asks = [way.value for way in config.rejected if way is not Rejection.RULE]
    if asks and config.teacher == TEMPLATE_TEACHER:
        raise DataError(
            f"--rejected {asks[0]} needs a model: name it with --teacher, such as "
            "local:CHECKPOINT for the model that is to be trained."
        )
    if config.formats or config.llava_json:
        raise DataError("pairs are written in one layout. Leave --format and --llava-json out.")


def inherited_choice(config: GenerateConfig) -> Choice:
    """Return what was decided about the privacy of instructions when they were made.

    Raises:
        DataError: they are of somebody's own data, and nothing says that they were looked at.
    """
    folder = config.figures if config.figures.is_dir() else config.figures.parent
    choice = read_choice(folder)
    if choice is not None:
        return choice
    records = read_instructions(config.figures)
    is_own = any(not isinstance(r, Dropped) and is_own_record(r) for r in records)
    if is_own and config.privacy is not PrivacyMode.OFF:
        raise DataError(
            f"nothing says that the privacy gate looked at these: {config.figures}. Make them "
            "with generate-instructions, or add --privacy off."
        )
    return Choice(mode=PrivacyMode.OFF, is_own=is_own)


def estimate_preferences(config: GenerateConfig, reject_reason: RejectReason) -> StepSummary:
    """Count what a model would be asked; ask nothing, write nothing."""
    candidates = sum(1 for _ in iter_candidates(config, reject_reason))
    asked = [way for way in config.rejected if way is not Rejection.RULE]
    return StepSummary(
        step="generate-instructions",
        counts={"answers": candidates, "requests": candidates * len(asked)},
        details={"dry_run": True},
    )


def preferences_image_dir(config: GenerateConfig) -> Path:
    """Return the folder that the pairs' images are relative to."""
    if is_instructions(config.figures):
        return image_root(config.figures, config.image_dir)
    return figures_image_dir(config.figures)


def is_instructions(path: Path) -> bool:
    """Tell a folder or file of instructions from figures."""
    return (path / INSTRUCTIONS_FILE).is_file() or path.name == INSTRUCTIONS_FILE


def iter_candidates(config: GenerateConfig, reject_reason: RejectReason) -> Iterator[Candidate]:
    """Yield every answer of the instructions, or of what the figures' own words give."""
    records = (
        (r for r in read_instructions(config.figures) if not isinstance(r, Dropped))
        if is_instructions(config.figures)
        else _from_figures(config, reject_reason)
    )
    number = 0
    for record in records:
        if config.split is not None and record.split is not config.split:
            continue
        for place, turn in enumerate(record.turns):
            if turn.role != "assistant":
                continue
            if config.limit is not None and number >= config.limit:
                return
            number += 1
            yield Candidate(
                record_id=f"{record.record_id}@{place // 2 + 1}",
                source=record,
                turns=record.turns[:place],
                chosen=turn.content.strip(),
            )


def _from_figures(
    config: GenerateConfig, reject_reason: RejectReason
) -> Iterator[InstructionRecord]:
    """Yield the template teacher's questions and the captions of the figures as conversations."""
    manifest = manifest_path(config.figures)

    def figures() -> Iterator[FigureRecord]:
        stream = iter_round_robin(manifest, split=config.split, limit=config.limit)
        return (figure for figure in stream if reject_reason(figure) is None)

    teacher = TemplateTeacher(
        count_answers(figures()), closed_share=config.closed_share, seed=config.seed
    )
    position = (config.image_position or ImagePosition.BEFORE).value
    for figure in figures():
        exchanges = teacher.ask(figure, num_questions=config.questions_per_figure)
        for number, exchange in enumerate(exchanges, start=1):
            aligned = align_figure(figure, seed=config.seed, image_position=position)
            yield replace(
                aligned,
                record_id=f"{figure.figure_id}#{number}",
                turns=(
                    Turn(role="user", content=f"{IMAGE_TOKEN}\n{exchange.question}"),
                    Turn(role="assistant", content=exchange.answer),
                ),
                teacher="template",
            )
        yield align_figure(figure, seed=config.seed, image_position=position)


def _write_by_rule(
    config: GenerateConfig,
    candidates: list[Candidate],
    writer: InstructionsWriter,
    progress: Progress,
) -> None:
    frequencies = _frequencies(candidates)
    for candidate in candidates:
        progress.advance()
        rng = random.Random(f"{config.seed}:{candidate.record_id}")
        planted = plant_error(candidate.chosen, rng, frequencies)
        if planted is None:
            writer.reject(candidate.record_id, NO_RULE, chosen=candidate.chosen)
        else:
            writer.write_preference(
                build_pair(candidate, planted.text, f"{Rejection.RULE.value}:{planted.kind}")
            )


def _frequencies(candidates: list[Candidate]) -> Frequencies:
    """Count the values of each topic over all good answers."""
    counts: Frequencies = {topic.name: Counter() for topic in TOPICS}
    for candidate in candidates:
        for topic in TOPICS:
            named = named_values(topic, candidate.chosen) if topic.values else []
            counts[topic.name].update(value.answer for value in named)
    return counts


def build_pair(
    candidate: Candidate, rejected: str, how: str, **provenance: object
) -> PreferenceRecord:
    """Return the record of a pair."""
    source = candidate.source
    return PreferenceRecord(
        record_id=f"{candidate.record_id}/{how.partition(':')[0]}",
        images=source.images,
        turns=candidate.turns,
        chosen=candidate.chosen,
        rejected=rejected,
        rejected_by=how,
        teacher=source.teacher,
        figure_id=source.figure_id,
        modality=source.modality,
        license=source.license,
        split=source.split,
        provenance={"version": PREFERENCE_VERSION, **provenance},
    )


def _write_by_model(
    config: GenerateConfig,
    way: Rejection,
    candidates: list[Candidate],
    writer: InstructionsWriter,
    progress: Progress,
) -> dict[str, Any]:
    """Ask a model for the worse answers; what it leaves open is asked for by another run."""
    from medllava.instruct.conversations import describe_usage  # noqa: PLC0415 - imports all rules

    teacher = Teacher(config)
    waiting: deque[Candidate] = deque()
    root = preferences_image_dir(config)
    others = OtherPictures([_as_question(c) for c in candidates])

    def requests() -> Iterator[ChatRequest]:
        for candidate in candidates:
            request, reason = _build_request(config, way, candidate, root, others)
            if request is None:
                writer.reject(candidate.record_id, reason, way=way.value)
                progress.advance()
                continue
            waiting.append(candidate)
            yield request

    with Ledger(config.output_dir / LEDGER) as ledger:
        outcomes = teacher.ask(requests(), ledger=ledger, progress=progress, useless=useless_reason)
        for outcome in outcomes:
            candidate = waiting.popleft()
            if outcome.reply is None:
                leave = writer.reject if outcome.is_final else writer.leave
                leave(candidate.record_id, outcome.reason, detail=outcome.detail)
                continue
            _take(way, candidate, outcome.reply, writer)
        return {"model": teacher.model.name, **describe_usage(ledger, teacher.price)}


def _take(
    way: Rejection, candidate: Candidate, reply: ChatReply, writer: InstructionsWriter
) -> None:
    """Write the pair, or the rule that it breaks."""
    rejected, kind = _read_reply(way, reply.text)
    how = f"{way.value}:{kind}" if kind else way.value
    if same_substance(candidate.chosen, rejected):
        writer.reject(candidate.record_id, SAME, chosen=candidate.chosen, raw=reply.text)
    elif not is_length_matched(candidate.chosen, rejected):
        writer.reject(candidate.record_id, UNEQUAL, chosen=candidate.chosen, raw=reply.text)
    else:
        writer.write_preference(build_pair(candidate, rejected, how, model=reply.model))


def _read_reply(way: Rejection, text: str) -> tuple[str, str]:
    if way is not Rejection.TEACHER:
        return text.strip(), ""
    start, end = text.find("{"), text.rfind("}")
    try:
        values = json.loads(text[start : end + 1])
        return str(values["answer"]).strip(), str(values.get("kind", "")).strip().lower()
    except (ValueError, KeyError, TypeError):
        return "", ""


def _build_request(
    config: GenerateConfig,
    way: Rejection,
    candidate: Candidate,
    root: Path,
    others: OtherPictures,
) -> tuple[ChatRequest | None, str]:
    """Return what is asked, or why nothing is."""
    room = 16 + _ROOM * len(candidate.chosen.split())
    request_id = f"{candidate.record_id}/{way.value}"
    if way is Rejection.TEACHER:
        asked = {"question": candidate.question, "correct answer": candidate.chosen}
        return (
            ChatRequest(
                request_id=request_id,
                messages=(
                    Message(role="system", content=_RULES),
                    Message(role="user", content=json.dumps(asked, ensure_ascii=False)),
                ),
                max_new_tokens=2 * room + 32,
                temperature=config.temperature,
                seed=config.seed,
                response_schema=_SCHEMA,
            ),
            "",
        )
    if len(candidate.source.images) != 1:
        return None, NO_IMAGE
    image = candidate.source.images[0]
    rng = random.Random(f"{config.seed}:{candidate.record_id}")
    if way is Rejection.EXCHANGE:
        other = others.of(_as_question(candidate), rng)
        if other is None:
            return None, NO_OTHER
        image = other
    try:
        picture = load_image(contained_path(root, image))
    except DataError:
        return None, NO_IMAGE
    if way is Rejection.NOISE:
        picture = add_diffusion_noise(picture, step=_NOISE_STEP, seed=rng.getrandbits(32))
    shown = Message(role="user", content=candidate.question, images=(image_address(picture),))
    before = tuple(
        Message(role=turn.role, content=turn.content.replace(IMAGE_TOKEN, "").strip())
        for turn in candidate.turns[:-1]
    )
    return ChatRequest(request_id=request_id, messages=(*before, shown), max_new_tokens=room), ""


def _as_question(candidate: Candidate) -> Question:
    images = candidate.source.images
    modality = candidate.source.modality
    return Question(
        id=candidate.record_id,
        image=images[0] if images else None,
        question=candidate.question,
        answer=candidate.chosen,
        answer_type=AnswerType.OPEN,
        modality=modality.value if modality else None,
    )
