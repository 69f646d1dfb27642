"""transformers' Trainer, made exact: our batches, our checkpoints, our numbers.

The whole run is laid out before it starts (`data.packing.Schedule`), so the Trainer sees one pass
of micro-batches in a fixed order; sharding, accumulation, optimizer and scheduler are its own. Ours
are the parts that learn and their rates, checkpoints that survive a kill, one record per step, and
an orderly end when the machine asks for it.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from medllava.data.packing import IGNORED, LENGTHS, MASKED, MicroBatches
from medllava.errors import RecipeError
from medllava.layout import LEARNED_FILE
from medllava.model.adapter import has_adapter
from medllava.model.load import save_model
from medllava.model.loaded import LoadedModel
from medllava.model.packed_attention import with_segment_masks
from medllava.progress import Progress
from medllava.recipe import CheckpointConfig, StageConfig
from medllava.store import write_json
from medllava.train.checkpoint import (
    clear_partial,
    partial_folder,
    seal_checkpoint,
)
from medllava.train.freezing import learned_tensors, rest_frozen
from medllava.train.monitor import Arithmetic, MetricsFile, StepMeter
from medllava.train.optimizer import build_optimizer
from medllava.train.ranks import Ranks
from medllava.train.settings import Settings
from medllava.train.sharding import BufferKeeper, whole_weights


class StopRequest:
    """Turns SIGTERM, as a cluster sends before it ends a job, into a flag."""

    def __init__(self) -> None:
        """Listen."""
        self.is_set = False
        self._previous = signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True

    def close(self) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._previous)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """What a stage trains with, fixed before its first step."""

    settings: Settings
    ranks: Ranks
    output_dir: Path
    batches: Dataset[dict[str, Tensor]]
    """This rank's micro-batches of the whole run."""
    held_out: MicroBatches | None
    """This rank's share of the held-out records."""
    stage: StageConfig
    """Learning rates and decay."""
    checkpoint: CheckpointConfig
    """How often, and how many are kept."""
    arithmetic: Arithmetic | None
    """What the meter needs for MFU; None where the model's sizes are not known."""
    metrics: MetricsFile | None
    """Of rank 0."""
    extra_files: Mapping[str, Any]
    """Name to JSON values, written into every checkpoint."""
    stop_request: StopRequest
    progress: Progress
    """Advanced at every step."""


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trains one stage."""

    def __init__(self, loaded: LoadedModel, args: TrainingArguments, *, plan: "StageRun") -> None:
        """Take a model whose parts are already frozen or not.

        Args:
            loaded: model to train, in place, and the processor saved with every checkpoint.
            args: made by `training_arguments`.
            plan: everything else that is fixed before the first step.
        """
        args._n_gpu = 1  # noqa: SLF001 - a process has one GPU; more visible ones mean DataParallel
        super().__init__(
            loaded.model,
            args,
            train_dataset=plan.batches,
            data_collator=_only,
            processing_class=loaded.processor,
        )
        self.remove_callback(PrinterCallback)
        self.plan = plan
        self.was_stopped = False
        self._loaded = loaded
        self._module: nn.Module = loaded.model
        self._buffers_kept = BufferKeeper(loaded.model)
        self._meter = StepMeter(plan.arithmetic)
        self._last_decided = -1

    # Batches.

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the micro-batches in order; nothing shuffles or shards them again."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.plan.batches,
            batch_size=1,
            collate_fn=_only,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # leaves the global random state to the model
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """Fetch one step's micro-batches, counting tokens and the wait for them."""
        started = time.perf_counter()
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._meter.add_wait(time.perf_counter() - started)
        for sample in samples:
            self._meter.add_masked(sample.pop(MASKED))
            self._meter.add_batch(sample, lengths=sample.pop(LENGTHS))
        return samples, num_items

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the base class
        """Compute the loss with the frozen parts at rest."""
        rest_frozen(self._module)
        self._buffers_kept.restore(self._module)
        return super().compute_loss(model, *args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a micro-batch to the device, pixels in the precision of the weights.

        No keys and values are cached: transformers would copy them in every layer.
        """
        prepared: dict[str, Any] = super()._prepare_inputs(with_segment_masks(inputs))
        prepared["use_cache"] = False
        if self.plan.settings.is_half:
            prepared["pixel_values"] = prepared["pixel_values"].to(torch.bfloat16)
        return prepared

    # Learning.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW with one learning rate per part; vectors are not decayed."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                model or self._module, self.plan.stage, self.plan.settings
            )
        return self.optimizer

    def _load_from_checkpoint(self, *_: object, **__: object) -> None:
        """Load nothing: the model was already loaded from the checkpoint, name by name."""

    # Records.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002 - as the base class
        """Write one record per step; `state.log_history` stays empty, so checkpoints stay small."""
        if "loss" not in logs:
            return
        figures = self._meter.finish_step(self.plan.ranks)
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
        if will_save and self.plan.held_out is not None:
            self._measure_held_out(self.plan.held_out)

    @torch.no_grad()
    def _measure_held_out(self, batches: MicroBatches) -> None:
        """Write the mean loss over the supervised tokens of the held-out records."""
        self.model_wrapped.eval()
        loss_sum, count = 0.0, 0
        for number in range(len(batches)):
            batch = batches[number]
            del batch[LENGTHS]
            self._meter.add_masked(batch.pop(MASKED))
            count += int((batch["labels"] != IGNORED).sum())
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                outputs = self.model_wrapped(**inputs, num_items_in_batch=1)
            loss_sum += float(outputs.loss)
        self.model_wrapped.train()
        loss_sum, total = self.plan.ranks.total([loss_sum, count])
        if self.plan.metrics is not None:
            record = {"step": self.state.global_step, "validation_loss": loss_sum / total}
            self.plan.metrics.write(record)

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


def _only(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Unwrap the one micro-batch of a loader batch."""
    return samples[0]
