"""What one `train` command asks for; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from medllava.privacy.findings import PrivacyMode
from medllava.recipe import DataSource, Recipe
from medllava.records import Stage

FROM_PARTS = "parts"
"""Value of `init` that builds a fresh model from the recipe's parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRunConfig:
    """One stage of one recipe on one data set."""

    recipe: Recipe
    stage: Stage
    data: str
    """Folder, file, or for the finetune stage a benchmark's name."""
    output_dir: Path
    mixture: tuple[DataSource, ...] = ()
    """Several sources; empty takes all of `data`, which else is their description."""
    image_dir: Path | None = None
    """Folder of the images; None finds it beside the data."""
    init: str = FROM_PARTS
    """Checkpoint folder, hub id, or `parts`."""
    max_steps: int | None = None
    """Stop after this many optimizer steps; the schedule is laid out for them."""
    resume: bool = True
    """False throws away what an earlier run left in `output_dir`."""
    validation_data: Path | None = None
    """Held-out records whose loss is measured at every checkpoint and at the end."""
    privacy: PrivacyMode = PrivacyMode.AUTO
    """Where a record may tell who a patient is; MASK is for `generate-instructions`."""
    command: str = ""
    """What was typed, for `run.json`."""
