"""Stage 4: of two replies to the same prompt, the better one is made likelier. By TRL's DPO.

The reference is the model that the stage starts from. Its log-probabilities of all replies are
computed once, before the first step, and kept in `reference.safetensors`: no second model is held,
with an adapter or without, and a run that goes on has the reference it began with.

Source: DPO, Rafailov et al. 2023 (arXiv 2305.18290); its relatives as TRL implements them.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from medllava.data.sources import image_root
from medllava.errors import DataError, RecipeError
from medllava.layout import METRICS_FILE
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress
from medllava.provenance import trace_sources
from medllava.records import DataRecord
from medllava.store import atomic_path
from medllava.train import prepare
from medllava.train.config import StageRunConfig
from medllava.train.monitor import read_metrics
from medllava.train.preference_pairs import (
    PairBatches,
    PairSet,
    lay_out_pairs,
    load_pairs,
)
from medllava.train.recorded import RecordedTrainer, StageRun
from medllava.train.stage_data import StageData, find_data
from medllava.train.stages import check_batch

REFERENCE_FILE = "reference.safetensors"
"""Log-probabilities of all replies before the first step."""
_FIGURES = {
    "rewards/accuracies": "preferred_in_batch",
    "rewards/margins": "margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "log_likelihood_chosen",
    "logps/rejected": "log_likelihood_rejected",
}
"""TRL's names of what a step's record tells, and ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferJob:
    """Pairs, and how a run goes through them."""

    config: StageRunConfig
    data: StageData
    pairs: PairSet
    held_out: PairSet | None
    order: tuple[int, ...]
    num_steps: int
    fingerprint: str
    dropped: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, config: StageRunConfig, loaded: LoadedModel, progress: Progress) -> "PreferJob":
        """Read the pairs and lay out the run.

        Raises:
            DataError: there are none, or too many cannot be used.
            RecipeError: the batch cannot be divided, or several sources are named.
        """
        stage = config.recipe.stage.prefer
        if config.mixture:
            raise RecipeError("stage 4 takes one source of preferences: name one --data.")
        check_batch(config.recipe.stage, config.stage)
        data = find_data(config, made_up=config.output_dir / prepare.RANDOM_FOLDER)

        def load(path: Path) -> PairSet:
            return load_pairs(
                path,
                loaded.processor,
                image_root=image_root(path, config.image_dir),
                max_length=config.recipe.data.max_length,
                max_dropped=config.recipe.data.max_dropped,
                progress=progress,
            )

        pairs = load(data.path)
        order = lay_out_pairs(
            len(pairs),
            per_step=stage.global_batch_size,
            epochs=stage.epochs,
            max_steps=config.max_steps,
            seed=config.recipe.train.seed,
        )
        return cls(
            config=config,
            data=data,
            pairs=pairs,
            held_out=load(config.validation_data) if config.validation_data else None,
            order=tuple(order),
            num_steps=len(order) // stage.global_batch_size,
            fingerprint=pairs.fingerprint,
            dropped=pairs.dropped,
        )

    def gate_data(self) -> StageData:
        """Return the pairs as the privacy gate reads them."""
        return self.data

    def images(self) -> Collection[Path]:
        """Return the image files that are learned from."""
        return {path for pair in self.pairs.pairs for path in pair.images}

    def describe_data(self) -> DataRecord:
        """Return what is learned from, in counts."""
        facts = self.pairs.facts
        return DataRecord(
            source=self.config.data,
            sources=trace_sources(Path(self.config.data)),
            used=len(self.pairs),
            dropped=len(self.dropped),
            dropped_by_reason=dict(Counter(line["reason"] for line in self.dropped)),
            tokens=self.pairs.num_tokens,
            images=len(self.images()),
            fingerprint=self.fingerprint,
            by_license=facts.get("license", {}),
            by_modality=facts.get("modality", {}),
            by_teacher=facts.get("teacher", {}),
            by_rejection=facts.get("rejected_by", {}),
        )

    def make_trainer(
        self, loaded: LoadedModel, arguments: Mapping[str, Any], plan: StageRun
    ) -> RecordedTrainer:
        """Return TRL's DPO on these pairs, with its reference at hand."""
        stage = self.config.recipe.stage.prefer
        values = {
            **arguments,
            "gradient_accumulation_steps": stage.global_batch_size // stage.micro_batch_size,
            "gradient_checkpointing": False,  # switched on in the model itself
        }
        losses = [stage.loss.value] + (["sft"] if stage.likelihood_weight else [])
        args = DPOConfig(
            **values,
            beta=stage.beta,
            loss_type=losses,
            loss_weights=[1.0, stage.likelihood_weight][: len(losses)],
            label_smoothing=stage.label_smoothing,
            max_length=None,  # pairs are cut where they are tokenized
            precompute_ref_log_probs=True,
        )
        trainer = PreferTrainer(
            model=loaded.model,
            args=args,
            train_dataset=Dataset.from_dict({"pair": list(range(len(self.pairs)))}),
            data_collator=_only,
            processing_class=loaded.processor,
        )
        trainer.begin_records(loaded, plan)
        trainer.begin_pairs(self)
        return trainer

    def measure(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Return the share of held-out pairs preferred before the first step and after the last."""
        measured = [r for r in records if "preferred" in r]
        if not measured:
            return {}
        first, last = measured[0], measured[-1]
        return {
            f"{name}_{when}": record[name]
            for when, record in (("first", first), ("last", last))
            for name in ("preferred", "preferred_by_likelihood")
        }

    def curves(self) -> Mapping[str, Mapping[str, str]]:
        """Return what the page draws."""
        return {
            "Held-out pairs preferred": {
                "more than before": "preferred",
                "outright": "preferred_by_likelihood",
            },
            "Log-likelihood": {
                "chosen": "log_likelihood_chosen",
                "rejected": "log_likelihood_rejected",
            },
            "Margin": {"margin": "margin"},
        }


class PreferTrainer(RecordedTrainer, DPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's DPO with our batches, reference, records and checkpoints."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - TRL's own
        """Take what TRL takes."""
        options["args"]._n_gpu = 1  # noqa: SLF001 - a process has one GPU
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def begin_pairs(self, job: PreferJob) -> None:
        """Lay out the batches, find the reference, and measure held-out pairs before any step."""
        stage, processor = job.config.recipe.stage.prefer, self._loaded.processor
        size = stage.micro_batch_size
        self._batches = PairBatches(job.pairs, job.order, processor, size=size)
        self._all = {"train": PairBatches(job.pairs, sorted(set(job.order)), processor, size=size)}
        if job.held_out:
            every = range(len(job.held_out))
            self._all["held_out"] = PairBatches(job.held_out, every, processor, size=size)
        path = self.plan.output_dir / REFERENCE_FILE
        self._reference = self._find_reference(path, is_begun=bool(_steps(self.plan.output_dir)))
        if not _steps(self.plan.output_dir):
            self._measure_held_out()

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    # Batches.

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        """Leave the dataset: its rows are numbers of pairs that are tokenized already."""
        return dataset

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

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a micro-batch to the device, pixels in the precision of the weights."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        if self.plan.settings.is_half and "pixel_values" in prepared:
            prepared["pixel_values"] = prepared["pixel_values"].to(torch.bfloat16)
        return prepared

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        *args: Any,  # noqa: ANN401 - as the base class
        **kwargs: Any,  # noqa: ANN401 - as the base class
    ) -> Any:  # noqa: ANN401 - as the base class
        """Count the tokens, add the reference, and compute TRL's loss."""
        lengths = inputs["attention_mask"].sum(1).tolist()
        self._meter.add_batch(
            {
                "input_ids": inputs["input_ids"],
                "shift_labels": inputs["completion_mask"] - 1,
                "pixel_values": inputs.get("pixel_values", torch.empty(0)),
            },
            lengths=[int(length) for length in lengths],
        )
        numbers = inputs.pop("pair").cpu()
        for name in ("chosen", "rejected"):
            known = self._reference[f"train.{name}"][numbers]
            inputs[f"ref_{name}_logps"] = known.to(inputs["input_ids"].device)
        return super().compute_loss(model, inputs, *args, **kwargs)

    # The reference.

    def _precompute_ref_logps(self, dataset: Dataset, *_: object) -> Dataset:
        """Leave it to `begin_pairs`: TRL would take the policy of a run that goes on for it."""
        return dataset

    def _find_reference(self, path: Path, *, is_begun: bool) -> dict[str, Tensor]:
        """Read the reference, or compute it before the first step.

        Raises:
            DataError: the run has begun and its reference is gone.
        """
        if path.is_file():
            return load_file(path)
        if is_begun:
            raise DataError(
                f"the reference of this run is gone: {path}. Start it anew with --no-resume."
            )
        found: dict[str, Tensor] = {}
        for name, batches in self._all.items():
            chosen, rejected = self._log_likelihoods(batches)
            found |= {f"{name}.chosen": chosen, f"{name}.rejected": rejected}
        with atomic_path(path) as temporary:
            save_file(found, temporary)
        return found

    @torch.no_grad()
    def _log_likelihoods(self, batches: PairBatches) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of the chosen and of the rejected reply of the pairs, (P,).

        What the batches leave out, because no step learns from it, is not a number.
        """
        self._module.eval()
        chosen = torch.full((len(batches.pairs),), torch.nan)
        rejected = chosen.clone()
        for number in range(len(batches)):
            inputs = self._prepare_inputs(batches[number])
            numbers = inputs.pop("pair").cpu()
            better, worse = self.compute_ref_log_probs(self.model, inputs)
            chosen[numbers] = better.float().cpu()
            rejected[numbers] = worse.float().cpu()
        self._module.train()
        return chosen, rejected

    # Records.

    def _measure_held_out(self) -> None:
        """Write how many held-out pairs are preferred: more than by the reference, and outright.

        Before the first step nothing is, so every pair counts as one half.
        """
        batches = self._all.get("held_out")
        if batches is None or self.plan.metrics is None:
            return
        chosen, rejected = self._log_likelihoods(batches)
        before = self._reference["held_out.chosen"] - self._reference["held_out.rejected"]
        margin = self.beta * (chosen - rejected - before)
        sizes = [
            (pair.chosen.is_reply.sum(), pair.rejected.is_reply.sum())
            for pair in batches.pairs.pairs
        ]
        lengths = torch.tensor([[float(a), float(b)] for a, b in sizes])
        by_token = chosen / lengths[:, 0] - rejected / lengths[:, 1]
        self.plan.metrics.write(
            {
                "step": self.state.global_step,
                "preferred": _share_above(margin),
                "preferred_by_likelihood": _share_above(by_token),
                "validation_loss": float(-logsigmoid(margin).mean()),
            }
        )

    def _own_figures(self) -> dict[str, float]:
        """Return the step's margins under our names."""
        means = {name: sum(v) / len(v) for name, v in self._metrics["train"].items() if v}
        self._metrics["train"].clear()
        return {ours: means[theirs] for theirs, ours in _FIGURES.items() if theirs in means}


def _share_above(values: Tensor) -> float:
    """Return the share above zero; what is zero counts as one half."""
    return float((values > 0).double().mean() + 0.5 * (values == 0).double().mean())


def _steps(output_dir: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(output_dir / METRICS_FILE) if "loss" in record]


def _only(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Unwrap the one micro-batch of a loader batch."""
    return samples[0]
