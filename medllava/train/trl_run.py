"""Stages 4 and 5 from recipe to checkpoint, by TRL's trainers: what the two have in common.

A `StageRunConfig` enters, the run folder of `run.py` leaves; `prefer` and `reinforce` each bring a
`Job`: their records, how many steps those make, and their trainer.
"""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from medllava.errors import SetupError
from medllava.layout import (
    METRICS_FILE,
    RECIPE_FILE,
    RUN_FILE,
)
from medllava.model.loaded import LoadedModel
from medllava.model.packed_attention import SEGMENTED
from medllava.progress import Progress
from medllava.recipe import Precision
from medllava.records import DataRecord, RunRecord, Stage
from medllava.train import prepare
from medllava.train.arguments import argument_values
from medllava.train.checkpoint import PRECISION_KEY, check_run_key, list_checkpoints
from medllava.train.config import StageRunConfig
from medllava.train.freezing import checkpoint_activations
from medllava.train.monitor import (
    MetricsFile,
)
from medllava.train.precision import precision_of_run
from medllava.train.privacy import pass_gate
from medllava.train.ranks import Ranks
from medllava.train.recorded import RecordedTrainer, StageRun
from medllava.train.run_folder import (
    arithmetic_of,
    describe_run,
    export_run,
    find_shape,
    write_inputs,
)
from medllava.train.settings import Settings, machine_settings
from medllava.train.stage_data import StageData
from medllava.train.stop import StopRequest

_PADDED_ATTENTION = "sdpa"
"""Batches of TRL's are padded; our kernels are for packs."""
_FLASH = "flash"


