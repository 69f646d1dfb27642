"""`medllava generate-instructions`: from figures to conversations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import DryRun, Json, Limit, OutputDir, Quiet, Seed, Verbose

StageName = StrEnum("StageName", ["ALIGN", "INSTRUCT", "PREFER", "REINFORCE"])
RejectionName = StrEnum("RejectionName", ["RULE", "NOISE", "EXCHANGE", "TEACHER"])
SplitName = StrEnum("SplitName", ["TRAIN", "VALIDATION", "TEST", "ALL"])
PrivacyName = StrEnum("PrivacyName", ["AUTO", "STOP", "REPORT", "MASK", "OFF"])
RepliesName = StrEnum("RepliesName", ["WORD", "NAMED", "REASONED"])
KindName = StrEnum("KindName", ["CONVERSATION", "VQA", "CHOICE"])
PresetName = StrEnum(
    "PresetName",
    {
        "LLAVA_MED_10K": "llava-med-10k",
        "LLAVA_MED_60K": "llava-med-60k",
        "LLAVA_MED_60K_IM": "llava-med-60k-im",
    },
)
SelectName = StrEnum("SelectName", ["TURN", "ENTITIES"])
FormatName = StrEnum("FormatName", ["LLAVA", "MESSAGES", "SWIFT"])
PositionName = StrEnum("PositionName", ["BEFORE", "AFTER", "RANDOM"])


def _check_columns(values: list[str] | None) -> list[str] | None:
    for value in values or ():
        if not all(value.partition("=")):
            raise typer.BadParameter(f"{value!r} is not FIELD=COLUMN, such as caption=Findings.")
    return values


def run(
    figures: Annotated[
        Path,
        typer.Argument(
            help="Take this figures folder of fetch-pmc, table of pictures and captions (CSV, TSV, "
            "JSON, JSONL, Parquet, hf://OWNER/NAME), or folder of pictures; for prefer also "
            "instructions; for reinforce questions, to which the teacher adds key steps."
        ),
    ],
    output_dir: OutputDir,
    stage: Annotated[
        StageName | None, typer.Option("--stage", help="Make data for this stage.")
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            help="Let this teacher write: template, local:FOLDER, recorded:FILE or a model name.",
        ),
    ] = "template",
    kind: Annotated[
        KindName,
        typer.Option(
            "--kind",
            help="Let a model write conversation, vqa (short answers) or choice (lettered).",
        ),
    ] = KindName.CONVERSATION,
    preset: Annotated[
        PresetName | None,
        typer.Option(
            "--preset",
            help="Make a data set of the LLaVA-Med paper: its numbers by modality, counted as "
            "kept, its turns and its context; --limit makes a smaller one.",
        ),
    ] = None,
    select: Annotated[
        SelectName,
        typer.Option(
            "--select",
            help="Take figures in turn from each modality, or from each of its entities "
            "(subject headings, findings, organs) too.",
        ),
    ] = SelectName.TURN,
    rejected: Annotated[
        list[RejectionName] | None,
        typer.Option(
            "--rejected",
            help="Make worse answers for prefer by rule, noise or exchange (the teacher answers "
            "about a noisy or another picture) or teacher; repeatable. [default: rule]",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            envvar="MEDLLAVA_BASE_URL",
            help="Ask the teacher at this OpenAI-compatible server; unset asks OpenAI.",
        ),
    ] = None,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="Send the requests through the Batch API: cheaper, and answered within a day.",
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Put at most this many requests into one batch."),
    ] = None,
    request: Annotated[
        list[str] | None,
        typer.Option(
            "--request",
            metavar="KEY=VALUE",
            help="Send this with every request: max_tokens, temperature, reasoning_effort, "
            "timeout, retries or a parameter of the server's own; repeatable.",
        ),
    ] = None,
    retry_refused: Annotated[
        bool,
        typer.Option("--retry-refused", help="Ask again what the service refused or filtered."),
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="Write in en, zh, ja, es, de or fr; unset writes English, or as captions are.",
        ),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            "--verify",
            metavar="MODEL",
            help="Let a second model judge every question and answer; keep what it supports.",
        ),
    ] = None,
    vision_gate: Annotated[
        str | None,
        typer.Option(
            "--vision-gate",
            metavar="CKPT",
            help="Drop answers that this checkpoint finds likelier with other pictures.",
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score",
            min=0,
            max=1,
            help="Keep answers of which the text bears out at least this share.",
        ),
    ] = 0.0,
    inline_mentions: Annotated[
        bool,
        typer.Option(
            "--inline-mentions/--no-inline-mentions",
            help="Show the teacher the sentences of the article that cite the figure.",
        ),
    ] = True,
    see_image: Annotated[
        bool, typer.Option("--see-image", help="Show the teacher the picture too.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost",
            min=0,
            metavar="USD",
            help="Stop before the teacher costs more than this many US dollars.",
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", help="Read prices per million tokens from this TOML file."),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", min=1, max=512, help="Have at most this many requests in flight."
        ),
    ] = 16,
    requests_per_minute: Annotated[
        float | None,
        typer.Option(
            "--requests-per-minute", min=0.1, help="Send at most this many requests a minute."
        ),
    ] = None,
    tokens_per_minute: Annotated[
        float | None,
        typer.Option("--tokens-per-minute", min=1, help="Send at most this many tokens a minute."),
    ] = None,
    split: Annotated[
        SplitName, typer.Option("--split", help="Use the figures of this split.")
    ] = SplitName.TRAIN,
    limit: Limit = None,
    questions_per_figure: Annotated[
        int,
        typer.Option(
            "--questions-per-figure",
            min=1,
            help="Let the template teacher ask at most this many questions per figure.",
        ),
    ] = 1,
    closed_share: Annotated[
        float,
        typer.Option(
            "--closed-share",
            min=0,
            max=1,
            help="Let this share of the template teacher's questions be yes/no.",
        ),
    ] = 0.5,
    closed_replies: Annotated[
        RepliesName,
        typer.Option(
            "--closed-replies",
            help='Let the template teacher reply to yes/no with a word ("no"), named ("No, it is '
            'an X-ray.") or reasoned ("It is an X-ray, so no.").',
        ),
    ] = RepliesName.WORD,
    multi_turn: Annotated[
        bool,
        typer.Option(
            "--multi-turn",
            help="Let the template teacher put a figure's questions into one conversation.",
        ),
    ] = False,
    image_position: Annotated[
        PositionName | None,
        typer.Option(
            "--image-position",
            help="Put the image there; unset: random for align, before for instruct.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="FIELD=COLUMN",
            help="Take image, caption, id, patient, split, license or modality from this column.",
            callback=_check_columns,
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option("--image-dir", help="Read the pictures that a table names from this folder."),
    ] = None,
    formats: Annotated[
        list[FormatName] | None,
        typer.Option("--format", help="Write the records for another trainer too; repeatable."),
    ] = None,
    llava_json: Annotated[
        bool, typer.Option("--llava-json", help="Write the records as LLaVA's JSON too.")
    ] = False,
    privacy: Annotated[
        PrivacyName,
        typer.Option(
            "--privacy",
            help="Look for names in tags, pixels and captions, then stop, report or mask "
            "(paint over), or do not look (off); auto stops for data of one's own and is off for "
            "published figures.",
        ),
    ] = PrivacyName.AUTO,
    check_privacy: Annotated[
        bool,
        typer.Option(
            "--check-privacy", help="Look for names and do nothing else; this needs no --stage."
        ),
    ] = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Turn figures into conversations that a model can learn from."""
    from medllava.instruct.config import (
        ClosedReplies,
        GenerateConfig,
        ImagePosition,
        Kind,
        Rejection,
        Select,
    )
    from medllava.instruct.generate import generate_instructions
    from medllava.instruct.teacher import parse_request_options
    from medllava.privacy.findings import PrivacyMode
    from medllava.records import Split, Stage

    if stage is None and not check_privacy:
        raise typer.BadParameter(
            "say which: align, instruct, prefer or reinforce", param_hint="--stage"
        )

    console = Console(
        "generate-instructions", json_output=json_output, quiet=quiet, verbose=verbose
    )
    config = GenerateConfig(
        figures=figures,
        output_dir=output_dir,
        stage=Stage((stage or StageName.ALIGN).value),
        teacher=teacher,
        kind=Kind(kind.value),
        preset=None if preset is None else preset.value,
        select=Select(select.value),
        rejected=tuple(dict.fromkeys(Rejection(w.value) for w in rejected or [RejectionName.RULE])),
        split=None if split is SplitName.ALL else Split(split.value),
        limit=limit,
        questions_per_figure=questions_per_figure,
        closed_share=closed_share,
        closed_replies=ClosedReplies(closed_replies.value),
        multi_turn=multi_turn,
        image_position=None if image_position is None else ImagePosition(image_position.value),
        seed=seed,
        llava_json=llava_json,
        columns=tuple((name, value) for name, _, value in (c.partition("=") for c in column or ())),
        image_dir=image_dir,
        formats=tuple(name.value for name in formats or ()),
        base_url=base_url,
        batch=batch,
        batch_size=batch_size,
        request=parse_request_options(request or []),
        retry_refused=retry_refused,
        language=language,
        min_score=min_score,
        verify=verify,
        vision_gate=vision_gate,
        inline_mentions=inline_mentions,
        see_image=see_image,
        max_cost_usd=max_cost,
        prices=prices,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        privacy=PrivacyMode(privacy.value),
        check_privacy=check_privacy,
        dry_run=dry_run,
    )
    with console.progress() as progress:
        summary = generate_instructions(config, progress=progress)
    console.finish(summary)
