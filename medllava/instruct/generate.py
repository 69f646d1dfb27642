"""The step from figures to instructions.

`figures.parquet` goes in, an instructions folder comes out for `train` (and, from the template
teacher, questions for `eval`):

    DIR/
      instructions.jsonl   one InstructionRecord a line
      questions.jsonl      template teacher only: the same questions in eval's form
                           (stage `reinforce`: questions that were given, with key steps)
      rejected.jsonl       what was left out, with the rule that said so and the raw reply
      llava.json           on request: the records as LLaVA's JSON
      summary.json         counts, settings, and where the images are
      report.html          a page to look at
      ledger.jsonl         language models only: every request and reply, with usage and cost
      batches.jsonl        Batch API only: what was submitted and collected
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medllava.data.layouts.write import Layout, write_layout
from medllava.data.sources import iter_instruction_records
from medllava.errors import DataError
from medllava.instruct.alignment import align_figure, draw, place_image
from medllava.instruct.browse import render_browse_page
from medllava.instruct.config import (
    TEMPLATE_TEACHER,
    GenerateConfig,
    ImagePosition,
    Kind,
    Rejection,
    Select,
)
from medllava.instruct.conversations import write_conversations
from medllava.instruct.estimate import estimate_run
from medllava.instruct.figures import (
    count_figures,
    figures_image_dir,
    iter_figures,
    iter_round_robin,
    manifest_path,
)
from medllava.instruct.key_steps import estimate_key_steps, load_to_be_stepped, write_key_steps
from medllava.instruct.output import (
    InstructionsWriter,
    write_summary,
)
from medllava.instruct.phrases import ENGLISH, check_language
from medllava.instruct.preferences import (
    check_ways,
    estimate_preferences,
    inherited_choice,
    is_instructions,
    preferences_image_dir,
    write_preferences,
)
from medllava.instruct.presets import find_preset
from medllava.instruct.privacy import check_privacy, pass_gate
from medllava.instruct.report import write_report
from medllava.instruct.tables.rows import is_table
from medllava.instruct.tables.to_figures import REJECTED_ROWS, TABLE_FOLDER, import_table
from medllava.instruct.template import (
    TEMPLATE_VERSION,
    Exchange,
    TemplateTeacher,
    count_answers,
)
from medllava.layout import (
    BROWSE_FILE,
    INSTRUCTIONS_FILE,
    PAGE_FILE,
    PREFERENCES_FILE,
    QUESTIONS_FILE,
    REJECTED_FILE,
    SUMMARY_FILE,
)
from medllava.privacy.own import Choice
from medllava.progress import Progress, SilentProgress
from medllava.records import (
    OWN,
    FigureRecord,
    InstructionRecord,
    Question,
    Stage,
    StepSummary,
    Turn,
)
from medllava.store import exclusive, iter_jsonl, write_text


def generate_instructions(
    config: GenerateConfig, *, progress: Progress | None = None
) -> StepSummary:
    """Write the instructions folder of a config.

    Raises:
        DataError: the figures cannot be read, another run writes here, there are no rules for the
            language, or no record came out.
    """
    progress = progress or SilentProgress()
    if config.language is not None:
        config = dataclasses.replace(config, language=check_language(config.language))
        if config.language != ENGLISH and not _asks_model(config):
            raise DataError(
                f"--language {config.language} needs a model as --teacher: captions are taken as "
                "they are, and the template teacher reads and writes English only."
            )
    config = _with_preset(config)
    if config.kind is not Kind.CONVERSATION and not _is_by_model(config):
        raise DataError(
            f"--kind {config.kind} needs a model as --teacher of --stage instruct; the template "
            "teacher asks its own questions (--closed-share)."
        )
    if config.stage is Stage.FINETUNE:
        raise ValueError("stage finetune takes questions; nothing is generated for it")
    if config.stage is Stage.PREFER:
        check_ways(config)
    if config.dry_run and not config.output_dir.exists():
        return _estimate_any(config, progress)
    with exclusive(config.output_dir):
        return (_estimate_any if config.dry_run and not config.check_privacy else _generate_any)(
            config, progress
        )


def _with_preset(config: GenerateConfig) -> GenerateConfig:
    """Return the config with what its preset sets.

    Raises:
        DataError: there is no such preset, or it does not go with the rest.
    """
    if config.preset is None and config.select is Select.TURN:
        return config
    if not _is_by_model(config):
        raise DataError("--preset and --select need --stage instruct and a model as --teacher.")
    if config.preset is None:
        return config
    preset = find_preset(config.preset)
    if config.kind is not Kind.CONVERSATION:
        raise DataError(f"--preset {config.preset} is of conversations. Leave --kind out.")
    return dataclasses.replace(config, inline_mentions=preset.inline_mentions)


def _estimate_any(config: GenerateConfig, progress: Progress) -> StepSummary:
    """Estimate a figures folder, or a table that is imported for the moment."""
    if config.stage is Stage.REINFORCE:
        return estimate_key_steps(config)
    if config.stage is Stage.PREFER and _asks_model(config) and not is_table(config.figures):
        return estimate_preferences(config, reject_reason)
    if not is_table(config.figures):
        return _estimate(config, progress)
    with tempfile.TemporaryDirectory(prefix="medllava-") as folder:
        return _estimate(_imported(config, Path(folder) / TABLE_FOLDER, progress), progress)


def _generate_any(config: GenerateConfig, progress: Progress) -> StepSummary:
    """Generate from a figures folder, or from a table that is imported first."""
    if config.stage is Stage.REINFORCE:
        return _generate_key_steps(config, progress)
    if config.stage is Stage.PREFER and is_instructions(config.figures):
        return _generate(config, inherited_choice(config), progress)
    if is_table(config.figures):
        config = _imported(config, config.output_dir / TABLE_FOLDER, progress)
    if config.check_privacy:
        return check_privacy(config, progress=progress)
    return _generate(*pass_gate(config, progress=progress), progress)


def _generate_key_steps(config: GenerateConfig, progress: Progress) -> StepSummary:
    asked, choice = load_to_be_stepped(config)
    with InstructionsWriter(
        config.output_dir, seed=config.seed, records_file=_records_file(config)
    ) as writer:
        usage = write_key_steps(config, asked, writer, progress)
    image_dir = asked.image_dir or asked.file.parent
    return _finish(config, choice, writer, usage, image_dir=image_dir)


def _imported(config: GenerateConfig, folder: Path, progress: Progress) -> GenerateConfig:
    figures = import_table(
        config.figures,
        folder,
        columns=dict(config.columns),
        image_dir=config.image_dir,
        seed=config.seed,
        progress=progress,
    )
    return dataclasses.replace(config, figures=figures)


def _estimate(config: GenerateConfig, progress: Progress) -> StepSummary:
    if not _asks_model(config):
        figures = count_figures(manifest_path(config.figures), split=config.split).total()
        counts = {"figures": min(figures, config.limit or figures), "requests": 0, "cost_usd": 0.0}
        return StepSummary(step="generate-instructions", counts=counts, details={"dry_run": True})
    return estimate_run(config, progress, reject_reason=reject_reason)


def _generate(config: GenerateConfig, choice: Choice, progress: Progress) -> StepSummary:
    usage: dict[str, Any] = {}
    is_template = config.stage is Stage.INSTRUCT and not _asks_model(config)
    with InstructionsWriter(
        config.output_dir,
        with_questions=is_template or config.kind is not Kind.CONVERSATION,
        seed=config.seed,
        records_file=_records_file(config),
    ) as writer:
        for row in _rejected_rows(config.figures):
            writer.reject(row.pop("figure_id"), row.pop("reason"), **row)
        if config.stage is Stage.PREFER:
            usage = write_preferences(config, writer, progress, reject_reason)
        elif is_template:
            _write_template(config, writer, progress)
        elif config.stage is Stage.INSTRUCT:
            usage = write_conversations(config, writer, progress, reject_reason=reject_reason)
        else:
            _write_aligned(config, writer, progress)
    image_dir = (
        preferences_image_dir(config)
        if config.stage is Stage.PREFER
        else figures_image_dir(config.figures)
    )
    return _finish(config, choice, writer, usage, image_dir=image_dir)


def _rejected_rows(figures: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that importing a table had to leave out."""
    path = figures / REJECTED_ROWS
    if path.is_file() and figures.name == TABLE_FOLDER:
        yield from (row for _, row in iter_jsonl(path))


