"""What a run computes in: as it began, as the recipe says, or as a trial on this machine shows."""

from pathlib import Path

from medllava.layout import RUN_FILE
from medllava.model.shapes import ModelShape
from medllava.recipe import Precision
from medllava.records import RunRecord
from medllava.store import read_record
from medllava.train.checkpoint import PRECISION_KEY, noted
from medllava.train.config import StageRunConfig
from medllava.train.hardware import PrecisionChoice, choose_precision
from medllava.train.ranks import Ranks
from medllava.train.settings import wants_launcher


def precision_of_run(
    config: StageRunConfig, shape: ModelShape | None, ranks: Ranks, folder: Path | None
) -> PrecisionChoice:
    """Choose what the run computes in; one that goes on keeps what it began with."""
    begun = noted(config.output_dir, PRECISION_KEY)
    if begun is None and folder:  # a run begun before the key held it
        begun = read_record(folder / RUN_FILE, RunRecord).settings.get("precision")
    if begun is not None:
        return PrecisionChoice(precision=Precision(begun), reason="as the run began")
    train = config.recipe.train
    is_sharded = ranks.world_size > 1 or wants_launcher(config.recipe)
    return choose_precision(train.precision, shape, is_sharded=is_sharded)
