"""What a fetch is asked to do: `FetchConfig`, free of heavy imports for the command line."""

from dataclasses import dataclass
from pathlib import Path

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
    """Search of PubMed Central in Entrez syntax; the licence filter is added."""
    sample: int | None = None
    """Articles to draw from the inventory."""
    image_urls: Path | None = None
    """LLaVA-Med's released `llava_med_image_urls.jsonl`."""
    seed: int = 0
    """Of the sample and the split."""
    base_url: str = BUCKET_URL
    entrez_url: str = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
    converter_url: str = "https://pmc.ncbi.nlm.nih.gov/tools/idconv/api/v1/articles/"
    email: str = ""
    """Contact sent with every request, as the archive asks."""
    limit: int | None = None
    """Articles, the first of the selection in order of PMCID."""
    versions: str = "latest"
    """`latest` version of each article, or `all`."""
    licenses: tuple[str, ...] = DEFAULT_LICENSES
    """Codes that may pass; `any` takes everything."""
    keep_retracted: bool = False
    """Keep retracted articles, corrections and withdrawals."""
    keep_flagged: bool = False
    """Keep figures whose rights may not be the article's."""
    keep_supplements: bool = False
    """Keep supplementary figures and those of reviews and author responses."""
    captions_only: bool = False
    """Read no images."""
    modalities: tuple[Modality, ...] = ()
    """Keep only these; empty keeps all."""
    single_panel: bool = False
    """Drop figures that look like several panels."""
    classifier: str = ""
    """`module:function` that names the modality of an image; empty goes by words only."""
    min_caption_words: int = 5
    max_caption_words: int = 400
    min_pixels: int = 112
    """Of the shorter side, in pixels."""
    max_pixels: int = 80_000_000
    """Width times height an image may decode to; more is refused as a decompression bomb."""
    deduplicate: bool = True
    """Drop exact and near duplicates of an earlier figure's images."""
    validation_fraction: float = 0.01
    test_fraction: float = 0.02
    """Shares of the articles, drawn by a seeded hash of the PMCID."""
    split_file: Path | None = None
    """CSV or JSONL of `pmcid,split`; goes before the fractions, and `exclude` drops the article."""
    webdataset: bool = False
    """Also write tar shards for training that streams."""
    num_shards: int = 1
    shard_index: int | None = None
    """Only this shard; None runs all of them."""
    executor: str | None = None
    """`local`, `slurm` or `ray` hand the shards to datatrove."""
    executor_options: tuple[str, ...] = ()
    """`key=value` for the executor, such as `partition=cpu`."""
    retry_seconds: float = 0.5
    """First pause before a request is repeated; doubles each time."""
    timeout_seconds: float = 30.0
    """Without a byte from a server."""
    workers: int = 16
    """Connections of one process; also its threads."""
    max_bytes: int | None = None
    """Stop after fetching this much; the next run goes on."""
    refresh: bool = False
    """Take a new snapshot, drop what was retracted or removed since, fetch what changed."""
    dry_run: bool = False
    """Estimate only."""
