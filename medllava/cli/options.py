"""Options that several commands share, declared once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

OutputDir = Annotated[
    Path,
    typer.Option(
        "--output-dir", "-o", metavar="DIR", help="Write into this folder; it is made if absent."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Start every random choice from this number.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many records.")]
Workers = Annotated[
    int, typer.Option("--workers", "-j", min=1, help="Work with this many in parallel.")
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        envvar="MEDLLAVA_DEVICE",
        help="Run on cpu, cuda, cuda:N or mps; auto takes the first GPU there is.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on from what an earlier run left.")
]
GateName = StrEnum("GateName", ["AUTO", "STOP", "REPORT", "OFF"])
Privacy = Annotated[
    GateName,
    typer.Option(
        "--privacy",
        help="Look for names in tags, pixels and texts, then stop or report, or do not look "
        "(off); auto stops for data of one's own, and does as generate-instructions was told for "
        "a folder it wrote.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the path of the main artifact.")
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="Log more; repeat it to debug."
    ),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        "--ckpt",
        metavar="CKPT",
        envvar="MEDLLAVA_CKPT",
        help="Ask this checkpoint: a folder, a GGUF file, or an id on the hub.",
    ),
]
DEFAULT_CHECKPOINT = "microsoft/llava-med-v1.5-mistral-7b"
