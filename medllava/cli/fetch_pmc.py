"""`medllava fetch-pmc`: from PubMed Central to a folder of figures."""

from pathlib import Path
from typing import Annotated

import typer

from medllava.cli.console import Console
from medllava.cli.options import DryRun, Json, OutputDir, Quiet, Seed, Verbose, Workers

_SOURCE, _FILTER, _SPLIT, _SCALE = "Source", "What is kept", "Split by article", "Scale"


def run(
    output_dir: OutputDir,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="Mirror, folder, package or XML on disk; repeatable.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids", help="File of PMCIDs, PMIDs or DOIs; - is stdin.", rich_help_panel=_SOURCE
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", help="Search in Entrez syntax.", rich_help_panel=_SOURCE),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, help="Draw N articles from the inventory.", rich_help_panel=_SOURCE
        ),
    ] = None,
    image_urls: Annotated[
        Path | None,
        typer.Option(
            "--from-llava-med-urls",
            help="LLaVA-Med's released image list.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            envvar="MEDLLAVA_PMC_URL",
            help="Bucket or a copy of it.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Take the first N articles only.", rich_help_panel=_SOURCE
        ),
    ] = None,
    all_versions: Annotated[
        bool,
        typer.Option(
            "--all-versions", help="Not only the latest of each article.", rich_help_panel=_SOURCE
        ),
    ] = False,
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            "--license",
            help="Licence code; repeatable; any takes all. [default: CC0, CC BY]",
            rich_help_panel=_FILTER,
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            "--modality", help="ct, mri, chest_xray, ...; repeatable.", rich_help_panel=_FILTER
        ),
    ] = None,
    single_panel: Annotated[
        bool,
        typer.Option(
            "--single-panel", help="Drop figures of several panels.", rich_help_panel=_FILTER
        ),
    ] = False,
    captions_only: Annotated[
        bool, typer.Option("--captions-only", help="Read no images.", rich_help_panel=_FILTER)
    ] = False,
    min_pixels: Annotated[
        int,
        typer.Option(
            "--min-pixels", min=1, help="Of an image's shorter side.", rich_help_panel=_FILTER
        ),
    ] = 112,
    min_caption_words: Annotated[
        int,
        typer.Option(
            "--min-caption-words",
            min=0,
            help="Shorter captions are left out.",
            rich_help_panel=_FILTER,
        ),
    ] = 5,
    max_caption_words: Annotated[
        int,
        typer.Option(
            "--max-caption-words",
            min=1,
            help="Longer captions are left out.",
            rich_help_panel=_FILTER,
        ),
    ] = 400,
    deduplicate: Annotated[
        bool,
        typer.Option(
            "--dedupe/--no-dedupe", help="Drop pictures seen before.", rich_help_panel=_FILTER
        ),
    ] = True,
    keep_flagged: Annotated[
        bool,
        typer.Option(
            "--keep-flagged", help="Also third-party figures, flagged.", rich_help_panel=_FILTER
        ),
    ] = False,
    keep_retracted: Annotated[
        bool,
        typer.Option(
            "--keep-retracted", help="Also retracted articles and notices.", rich_help_panel=_FILTER
        ),
    ] = False,
    keep_supplements: Annotated[
        bool,
        typer.Option(
            "--keep-supplements", help="Also supplementary figures.", rich_help_panel=_FILTER
        ),
    ] = False,
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier",
            metavar="MODULE:FUNCTION",
            help="Names the modality of an image.",
            rich_help_panel=_FILTER,
        ),
    ] = "",
    test_fraction: Annotated[
        float,
        typer.Option(
            "--test-fraction", min=0, max=1, help="Share of articles.", rich_help_panel=_SPLIT
        ),
    ] = 0.02,
    validation_fraction: Annotated[
        float,
        typer.Option(
            "--validation-fraction", min=0, max=1, help="Share of articles.", rich_help_panel=_SPLIT
        ),
    ] = 0.01,
    split_file: Annotated[
        Path | None,
        typer.Option(
            "--split-file", help="CSV or JSONL of pmcid,split; goes first.", rich_help_panel=_SPLIT
        ),
    ] = None,
    seed: Seed = 0,
    webdataset: Annotated[
        bool, typer.Option("--webdataset", help="Also write tar shards.", rich_help_panel=_SCALE)
    ] = False,
    workers: Workers = 16,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes", min=1, help="Stop after fetching this much.", rich_help_panel=_SCALE
        ),
    ] = None,
    num_shards: Annotated[
        int,
        typer.Option(
            "--num-shards", min=1, help="Cut the work into N parts.", rich_help_panel=_SCALE
        ),
    ] = 1,
    shard_index: Annotated[
        int | None,
        typer.Option("--shard-index", min=0, help="Do only this part.", rich_help_panel=_SCALE),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor", help="local, slurm or ray run the parts.", rich_help_panel=_SCALE
        ),
    ] = None,
    executor_options: Annotated[
        list[str] | None,
        typer.Option(
            "--executor-set",
            metavar="KEY=VALUE",
            help="Setting of the executor; repeatable.",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    email: Annotated[
        str,
        typer.Option(
            "--email",
            envvar="MEDLLAVA_EMAIL",
            help="Contact sent to the archive.",
            rich_help_panel=_SCALE,
        ),
    ] = "",
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="New snapshot: drop what was retracted or removed, add what is new.",
            rich_help_panel=_SCALE,
        ),
    ] = False,
    dry_run: DryRun = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Collect figures with captions, mentions and licences from PubMed Central."""
    from medllava.pmc.config import BUCKET_URL, DEFAULT_LICENSES, FetchConfig
    from medllava.records import Modality

    unknown = [name for name in modalities or () if name not in list(Modality)]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(Modality)}")
    if shard_index is not None and shard_index >= num_shards:
        raise typer.BadParameter(
            f"--shard-index {shard_index} is not below --num-shards {num_shards}"
        )
    config = FetchConfig(
        output_dir=output_dir,
        inputs=tuple(inputs or ()),
        ids=ids,
        query=query,
        sample=sample,
        image_urls=image_urls,
        seed=seed,
        base_url=base_url or BUCKET_URL,
        email=email,
        limit=limit,
        versions="all" if all_versions else "latest",
        licenses=tuple(licenses or DEFAULT_LICENSES),
        keep_retracted=keep_retracted,
        keep_flagged=keep_flagged,
        keep_supplements=keep_supplements,
        captions_only=captions_only,
        modalities=tuple(Modality(name) for name in modalities or ()),
        single_panel=single_panel,
        classifier=classifier,
        min_caption_words=min_caption_words,
        max_caption_words=max_caption_words,
        min_pixels=min_pixels,
        deduplicate=deduplicate,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        split_file=split_file,
        webdataset=webdataset,
        num_shards=num_shards,
        shard_index=shard_index,
        executor=executor,
        executor_options=tuple(executor_options or ()),
        workers=workers,
        max_bytes=max_bytes,
        refresh=refresh,
        dry_run=dry_run,
    )
    console = Console("fetch-pmc", json_output=json_output, quiet=quiet, verbose=verbose)
    from medllava.pmc.fetch import fetch_figures

    with console.progress() as progress:
        summary = fetch_figures(config, progress=progress)
    console.finish(summary)
