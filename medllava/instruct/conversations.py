"""Figures to conversations through a language model: ask, read, filter, write.

Figures come in turn from each modality; for each one a request goes to the teacher and its reply is
on disk, in the ledger, before it is read. Everything after the reply is a pure function of it, so
new rules can be tried on old replies without paying again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.instruct.alignment import draw
from medllava.instruct.candidates import Candidate, CandidateWriter, of_kind
from medllava.instruct.config import GenerateConfig, Kind
from medllava.instruct.context import read_context
from medllava.instruct.duplicates import DuplicateFinder
from medllava.instruct.figures import figures_image_dir
from medllava.instruct.filters import (
    ALL_DROPPED,
    NEAR_DUPLICATE,
    NO_TURNS,
    RULES_BY_LANGUAGE,
    filter_pairs,
)
from medllava.instruct.gates import gate_pairs, grounded_score
from medllava.instruct.output import InstructionsWriter
from medllava.instruct.parse import Dropped, Pair, parse_conversation
from medllava.instruct.phrases import ENGLISH
from medllava.instruct.presets import find_preset
from medllava.instruct.prompts import PROMPTS, build_request
from medllava.instruct.selection import RejectReason, Selection
from medllava.instruct.teacher import LEDGER, Teacher, read_request_settings
from medllava.instruct.verify import (
    UNVERIFIED,
    VERIFY_VERSION,
    Verdict,
    build_verification,
    parse_verdicts,
    useless_verdicts,
)
from medllava.instruct.vision_gate import gate_by_picture
from medllava.language import UNKNOWN as UNTOLD
from medllava.language import detect_language
from medllava.llm.ledger import Ledger
from medllava.llm.prices import Price
from medllava.llm.protocol import ChatReply, ChatRequest
from medllava.llm.replies import LENGTH, useless_reason
from medllava.llm.runner import Outcome
from medllava.llm.tokens import text_counted_by
from medllava.progress import Progress, SilentProgress
from medllava.records import FigureRecord
from medllava.store import contained_path

IMAGE_MISSING = "image_missing"
TOO_FEW_TURNS = "too_few_turns"
"""Fewer pairs are left than the preset's conversations have."""
UNKNOWN = "unknown"
"""In place of a cost whose price nobody knows."""


def write_conversations(
    config: GenerateConfig,
    writer: InstructionsWriter,
    progress: Progress,
    *,
    reject_reason: RejectReason,
) -> dict[str, Any]:
    """Write one conversation for each figure that yields one; return what it took.

    Args:
        config: with the name of a language model as teacher.
        writer: takes records and rejections.
        progress: told of every answer.
        reject_reason: names the rule that leaves a figure out unasked, or None.

    Raises:
        AccessError: the service will not answer any request.
        RemoteError: it does not answer any more; run again to go on.
    """
    teacher = Teacher(config)
    verifier = Teacher(config, config.verify) if config.verify else None
    keep = CandidateWriter(config, writer)
    selection = Selection(config, reject_reason)
    finder = DuplicateFinder()
    with Ledger(config.output_dir / LEDGER) as ledger:
        progress.start("asking", total=sum(selection.targets.values()) or config.limit)
        # Who was not answered is asked again in the next run; until then nobody stands in for them.
        while not writer.left and (figures := selection.next_round(keep.by_modality)) is not None:
            queue = FigureQueue(config, selection.why_not, figures)
            outcomes = teacher.ask(
                queue.requests(), ledger=ledger, progress=progress, useless=useless_conversation
            )
            candidates = gate_by_picture(
                config, writer, _candidates(config, writer, finder, queue, outcomes)
            )
            if verifier is None:
                for candidate in candidates:
                    keep.take(candidate)
            else:
                _verify(config, writer, keep, candidates, verifier, ledger)
            queue.flush(writer)
        keep.finish()
        short = {} if writer.left else selection.missing(keep.by_modality)
        if short:
            progress.note(
                f"The archive has too few figures for {config.preset}: "
                f"{', '.join(f'{name} {number} fewer' for name, number in short.items())}."
            )
        for reason, count in writer.left.most_common():
            progress.note(f"{count} without an answer, {reason}: {writer.told.get(reason, '')}")
        if ledger.maybe_paid:
            progress.note(
                f"{ledger.maybe_paid} attempts without a readable reply may have been paid for, "
                f"at most ${ledger.maybe_paid_usd:.4f} where the price is known."
            )
        return {
            "teacher": teacher.model.name,
            **({"verifier": config.verify, "verify_version": VERIFY_VERSION} if verifier else {}),
            "prompt_version": PROMPTS[config.kind].version,
            **keep.facts(),
            **({"preset": config.preset, "missing_by_modality": short} if config.preset else {}),
            **describe_usage(ledger, teacher.price),
            "text_counted_by": text_counted_by(teacher.model.name),
        }