class Job(Protocol):
    """What one of the two stages brings."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that is learned from, the pixels excepted."""
        ...

    @property
    def dropped(self) -> tuple[Mapping[str, str], ...]:
        """Lines of `dropped.jsonl`."""
        ...

    def gate_data(self) -> StageData:
        """Return the records as the privacy gate reads them."""
        ...

    def images(self) -> Collection[Path]:
        """Return the image files that are learned from."""
        ...

    def describe_data(self) -> DataRecord:
        """Return what is learned from, in counts."""
        ...

    def make_trainer(
        self, loaded: LoadedModel, arguments: Mapping[str, Any], plan: StageRun
    ) -> RecordedTrainer:
        """Return TRL's trainer.

        Args:
            loaded: model to train, its frozen parts frozen.
            arguments: of transformers' TrainingArguments.
            plan: everything else that is fixed; its `batches` are unused.
        """
        ...

    def measure(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Return what only this stage can tell, from the records of all steps."""
        ...

    def curves(self) -> Mapping[str, Mapping[str, str]]:
        """Return the curves of its page: title to label to name in the records."""
        ...


def train_by_trl(config: StageRunConfig, ranks: Ranks, progress: Progress) -> bool:
    """Train stage 4 or 5, or go on where an earlier run was ended.

    Returns:
        Whether it is finished; if not, the machine asked it to stop.

    Raises:
        DataError: the data is missing, or too much of it cannot be used.
        SetupError: TRL is not installed, or several ranks were asked for.
        RecipeError: the loss is not finite.
    """
    require_trl(config.stage)
    if ranks.world_size > 1 or ranks.is_launched:
        raise SetupError(
            f"stage {config.stage.value} runs in one process so far. Leave out --gpus and --nodes, "
            "and train.zero_stage and train.offload."
        )
    if config.recipe.train.threads:
        torch.set_num_threads(config.recipe.train.threads)
    checkpoints = list_checkpoints(config.output_dir)
    done, folder = checkpoints[-1] if checkpoints else (0, None)
    shape = find_shape(config)
    choice = precision_of_run(config, shape, ranks, folder)
    progress.note(f"computing in {choice.precision.value}: {choice.reason}")
    settings = machine_settings(
        config.recipe,
        config.recipe.stage[config.stage],
        world_size=1,
        has_cuda=torch.cuda.is_available(),
        is_half=choice.precision is Precision.BF16,
    )
    if settings.float8 or settings.compile or config.recipe.train.liger:
        progress.note(f"float8, compile and Liger are not used in stage {config.stage.value}")
    progress.start("load model")
    loaded = _load(config, settings, folder)
    job = _make_job(config, loaded, settings, progress)
    check_run_key(
        config.output_dir,
        {"examples": job.fingerprint, PRECISION_KEY: settings.precision.value},
    )
    pass_gate(config, job.gate_data(), job.images(), progress=progress)
    write_inputs(config, job.dropped)
    if folder:
        progress.note(f"continuing after step {done} of {job.num_steps}")
    with ExitStack() as stack:
        plan = _plan(config, ranks, settings, job, stack, done=done, progress=progress)
        arguments = argument_values(
            config.recipe,
            config.stage,
            settings,
            output_dir=config.output_dir,
            num_steps=job.num_steps,
            accumulation=1,
        )
        with _quiet():
            trainer = job.make_trainer(loaded, arguments, plan)
            progress.start(f"train {config.stage.value}", total=job.num_steps)
            progress.advance(done)
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    if trainer.was_stopped:
        return False
    export_run(
        config,
        loaded,
        _describe(config, settings, job),
        is_half=settings.is_half,
        measure=job.measure,
        more_curves=job.curves(),
    )
    return True


def require_trl(stage: Stage) -> None:
    """Make sure that the extra is there, and that it reports to nobody.

    Raises:
        SetupError: it is not.
    """
    if importlib.util.find_spec("trl") is None:
        raise SetupError(
            f"stage {stage.value} needs trl. Install medllava[rl]: pip install 'medllava[rl]'."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _load(config: StageRunConfig, settings: Settings, folder: Path | None) -> LoadedModel:
    nowhere = StageData(path=Path(config.data), image_root=Path())
    loaded = prepare.load_initial(config, settings, nowhere, resumed=folder)
    model: Any = loaded.model
    name = str(model.config._attn_implementation)  # noqa: SLF001 - its only name
    takes_packs = config.stage is Stage.REINFORCE and name == SEGMENTED
    if _FLASH not in name and not takes_packs:
        model.set_attn_implementation(_PADDED_ATTENTION)
    if torch.cuda.is_available():
        model.to("cuda")
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    return loaded


def _make_job(
    config: StageRunConfig, loaded: LoadedModel, settings: Settings, progress: Progress
) -> Job:
    if config.stage is Stage.PREFER:
        from medllava.train.prefer import PreferJob  # noqa: PLC0415 - imports TRL, seconds

        return PreferJob.of(config, loaded, progress)
    from medllava.train.reinforce import ReinforceJob  # noqa: PLC0415 - imports TRL, seconds

    return ReinforceJob.of(config, settings, progress)


def _plan(
    config: StageRunConfig,
    ranks: Ranks,
    settings: Settings,
    job: Job,
    stack: ExitStack,
    *,
    done: int,
    progress: Progress,
) -> StageRun:
    metrics = MetricsFile(config.output_dir / METRICS_FILE, after_step=done)
    stack.callback(metrics.close)
    return StageRun(
        settings=settings,
        ranks=ranks,
        output_dir=config.output_dir,
        batches=Dataset(),
        held_out=None,
        stage=config.recipe.stage[config.stage],
        checkpoint=config.recipe.checkpoint,
        arithmetic=arithmetic_of(config, find_shape(config)),
        metrics=metrics,
        extra_files={
            RECIPE_FILE: config.recipe.to_toml_values(),
            RUN_FILE: replace(_describe(config, settings, job), complete=False).to_json(),
        },
        stop_request=stack.enter_context(closing(StopRequest())),
        progress=progress,
    )


def _describe(config: StageRunConfig, settings: Settings, job: Job) -> RunRecord:
    return describe_run(config, settings, data=job.describe_data(), num_steps=job.num_steps)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TRL's notes on its own plans, and those on its use of old names, from our users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(trl|transformers)\..*")
        yield