def _is_by_model(config: GenerateConfig) -> bool:
    """Tell whether a model writes instructions."""
    return config.stage is Stage.INSTRUCT and _asks_model(config)


def _asks_model(config: GenerateConfig) -> bool:
    if config.stage is Stage.PREFER:
        return any(way is not Rejection.RULE for way in config.rejected)
    return config.stage is Stage.INSTRUCT and config.teacher != TEMPLATE_TEACHER


def _records_file(config: GenerateConfig) -> str:
    files = {Stage.PREFER: PREFERENCES_FILE, Stage.REINFORCE: QUESTIONS_FILE}
    return files.get(config.stage, INSTRUCTIONS_FILE)


def _write_aligned(config: GenerateConfig, writer: InstructionsWriter, progress: Progress) -> None:
    manifest = manifest_path(config.figures)
    total = count_figures(manifest, split=config.split).total()
    progress.start("aligning", total=min(total, config.limit or total))
    position = config.image_position or ImagePosition.RANDOM
    for figure in _limited(iter_figures(manifest, split=config.split), config.limit):
        progress.advance()
        reason = reject_reason(figure)
        if reason is not None:
            writer.reject(figure.figure_id, reason)
            continue
        writer.write(align_figure(figure, seed=config.seed, image_position=position.value))


