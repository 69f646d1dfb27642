"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

OutputDir = Annotated[
    Path, typer.Option("--output-dir", "-o", help="Folder to write; made if absent.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe setting; repeatable."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many records.")]
Workers = Annotated[int, typer.Option("--workers", "-j", min=1, help="Parallel workers.")]
Device = Annotated[
    str, typer.Option("--device", envvar="MEDLLAVA_DEVICE", help="auto, cpu, cuda or cuda:N.")
]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Continue what an earlier run left.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the main artifact's path only.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log more; repeat for debugging.")
]
Checkpoint = Annotated[
    str,
    typer.Option(
        "--ckpt",
        envvar="MEDLLAVA_CKPT",
        help="Checkpoint folder or hub id.",
    ),
]
DEFAULT_CHECKPOINT = "microsoft/llava-med-v1.5-mistral-7b"
