"""`medllava fetch-pmc`: from PubMed Central to a folder of figures."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from medllava.cli.console import Console
from medllava.cli.options import DryRun, Json, OutputDir, Quiet, Seed, Verbose, Workers

_SOURCE, _FILTER, _SPLIT, _SCALE = "Source", "What is kept", "Split by article", "Scale"


def run(
    output_dir: OutputDir,
    settings: Annotated[
        Path | None,
        typer.Argument(
            help="Read settings from this TOML file: tables filter, split, transfer, output."
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="Read a mirror, folder, package or XML file on disk; repeatable.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            help="Take the articles of this list of PMCIDs, PMIDs or DOIs; - reads stdin.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            help="Take the articles that this Entrez search of PMC finds.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            min=1,
            help="Draw this many articles at random from the archive's inventory.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    image_urls: Annotated[
        Path | None,
        typer.Option(
            "--from-llava-med-urls",
            help="Take the articles that LLaVA-Med's released list of images names.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            envvar="MEDLLAVA_PMC_URL",
            help="Fetch from this copy of the archive's bucket.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            help="Take only the first articles of the selection, this many.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            "--license",
            help="Keep this license; repeatable; any keeps all. [default: CC0, CC BY]",
            rich_help_panel=_FILTER,
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            "--modality",
            help="Keep figures of this modality: ct, mri, chest_xray, ...; repeatable.",
            rich_help_panel=_FILTER,
        ),
    ] = None,
    panels: Annotated[
        Literal["keep", "split", "drop"],
        typer.Option(
            "--panels",
            help="Keep figures of several panels whole, split them too, or drop them.",
            rich_help_panel=_FILTER,
        ),
    ] = "keep",
    languages: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            help="Keep figures with captions in this language: en, es, ...; repeatable.",
            rich_help_panel=_FILTER,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a rarer setting, such as filter.min_pixels=224; repeatable.",
            rich_help_panel=_FILTER,
        ),
    ] = None,
    split_file: Annotated[
        Path | None,
        typer.Option(
            "--split-file",
            help="Put articles into the splits that this CSV or JSONL of pmcid,split names.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    seed: Seed = 0,
    workers: Workers = 16,
    num_shards: Annotated[
        int,
        typer.Option(
            "--num-shards", min=1, help="Cut the work into this many parts.", rich_help_panel=_SCALE
        ),
    ] = 1,
    shard_index: Annotated[
        int | None,
        typer.Option(
            "--shard-index", min=0, help="Do only this part, from 0.", rich_help_panel=_SCALE
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            help="Let local processes, slurm or ray do the parts.",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    executor_options: Annotated[
        list[str] | None,
        typer.Option(
            "--executor-set",
            metavar="KEY=VALUE",
            help="Change a setting of the executor; repeatable.",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Take a new snapshot: drop what was retracted or removed, add what is new.",
            rich_help_panel=_SCALE,
        ),
    ] = False,
    retry_rejected: Annotated[
        str,
        typer.Option(
            "--retry-rejected",
            metavar="REASON",
            help="Read again what was left out for this reason; any reads all of it.",
            rich_help_panel=_SCALE,
        ),
    ] = "",
    dry_run: DryRun = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Collect figures with captions, mentions and licenses from PubMed Central."""
    from medllava.pmc.config import BUCKET_URL, DEFAULT_LICENSES, FetchConfig, read_settings
    from medllava.pmc.executors import parse_options
    from medllava.pmc.rights import check_code
    from medllava.records import Modality

    try:
        codes = tuple(check_code(code) for code in licenses or DEFAULT_LICENSES)
        chosen = tuple(Modality(name.strip().lower()) for name in modalities or ())
        spoken = tuple(_check_language(name) for name in languages or ())
        if executor is not None:
            parse_options(executor, executor_options or ())
        elif executor_options:
            raise ValueError("--executor-set needs --executor")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if shard_index is not None and shard_index >= num_shards:
        raise typer.BadParameter(
            f"--shard-index {shard_index} is not below --num-shards {num_shards}"
        )
    rarer = {"email": os.environ.get("MEDLLAVA_EMAIL", "")}
    rarer |= read_settings(settings, overrides or ())
    config = FetchConfig(
        output_dir=output_dir,
        inputs=tuple(inputs or ()),
        ids=ids,
        query=query,
        sample=sample,
        image_urls=image_urls,
        seed=seed,
        base_url=base_url or BUCKET_URL,
        limit=limit,
        licenses=codes,
        modalities=chosen,
        languages=spoken,
        panels=panels,
        split_file=split_file,
        num_shards=num_shards,
        shard_index=shard_index,
        executor=executor,
        executor_options=tuple(executor_options or ()),
        workers=workers,
        # Shards are jobs beside each other already.
        processes=min(workers, os.cpu_count() or 1) if inputs and num_shards == 1 else 1,
        retry_rejected=retry_rejected,
        refresh=refresh,
        dry_run=dry_run,
        **{
            "email": os.environ.get("MEDLLAVA_EMAIL", ""),
            **read_settings(settings, overrides or ()),
        },
    )
    console = Console("fetch-pmc", json_output=json_output, quiet=quiet, verbose=verbose)
    from medllava.pmc.fetch import fetch_figures

    with console.progress() as progress:
        summary = fetch_figures(config, progress=progress)
    for name in ("script", "nothing_kept"):
        if name in summary.details:
            console.say(str(summary.details[name]))
    console.finish(summary)


def _check_language(code: str) -> str:
    """Return a two-letter code, or `und` for captions whose language cannot be told."""
    code = code.strip().lower()
    if code != "und" and not (len(code) == 2 and code.isalpha()):
        raise ValueError(f"{code!r} is not a two-letter language code, such as en, or und")
    return code