def describe_usage(ledger: Ledger, price: Price | None) -> dict[str, Any]:
    """Return what a folder's requests took so far, in all runs; a cost nobody knows says so."""
    is_known = price is not None and not ledger.unpriced
    usage: dict[str, Any] = {
        "input_tokens": ledger.input_tokens,
        "output_tokens": ledger.output_tokens,
        "cost_usd": round(ledger.spent_usd, 6) if is_known else UNKNOWN,
        "maybe_paid_usd": round(ledger.maybe_paid_usd, 6) if is_known else UNKNOWN,
        "prices_of": price.source if price else UNKNOWN,
        "times_asked": ledger.times_asked,
        "attempts": ledger.attempts,
        "paid_replies": ledger.paid,
        "maybe_paid_attempts": ledger.maybe_paid,
        "useless_replies": ledger.useless,
    }
    if ledger.estimated:
        usage["replies_without_usage"] = ledger.estimated
        usage["note"] = (
            f"The server told no tokens for {ledger.estimated} replies; each is charged "
            "at the most it could have cost."
        )
    if ledger.unpriced and price is not None:
        usage["replies_without_price"] = ledger.unpriced
    return usage


def useless_conversation(reply: ChatReply) -> str | None:
    """Name why a reply is worth asking again for, or None; one that was cut off may hold pairs."""
    reason = useless_reason(reply)
    if reason is None and reply.finish_reason == LENGTH and not read_reply(reply.text)[0]:
        return LENGTH
    return reason


class FigureQueue:
    """Figures that were read and whose outcome is not yet known, in order."""

    def __init__(
        self, config: GenerateConfig, reject_reason: RejectReason, figures: Iterable[FigureRecord]
    ) -> None:
        """Prepare to ask about figures, as a config says."""
        self._config = config
        self._figures = figures
        self._reject_reason = reject_reason
        self._settings = read_request_settings(config.request)
        self._root = figures_image_dir(config.figures)
        self._waiting: deque[tuple[FigureRecord, str | None]] = deque()

    def requests(self) -> Iterator[ChatRequest]:
        """Yield a request for every figure that can be asked about."""
        config = self._config
        for figure in self._figures:
            reason = self._reject_reason(figure)
            image = None
            if reason is None and config.see_image:
                image = _present(self._root, figure.images[0])
                reason = IMAGE_MISSING if image is None else None
            self._waiting.append((figure, reason))
            if reason is None:
                request = build_request(
                    figure,
                    inline_mentions=config.inline_mentions,
                    image=image,
                    temperature=config.temperature,
                    seed=draw(config.seed, figure.figure_id) & 0x7FFFFFFF,
                    language=config.language,
                    kind=config.kind,
                )
                yield self._settings.apply(request)

    def next_asked(self, writer: InstructionsWriter) -> FigureRecord:
        """Return the next figure that was asked about, writing down those before it."""
        while True:
            figure, reason = self._waiting.popleft()
            if reason is None:
                return figure
            writer.reject(figure.figure_id, reason)

    def flush(self, writer: InstructionsWriter) -> None:
        """Write down the figures after the last one that was asked about."""
        for figure, reason in self._waiting:
            if reason is not None:
                writer.reject(figure.figure_id, reason)
        self._waiting.clear()


def wanted_languages(language: str | None, caption: str) -> frozenset[str]:
    """Return the languages that a figure's conversation may be in.

    The one asked for, else English or the caption's own; where the caption is too short to tell,
    all with rules.
    """
    if language is not None:
        return frozenset({language})
    own = detect_language(caption)
    return frozenset(RULES_BY_LANGUAGE) if own == UNTOLD else frozenset({ENGLISH, own})


def read_reply(
    text: str, *, languages: frozenset[str] = frozenset(RULES_BY_LANGUAGE)
) -> tuple[tuple[Pair, ...], tuple[Dropped, ...], str | None]:
    """Return the pairs of a reply that may be learned from, those that may not, and a reason.

    The reason is None unless nothing is left.
    """
    parsed = parse_conversation(text)
    if not parsed.pairs and not parsed.dropped:
        return (), (), NO_TURNS
    filtered = filter_pairs(parsed.pairs, languages=languages)
    dropped = parsed.dropped + filtered.dropped
    return filtered.pairs, dropped, None if filtered.pairs else ALL_DROPPED