def _write_template(config: GenerateConfig, writer: InstructionsWriter, progress: Progress) -> None:
    manifest = manifest_path(config.figures)

    def figures() -> Iterator[FigureRecord]:
        return iter_round_robin(manifest, split=config.split, limit=config.limit)

    progress.start("reading facts")
    frequencies = count_answers(f for f in figures() if reject_reason(f) is None)
    teacher = TemplateTeacher(
        frequencies,
        closed_share=config.closed_share,
        seed=config.seed,
        closed_replies=config.closed_replies,
    )
    progress.start("asking")
    for figure in figures():
        progress.advance()
        reason = reject_reason(figure)
        exchanges: list[Exchange] = []
        if reason is None:
            exchanges = teacher.ask(figure, num_questions=config.questions_per_figure)
        if not exchanges:
            writer.reject(figure.figure_id, reason or "no_fact", caption=figure.caption)
            continue
        groups = [exchanges] if config.multi_turn else [[exchange] for exchange in exchanges]
        for number, group in enumerate(groups, start=1):
            _write_exchanges(config, writer, figure, group, number=number)


def _write_exchanges(
    config: GenerateConfig,
    writer: InstructionsWriter,
    figure: FigureRecord,
    exchanges: list[Exchange],
    *,
    number: int,
) -> None:
    record_id = f"{figure.figure_id}#{number}"
    position = (config.image_position or ImagePosition.BEFORE).value
    turns: list[Turn] = []
    for i, exchange in enumerate(exchanges, start=1):
        text = exchange.question
        if i == 1:
            text = place_image(
                text,
                position,
                draw=draw(config.seed, record_id),
                num_images=len(figure.images),
            )
        turns.append(Turn(role="user", content=text))
        turns.append(
            Turn(role="assistant", content=exchange.reply, answer_type=exchange.answer_type)
        )
        writer.write_question(
            Question(
                id=record_id if len(exchanges) == 1 else f"{record_id}.{i}",
                image=figure.images[0],
                question=exchange.question,
                answer=exchange.answer,
                answer_type=exchange.answer_type,
                category=exchange.category,
                modality=figure.modality.value,
            )
        )
        writer.counts[f"{exchange.answer_type.value}_questions"] += 1
    writer.write(
        InstructionRecord(
            record_id=record_id,
            images=figure.images,
            turns=tuple(turns),
            stage=Stage.INSTRUCT,
            teacher=TEMPLATE_TEACHER,
            figure_id=figure.figure_id,
            modality=figure.modality,
            license=figure.license,
            split=figure.split,
            provenance={
                "version": TEMPLATE_VERSION,
                "categories": [exchange.category for exchange in exchanges],
            },
        )
    )


