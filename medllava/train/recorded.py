"""What all our trainers share: one record per step, checkpoints that survive a kill, orderly ends.

A mixin before a Trainer of transformers or TRL. The whole run is fixed in a `StageRun` before its
first step; subclasses bring batches and loss, and may measure held-out records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from medllava.data.packing import MicroBatches
from medllava.errors import RecipeError
from medllava.layout import LEARNED_FILE
from medllava.model.adapter import has_adapter
from medllava.model.load import save_model
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress
from medllava.recipe import CheckpointConfig, StageConfig
from medllava.store import write_json
from medllava.train.checkpoint import clear_partial, partial_folder, seal_checkpoint
from medllava.train.freezing import learned_tensors
from medllava.train.monitor import Arithmetic, MetricsFile, StepMeter
from medllava.train.optimizer import build_optimizer
from medllava.train.ranks import Ranks
from medllava.train.resharding import restore_optimizer
from medllava.train.settings import Settings
from medllava.train.sharding import whole_weights
from medllava.train.standardized_steps import standardize_steps
from medllava.train.stop import StopRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """What a stage trains with, fixed before its first step."""

    settings: Settings
    ranks: Ranks
    output_dir: Path
    batches: Dataset[dict[str, Tensor]]
    """This rank's micro-batches of the whole run; of TRL's stages, unused."""
    held_out: MicroBatches | None
    """This rank's share of the held-out records."""
    stage: StageConfig
    """Learning rates and decay."""
    checkpoint: CheckpointConfig
    """How often, and how many are kept."""
    feature_statistics: tuple[Tensor, Tensor] | None = None
    """Of the projector's inputs, where it is to learn as if they were standardized."""
    other_layout: Path | None = None
    """Checkpoint to go on from that is of another number of ranks; None takes the usual way."""
    arithmetic: Arithmetic | None
    """What the meter needs for MFU; None where the model's sizes are not known."""
    metrics: MetricsFile | None
    """Of rank 0."""
    extra_files: Mapping[str, Any]
    """Name to JSON values, written into every checkpoint."""
    stop_request: StopRequest
    progress: Progress
    """Advanced at every step."""


class RecordedTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Keeps the records and checkpoints of one stage; to be put before another Trainer class."""

    plan: StageRun
    was_stopped: bool

    def begin_records(self, loaded: LoadedModel, plan: StageRun) -> None:
        """Note what is fixed; called once, before the first step.

        Args:
            loaded: model that is trained, and the processor saved with every checkpoint.
            plan: everything else that is fixed before the first step.
        """
        self.plan = plan
        self.was_stopped = False
        self._loaded = loaded
        self._module: nn.Module = loaded.model
        self._meter = StepMeter(plan.arithmetic)
        self._last_decided = -1

    # Learning.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW with one learning rate per part; vectors are not decayed."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                model or self._module, self.plan.stage, self.plan.settings
            )
            if self.plan.feature_statistics is not None:
                first: Any = self._module.get_submodule("model.multi_modal_projector.linear_1")
                standardize_steps(self.optimizer, first, self.plan.feature_statistics)
        return self.optimizer

    def _load_from_checkpoint(self, *_: object, **__: object) -> None:
        """Load nothing: the model was already loaded from the checkpoint, name by name."""

    def _prepare_for_training(
        self,
        max_steps: int,
        train_dataloader: Any,  # noqa: ANN401 - as the base class
        resume_from_checkpoint: str | None,
    ) -> Any:  # noqa: ANN401 - as the base class
        """Make the optimizer; it takes up what one of other ranks remembered name by name."""
        other, prepare = self.plan.other_layout, _untyped(super()._prepare_for_training)
        if other is None:
            return prepare(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = prepare(max_steps, train_dataloader, None)
        inner, schedule = _untyped(self.optimizer), _untyped(self.lr_scheduler)
        while not hasattr(inner, "single_partition_of_fp32_groups") and hasattr(inner, "optimizer"):
            inner = inner.optimizer
        restore_optimizer(other, self._module, inner)
        schedule.load_state_dict(torch.load(other / SCHEDULER_NAME, weights_only=True))
        # A schedule sets the rates at its next step only.
        for group, rate in zip(inner.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        return prepared

    # Records.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002 - as the base class
        """Write one record per step; `state.log_history` stays empty, so checkpoints stay small."""
        if "loss" not in logs:
            return
        figures = {**self._own_figures(), **self._meter.finish_step(self.plan.ranks)}
        record = {"step": self.state.global_step, **logs, **figures}
        if not torch.isfinite(torch.tensor(logs["loss"])):
            raise RecipeError(
                f"the loss is {logs['loss']} at step {self.state.global_step}. "
                "Lower the learning rate, or look at the data of that step."
            )
        if self.plan.metrics is not None:
            self.plan.metrics.write(record)
        self.control = self.callback_handler.on_log(
            self.args, self.state, self.control, dict(record)
        )
        self.plan.progress.advance()

    def _own_figures(self) -> dict[str, float]:
        """Return what this kind of trainer adds to the record of a step."""
        return {}

    # Checkpoints.

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the base class
        """Log, and decide about a checkpoint in the same way on every rank."""
        step, last = self.state.global_step, self.state.max_steps
        self.control.should_save = False
        if step == self._last_decided:
            return
        self._last_decided = step
        if self._all_ranks_heard_stop():
            self.was_stopped = step < last
            self.control.should_training_stop = True
            self.control.should_save = self.was_stopped
        elif step % self.plan.checkpoint.every_steps == 0 and step < last:
            self.control.should_save = True
        will_save = self.control.should_save or step == last
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self.control.should_save = False
        if will_save:
            self._measure_held_out()

    def _measure_held_out(self) -> None:
        """Write what held-out records say; nothing where there are none."""

    def _all_ranks_heard_stop(self) -> bool:
        """Tell whether any rank was asked to stop; every rank gets the same answer."""
        heard = self.plan.stop_request.is_set
        return bool(self.plan.ranks.total([float(heard)])[0])

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:  # noqa: ARG002 - as the base class
        """Write everything beside, then rename; a kill at any byte leaves the last good one."""
        step = self.state.global_step
        folder = partial_folder(self.plan.output_dir, step)
        if self.args.should_save:
            clear_partial(self.plan.output_dir)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with whole_weights(self._module, self.plan.settings):
            if self.args.should_save:
                save_model(self._loaded, folder)
                if has_adapter(self._module):
                    save_file(learned_tensors(self._module), folder / LEARNED_FILE)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            for name, values in self.plan.extra_files.items():
                write_json(folder / name, values)
            seal_checkpoint(self.plan.output_dir, step, keep=self.plan.checkpoint.keep)
        self.accelerator.wait_for_everyone()


def _untyped(value: Any) -> Any:  # noqa: ANN401 - transformers is typed in part only
    return value
