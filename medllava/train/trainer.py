"""transformers' Trainer, made exact: our batches, our checkpoints, our numbers.

The whole run is laid out before it starts (`data.packing.Schedule`), so the Trainer sees one pass
of micro-batches in a fixed order; sharding, accumulation, optimizer and scheduler are its own. Ours
are the parts that learn and their rates, checkpoints that survive a kill, one record per step, and
an orderly end when the machine asks for it.
"""

import signal
import time
from collections.abc import Iterator
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
from medllava.progress import Progress
from medllava.recipe import CheckpointConfig, StageConfig
from medllava.store import write_json
from medllava.train.checkpoint import (
    clear_partial,
    partial_folder,
    seal_checkpoint,
)
from medllava.train.monitor import MetricsFile, StepMeter
from medllava.train.planning.memory_by_cause import Settings
from medllava.train.ranks import Ranks
from medllava.train.sharding import BufferKeeper, whole_weights
from medllava.train.stages import learned_tensors, learning_rate_of, part_of, rest_frozen

_WEIGHT_DECAY_FROM_RANK = 2
"""Vectors (norms, biases) are never decayed, matrices are."""


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


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trains one stage."""

    settings = Settings(
        zero_stage=0, gradient_checkpointing=False, offload=False, world_size=1, bytes_per_weight=4
    )
    ranks = Ranks()

    def __init__(
        self,
        loaded: LoadedModel,
        args: TrainingArguments,
        *,
        output_dir: Path,
        batches: Dataset[dict[str, Tensor]],
        stage: StageConfig,
        checkpoint: CheckpointConfig,
        progress: Progress,
    ) -> None:
        """Take a model whose parts are already frozen or not.

        Args:
            loaded: model to train, in place, and the processor saved with every checkpoint.
            args: made by `training_arguments`.
            output_dir: of the run.
            batches: this rank's micro-batches of the whole run.
            stage: learning rates and decay.
            checkpoint: how often, and how many are kept.
            progress: advanced at every step.
        """
        super().__init__(
            loaded.model,
            args,
            train_dataset=batches,
            data_collator=_only,
            processing_class=loaded.processor,
        )
        self.remove_callback(PrinterCallback)
        self.output_dir = output_dir
        self._batches = batches
        self._loaded = loaded
        self._module: nn.Module = loaded.model
        self._buffers_kept = BufferKeeper(loaded.model)
        self.stage = stage
        self.checkpoint = checkpoint
        self.progress = progress
        self.metrics_file: MetricsFile | None = None
        self.extra_files: dict[str, Any] = {}
        self.stop_request: StopRequest | None = None
        self.was_stopped = False
        self.held_out: MicroBatches | None = None
        self.meter = StepMeter()

    # Batches.

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the micro-batches in order; nothing shuffles or shards them again."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self._batches,
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
        self.meter.add_wait(time.perf_counter() - started)
        for sample in samples:
            self.meter.add_masked(sample.pop(MASKED))
            self.meter.add_batch(sample, lengths=sample.pop(LENGTHS))
        return samples, num_items

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the base class
        """Compute the loss with the frozen parts at rest."""
        rest_frozen(self._module)
        self._buffers_kept.restore(self._module)
        return super().compute_loss(model, *args, **kwargs)

    # Learning.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW with one learning rate per part; vectors are not decayed."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                parameter_groups(model or self._module, self.stage),
                lr=self.stage.learning_rate,
                fused=True,
            )
        return self.optimizer

    def _load_from_checkpoint(self, *_: object, **__: object) -> None:
        """Load nothing: the model was already loaded from the checkpoint, name by name."""

    # Records.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002 - as the base class
        """Write one record per step; `state.log_history` stays empty, so checkpoints stay small."""
        if "loss" not in logs:
            return
        figures = self.meter.finish_step(self.ranks)
        record = {"step": self.state.global_step, **logs, **figures}
        if not torch.isfinite(torch.tensor(logs["loss"])):
            raise RecipeError(
                f"the loss is {logs['loss']} at step {self.state.global_step}. "
                "Lower the learning rate, or look at the data of that step."
            )
        if self.metrics_file is not None:
            self.metrics_file.write(record)
        self.control = self.callback_handler.on_log(
            self.args, self.state, self.control, dict(record)
        )
        self.progress.advance()

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
        elif step % self.checkpoint.every_steps == 0 and step < last:
            self.control.should_save = True
        will_save = self.control.should_save or step == last
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self.control.should_save = False
        if will_save and self.held_out is not None:
            self._measure_held_out(self.held_out)

    _last_decided = -1

    @torch.no_grad()
    def _measure_held_out(self, batches: MicroBatches) -> None:
        """Write the mean loss over the supervised tokens of the held-out records."""
        self.model_wrapped.eval()
        loss_sum, count = 0.0, 0
        for number in range(len(batches)):
            batch = batches[number]
            del batch[LENGTHS]
            self.meter.add_masked(batch.pop(MASKED))
            count += int((batch["labels"] != IGNORED).sum())
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                outputs = self.model_wrapped(**inputs, use_cache=False, num_items_in_batch=1)
            loss_sum += float(outputs.loss)
        self.model_wrapped.train()
        loss_sum, total = self.ranks.total([loss_sum, count])
        if self.metrics_file is not None:
            record = {"step": self.state.global_step, "validation_loss": loss_sum / total}
            self.metrics_file.write(record)

    def _all_ranks_heard_stop(self) -> bool:
        """Tell whether any rank was asked to stop; every rank gets the same answer."""
        heard = self.stop_request is not None and self.stop_request.is_set
        return bool(self.ranks.total([float(heard)])[0])

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:  # noqa: ARG002 - as the base class
        """Write everything beside, then rename; a kill at any byte leaves the last good one."""
        step = self.state.global_step
        folder = partial_folder(self.output_dir, step)
        if self.args.should_save:
            clear_partial(self.output_dir)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with whole_weights(self._module, self.settings):
            if self.args.should_save:
                save_model(self._loaded, folder)
                if has_adapter(self._module):
                    save_file(learned_tensors(self._module), folder / LEARNED_FILE)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            for name, values in self.extra_files.items():
                write_json(folder / name, values)
            seal_checkpoint(self.output_dir, step, keep=self.checkpoint.keep)
        self.accelerator.wait_for_everyone()


def parameter_groups(model: nn.Module, stage: StageConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: one per part that learns, decayed or not."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty shell
        decayed = len(shape) >= _WEIGHT_DECAY_FROM_RANK
        group = groups.setdefault(
            (part.value, decayed),
            {
                "params": [],
                "lr": learning_rate_of(part, stage),
                "weight_decay": stage.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _only(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Unwrap the one micro-batch of a loader batch."""
    return samples[0]