def reject_reason(figure: FigureRecord) -> str | None:
    """Name the rule that leaves a figure out before anybody is asked about it, or None."""
    if not figure.images:
        return "no_image"
    if len(figure.images) > 1 and figure.context != OWN:
        # One conversation shows one image; which of several the words mean is not known.
        return "several_images"
    if not figure.caption.strip():
        return "no_caption"
    return "retracted" if figure.is_retracted else None


def _limited(figures: Iterator[FigureRecord], limit: int | None) -> Iterator[FigureRecord]:
    for number, figure in enumerate(figures):
        if limit is not None and number >= limit:
            return
        yield figure


def _finish(
    config: GenerateConfig,
    choice: Choice,
    writer: InstructionsWriter,
    usage: dict[str, Any],
    *,
    image_dir: Path,
) -> StepSummary:
    folder = config.output_dir
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items() if v is not None}
    facts: dict[str, Any] = {
        "stage": config.stage.value,
        "counts": dict(writer.counts),
        "settings": settings,
        "rejected_by_reason": dict(writer.reasons.most_common()),
        **choice.to_json(),
    }
    if usage:
        facts |= {
            "dropped_turns_by_rule": dict(writer.turn_rules.most_common()),
            "unanswered_by_reason": dict(writer.left.most_common()),
            "usage": usage,
        }
    write_summary(folder, image_dir=image_dir, facts=facts)
    write_report(
        folder / PAGE_FILE,
        writer.statistics,
        title=f"Instructions for stage {config.stage.value}",
        image_dir=image_dir,
        counts=writer.counts,
        reasons=writer.reasons + writer.turn_rules + writer.left,
        usage=usage,
    )
    records_file = folder / _records_file(config)
    artifacts = {records_file.stem: records_file}
    if config.stage in (Stage.ALIGN, Stage.INSTRUCT):
        write_text(
            folder / BROWSE_FILE,
            render_browse_page(
                writer.browse, folder=folder, image_dir=image_dir, struck=writer.struck
            ),
        )
        artifacts["browse"] = folder / BROWSE_FILE
    if "questions" in writer.counts:
        artifacts["questions"] = folder / QUESTIONS_FILE
    for layout in dict.fromkeys([*config.formats, *(["llava"] if config.llava_json else [])]):
        name = "llava_json" if layout == Layout.LLAVA else layout
        artifacts[name] = write_layout(Layout(layout), folder, iter_instruction_records(folder))
    artifacts |= {
        "rejected": folder / REJECTED_FILE,
        "summary": folder / SUMMARY_FILE,
        "report": folder / PAGE_FILE,
    }
    if not writer.counts["records"] and not writer.left:
        _refuse_nothing(writer, artifacts["rejected"])
    stage_number = list(Stage).index(config.stage) + 1
    details = {k: v for k, v in facts.items() if k in _TOLD}
    return StepSummary(
        step="generate-instructions",
        complete=not writer.left,
        counts=dict(writer.counts) | _known_cost(usage),
        details=details,
        artifacts=artifacts,
        hint=f"medllava train --stage {stage_number} --data {folder}",
    )


def _refuse_nothing(writer: InstructionsWriter, rejected: Path) -> None:
    """Say that nothing came of it, and why."""
    reasons = ", ".join(f"{name} {count}" for name, count in writer.reasons.most_common(3))
    if not reasons:
        raise DataError("no figures to use: check the figures folder and --split.")
    raise DataError(
        f"no record was written, all figures were rejected ({reasons}): see {rejected}."
    )


def _known_cost(usage: dict[str, Any]) -> dict[str, float]:
    cost = usage.get("cost_usd")
    return {"cost_usd": cost} if isinstance(cost, float | int) else {}


_TOLD = {"rejected_by_reason", "dropped_turns_by_rule", "unanswered_by_reason", "usage"}
