"""What a fetch is asked to do: `FetchConfig`, free of heavy imports for the command line.

What most runs choose is an option. The rest stands in tables (`SETTINGS`), set by `--set
filter.min_pixels=224` or a TOML file with the same tables.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from medllava.recipe import read_tables
from medllava.records import Modality

BUCKET_URL = "https://pmc-oa-opendata.s3.amazonaws.com"
DEFAULT_LICENSES = ("CC0", "CC BY")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Selection, filters and limits of one figures folder.

    Exactly one source: `ids`, `query`, `sample`, `image_urls`, `inputs`, or none of them for
    everything in the newest inventory. All but the limits at the end decide what the folder holds
    and are recorded in it; a second run with other values is refused instead of mixing two sets.
    """

    output_dir: Path
    inputs: tuple[Path, ...] = ()
    """Local sources: mirror of the bucket, folders, packages, XML files."""
    ids: Path | None = None
    """File of PMCIDs, PMIDs or DOIs, one a line; `-` is stdin."""
    query: str | None = None
    """Search of PubMed Central in Entrez syntax; the license filter is added."""
    sample: int | None = None
    """Articles to draw from the inventory."""
    image_urls: Path | None = None
    """LLaVA-Med's released `llava_med_image_urls.jsonl`."""
    seed: int = 0
    """Of the sample and the split."""
    base_url: str = BUCKET_URL
    entrez_url: str = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
    """Search of PubMed Central."""
    converter_url: str = "https://pmc.ncbi.nlm.nih.gov/tools/idconv/api/v1/articles/"
    """From PMIDs and DOIs to PMCIDs."""
    email: str = ""
    """Contact sent with every request, as the archive asks; also `MEDLLAVA_EMAIL`."""
    limit: int | None = None
    """Articles, the first of the selection in order of PMCID."""
    versions: str = "latest"
    """`latest` version of each article, or `all`."""
    licenses: tuple[str, ...] = DEFAULT_LICENSES
    """Codes that may pass; `any` takes everything."""
    languages: tuple[str, ...] = ()
    """Two-letter codes of captions that may pass; empty takes all, `und` what cannot be told."""
    keep_retracted: bool = False
    """Keep retracted articles, corrections and withdrawals."""
    keep_flagged: bool = False
    """Keep figures whose rights may not be the article's."""
    keep_supplements: bool = False
    """Keep supplementary figures and those of reviews and author responses."""
    captions_only: bool = False
    """Read no images."""
    mentions: bool = True
    """Look for the sentences that cite each figure; without, XML is read about twice as fast."""
    modalities: tuple[Modality, ...] = ()
    """Keep only these; empty keeps all."""
    panels: Literal["keep", "split", "drop"] = "keep"
    """Figures of several panels: `keep` them whole, `split` them into panels beside the whole, or
    `drop` those that look like several."""
    classifier: str = ""
    """`module:function` that names the modality of an image; empty goes by words only."""
    min_caption_words: int = 5
    """Shorter captions are left out."""
    max_caption_words: int = 400
    """Longer captions are left out."""
    min_pixels: int = 112
    """Of the shorter side, in pixels."""
    max_pixels: int = 80_000_000
    """Width times height an image may decode to; more is refused as a decompression bomb."""
    deduplicate: bool = True
    """Drop exact and near duplicates of an earlier figure's images."""
    validation_fraction: float = 0.01
    """Share of the articles, drawn by a seeded hash of the PMCID."""
    test_fraction: float = 0.02
    """Share of the articles, drawn by the same hash."""
    split_file: Path | None = None
    """CSV or JSONL of `pmcid,split`; goes before the fractions, and `exclude` drops the article."""
    webdataset: bool = False
    """Also write tar shards for training that streams."""
    num_shards: int = 1
    shard_index: int | None = None
    """Only this shard; None runs all of them."""
    executor: str | None = None
    """`local`, `slurm` or `ray` run the shards, each as a command of its own."""
    executor_options: tuple[str, ...] = ()
    """`key=value` for the executor, such as `partition=cpu`."""
    retry_seconds: float = 0.5
    """First pause before a request is repeated; doubles each time."""
    timeout_seconds: float = 30.0
    """Without a byte from a server."""
    workers: int = 16
    """Connections of one process; also its threads."""
    processes: int = field(default=1, compare=False)  # of the machine, not of what is asked for
    """Processes that read local files beside each other. A program that asks for more than one must
    bear to be started anew, with `if __name__ == "__main__":`; the command line does so itself."""
    max_bytes: int | None = None
    """Stop after fetching this much; the next run goes on."""
    give_up_after: int = 0
    """Runs without an answer after which an article counts as rejected; 0 asks for ever."""
    retry_rejected: str = ""
    """Read again what was left out for this reason; `any` for every reason."""
    refresh: bool = False
    """Take a new snapshot, drop what was retracted or removed since, fetch what changed."""
    dry_run: bool = False
    """Estimate only."""


SETTINGS: dict[str, tuple[str, ...]] = {
    "filter": (
        *("captions_only", "mentions", "min_pixels", "max_pixels", "min_caption_words"),
        *("max_caption_words", "deduplicate", "keep_flagged", "keep_retracted", "keep_supplements"),
        *("classifier", "versions"),
    ),
    "split": ("test_fraction", "validation_fraction"),
    "transfer": (
        *("max_bytes", "email", "retry_seconds", "timeout_seconds", "give_up_after"),
        *("entrez_url", "converter_url"),
    ),
    "output": ("webdataset",),
}
"""Fields of `FetchConfig` that are set by `--set TABLE.KEY=VALUE` or a TOML file, by table."""
_OPTIONS = {
    "panels": "--panels",
    "output_dir": "--output-dir",
    "inputs": "--input",
    "ids": "--ids",
    "query": "--query",
    "sample": "--sample",
    "image_urls": "--from-llava-med-urls",
    "limit": "--limit",
    "licenses": "--license",
    "modalities": "--modality",
    "languages": "--language",
    "split_file": "--split-file",
    "seed": "--seed",
    "workers": "--workers",
    "num_shards": "--num-shards",
}
"""Options of the command line by field, in so far as a job needs them."""


def read_settings(path: Path | None, overrides: Iterable[str]) -> dict[str, Any]:
    """Return fields of `FetchConfig` from a TOML file and `--set` values.

    Raises:
        RecipeError: a table or key that does not exist, or a value of another type.
    """
    hints = get_type_hints(FetchConfig)
    tables = {table: {name: hints[name] for name in names} for table, names in SETTINGS.items()}
    return read_tables(path, overrides, tables=tables)


def to_arguments(config: FetchConfig) -> list[str]:
    """Return the arguments that mean this configuration, paths absolute.

    An address with a password is left out: it belongs into `MEDLLAVA_PMC_URL`.
    """
    arguments: list[str] = []
    defaults = {one.name: one.default for one in fields(FetchConfig)}
    for name, option in _OPTIONS.items():
        value = getattr(config, name)
        if value == defaults[name]:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            arguments += [option, str(part.resolve() if isinstance(part, Path) else part)]
    if config.base_url != BUCKET_URL and "@" not in config.base_url:
        arguments += ["--base-url", config.base_url]
    for table, names in SETTINGS.items():
        for name in names:
            value = getattr(config, name)
            if value != defaults[name]:
                # JSON's numbers, strings and booleans are TOML's too.
                arguments += ["--set", f"{table}.{name}={json.dumps(value)}"]
    return arguments
