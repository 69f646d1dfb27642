"""transformers' Trainer, made exact: our batches, our checkpoints, our numbers.

The whole run is laid out before it starts (`data.packing.Schedule`), so the Trainer sees one pass
of micro-batches in a fixed order; sharding, accumulation, optimizer and scheduler are its own. What
it records and how it ends is `recorded`.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from medllava.data.packing import IGNORED, LENGTHS, MASKED
from medllava.model.loaded import LoadedModel
from medllava.model.packed_attention import with_segment_masks
from medllava.train.freezing import rest_frozen
from medllava.train.recorded import RecordedTrainer, StageRun
from medllava.train.sharding import BufferKeeper


class StageTrainer(RecordedTrainer):
    """Trains one stage."""

    def __init__(self, loaded: LoadedModel, args: TrainingArguments, *, plan: StageRun) -> None:
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
        self.begin_records(loaded, plan)
        self._buffers_kept = BufferKeeper(loaded.model)

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

    # Held-out records.

    @torch.no_grad()
    def _measure_held_out(self) -> None:
        """Write the mean loss over the supervised tokens of the held-out records."""
        batches = self.plan.held_out
        if batches is None:
            return
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


def _only(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Unwrap the one micro-batch of a loader batch."""
    return samples[0]