def _candidates(
    config: GenerateConfig,
    writer: InstructionsWriter,
    finder: DuplicateFinder,
    queue: "FigureQueue",
    outcomes: Iterable[Outcome],
) -> Iterator[Candidate]:
    """Yield what may become a record; write down what may not."""
    for outcome in outcomes:
        figure = queue.next_asked(writer)
        if outcome.reply is not None:
            candidate = _take_reply(config, writer, finder, figure, outcome)
            if candidate is not None:
                yield candidate
        elif outcome.is_final:
            writer.reject(figure.figure_id, outcome.reason, detail=outcome.detail)
        else:
            writer.leave(figure.figure_id, outcome.reason, detail=outcome.detail)


def _verify(
    config: GenerateConfig,
    writer: InstructionsWriter,
    keep: CandidateWriter,
    candidates: Iterator[Candidate],
    verifier: Teacher,
    ledger: Ledger,
) -> None:
    """Have a second model judge the candidates, and write those pairs that it lets pass."""
    waiting: deque[Candidate] = deque()
    root = figures_image_dir(config.figures)

    def requests() -> Iterator[ChatRequest]:
        for candidate in candidates:
            waiting.append(candidate)
            figure = candidate.figure
            image = _present(root, figure.images[0]) if config.see_image else None
            yield build_verification(figure, candidate.pairs, image=image)

    outcomes = verifier.ask(
        requests(), ledger=ledger, progress=SilentProgress(), useless=useless_verdicts
    )
    for outcome in outcomes:
        candidate = waiting.popleft()
        figure_id = candidate.figure.figure_id
        if outcome.reply is None:
            # Nobody has looked at it, so it is neither kept nor rejected.
            writer.leave(figure_id, outcome.reason, detail=outcome.detail)
            continue
        verdicts = parse_verdicts(outcome.reply.text, len(candidate.pairs))
        if None in verdicts:
            writer.leave(figure_id, "verdict_missing", detail=outcome.reply.text[:300])
            continue
        kept: list[tuple[Pair, Verdict]] = []
        for pair, verdict in zip(candidate.pairs, verdicts, strict=True):
            if verdict is not None and verdict.passes(config.min_score):
                kept.append((pair, verdict))
            elif verdict is not None:
                why = f"{', '.join(verdict.failed) or 'score'}: {verdict.reason}"
                writer.drop_turn(figure_id, UNVERIFIED, pair.question, pair.answer, detail=why)
        if not kept:
            writer.reject(figure_id, UNVERIFIED, raw=outcome.reply.text)
            continue
        verified = round(sum(verdict.score for _, verdict in kept) / len(kept), 3)
        keep.take(
            replace(
                candidate,
                pairs=tuple(pair for pair, _ in kept),
                scores=candidate.scores | {"verified": verified},
            )
        )


def _take_reply(
    config: GenerateConfig,
    writer: InstructionsWriter,
    finder: DuplicateFinder,
    figure: FigureRecord,
    outcome: Outcome,
) -> Candidate | None:
    reply = outcome.reply
    if reply is None:
        raise ValueError("an outcome with a reply is needed")
    context = read_context(figure)
    pairs, dropped, reason = read_reply(
        reply.text, languages=wanted_languages(config.language, figure.caption)
    )
    pairs, misfits = of_kind(pairs, config.kind)
    preset = find_preset(config.preset) if config.preset else None
    pairs, failed = gate_pairs(pairs, context, min_score=config.min_score)
    dropped += misfits + failed
    if reason is None and not pairs:
        reason = ALL_DROPPED
    if reason is None and preset is not None:
        pairs = pairs[: preset.most_turns]
        reason = TOO_FEW_TURNS if len(pairs) < preset.fewest_turns else None
    # Short answers repeat themselves with good reason; `shortcuts` looks at those.
    if reason is None and config.kind is Kind.CONVERSATION and finder.is_duplicate(pairs):
        reason = NEAR_DUPLICATE
    for pair in dropped:
        writer.drop_turn(figure.figure_id, pair.rule, pair.question, pair.answer)
    if reason is not None:
        writer.reject(figure.figure_id, reason, raw=reply.text, finish_reason=reply.finish_reason)
        return None
    grounded = sum(grounded_score(pair, context) for pair in pairs) / len(pairs)
    return Candidate(
        figure=figure,
        pairs=pairs,
        reply=reply,
        outcome=outcome,
        scores={"grounded": round(grounded, 3)},
    )


def _present(root: Path, image: str) -> str | None:
    try:
        path = contained_path(root, image)
    except DataError:
        return None
    return str(path) if path.is_file() else None
