"""Stage 5: the model answers, is rewarded, and what was rewarded becomes likelier. By TRL's GRPO.

Questions enter. Each is laid out beside its own picture and, where looking is rewarded, beside
another of the same modality (`other_pictures`); TRL samples several answers to each, `rewards`
tells what they are worth, and the policy gradient follows.

Source: GRPO, Shao et al. 2024 (arXiv 2402.03300); DAPO, Yu et al. 2025 (arXiv 2503.14476);
Dr. GRPO, Liu et al. 2025 (arXiv 2503.20783).
"""

import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from medllava.data.benchmarks.questions import QuestionSet, image_paths
from medllava.data.conversation import needs_special_tokens, question_text, render_prompt
from medllava.data.other_pictures import count_modalities
from medllava.errors import DataError, SetupError
from medllava.images.load import load_image
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel
from medllava.model.processor import num_image_tokens
from medllava.progress import Progress
from medllava.provenance import trace_sources
from medllava.recipe import ReinforceConfig
from medllava.records import IMAGE_TOKEN, DataRecord, Question, Turn
from medllava.train.config import FROM_PARTS, StageRunConfig
from medllava.train.monitor import MetricsFile
from medllava.train.recorded import RecordedTrainer, StageRun
from medllava.train.rewards import THINK_PROMPT, Showing, build_rewards, reply_of
from medllava.train.settings import Settings
from medllava.train.showings import find_questions, fingerprint_of, lay_out, usable_questions
from medllava.train.stage_data import StageData
from medllava.train.stages import check_batch

ANSWERS_FILE = "answers.jsonl"
"""Every answer that was given, with its step and what it was worth."""
_FIGURES = {
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "groups_without_signal",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "answers_cut",
    "score": "score",
    "score_other_picture": "score_other_picture",
}
"""TRL's names of what a step's record tells, and ours."""
_PART = "rewards/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceJob:
    """Questions, and how a run goes through them."""

    config: StageRunConfig
    settings: Settings
    asked: QuestionSet
    questions: tuple[Question, ...]
    """The usable ones."""
    files: Mapping[str, Path]
    """Of their images, by name."""
    showings: tuple[Showing, ...]
    """Of the whole run, in order."""
    num_steps: int
    fingerprint: str
    dropped: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, config: StageRunConfig, settings: Settings, progress: Progress) -> "ReinforceJob":
        """Read the questions and lay out the run.

        Raises:
            DataError: there are none about a picture, or too many cannot be used.
            RecipeError: the batch cannot be divided.
            SetupError: vLLM is asked for and not installed.
        """
        stage = config.recipe.stage.reinforce
        check_batch(config.recipe.stage, config.stage)
        if stage.vllm and importlib.util.find_spec("vllm") is None:
            raise SetupError(
                "stage.reinforce.vllm needs vllm and a GPU. Install it: pip install vllm; or set "
                "stage.reinforce.vllm=false."
            )
        asked = find_questions(config)
        usable, dropped = usable_questions(config, asked, progress)
        images = image_paths(asked, usable)
        showings, num_steps = lay_out(
            usable,
            images,
            per_step=stage.global_batch_size,
            epochs=stage.epochs,
            max_steps=config.max_steps,
            looking=stage.rewards.looking > 0,
            seed=config.recipe.train.seed,
        )
        if stage.rewards.looking and not any(showing.is_other for showing in showings):
            raise DataError(
                "no question has another picture of its modality with another answer, so looking "
                f"cannot be rewarded: {config.data}. Set stage.reinforce.rewards.looking=0."
            )
        if stage.rewards.steps and not any(question.key_steps for question in usable):
            raise DataError(
                f"no question has key_steps, so steps cannot be rewarded: {config.data}. Add them "
                "(a list of wordings per step), or set stage.reinforce.rewards.steps=0."
            )
        return cls(
            config=config,
            settings=settings,
            asked=asked,
            questions=tuple(usable),
            files=images,
            showings=tuple(showings),
            num_steps=num_steps,
            fingerprint=fingerprint_of(showings, asked.closed_prompt),
            dropped=tuple(dropped),
        )

    def gate_data(self) -> StageData:
        """Return the questions as the privacy gate reads them."""
        root = self.asked.image_dir or self.asked.file.parent
        return StageData(path=self.asked.file, image_root=root, questions=self.asked)

    def images(self) -> Collection[Path]:
        """Return the image files that are looked at."""
        return self.files.values()

    def describe_data(self) -> DataRecord:
        """Return what is asked, in counts."""
        return DataRecord(
            source=self.config.data,
            sources=trace_sources(Path(self.config.data)),
            used=len(self.questions),
            dropped=len(self.dropped),
            dropped_by_reason=dict(Counter(line["reason"] for line in self.dropped)),
            images=len(self.files),
            fingerprint=self.fingerprint,
            by_modality=count_modalities(self.questions),
        )

    def make_trainer(
        self, loaded: LoadedModel, arguments: Mapping[str, Any], plan: StageRun
    ) -> RecordedTrainer:
        """Return TRL's GRPO on these questions."""
        stage = self.config.recipe.stage.reinforce
        functions, weights = build_rewards(self.showings, stage.rewards)
        values = {
            **arguments,
            "per_device_train_batch_size": stage.micro_batch_size,
            "gradient_accumulation_steps": (
                stage.global_batch_size * stage.generations // stage.micro_batch_size
            ),
            "dataloader_num_workers": 0,
            "gradient_checkpointing": False,  # switched on in the model itself
        }
        args = GRPOConfig(
            **values,
            num_generations=stage.generations,
            max_completion_length=stage.max_new_tokens,
            temperature=stage.temperature,
            loss_type=stage.loss.value,
            scale_rewards=stage.scale_rewards.value,
            epsilon=stage.clip,
            beta=0.0,  # a reference is attached below, from where the stage starts
            reward_weights=weights,
            shuffle_dataset=False,  # the run is laid out
            use_vllm=stage.vllm,
            **({"vllm_mode": "colocate"} if stage.vllm else {}),
        )
        trainer = ReinforceTrainer(
            model=loaded.model,
            reward_funcs=functions,
            args=args,
            train_dataset=self._dataset(stage),
            processing_class=loaded.processor,
        )
        trainer.begin_records(loaded, plan)
        trainer.showings = self.showings
        if stage.kl:
            trainer.attach_reference(self.config, self.settings, weight=stage.kl)
        return trainer

    def _dataset(self, stage: ReinforceConfig) -> Dataset:
        """Return the showings as TRL reads them; a picture is opened when its turn comes."""

        def show(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            shown = [self.showings[row] for row in batch["row"]]
            return {
                "row": batch["row"],
                "prompt": [
                    [{"role": "user", "content": self.ask(showing.question, stage)}]
                    for showing in shown
                ],
                "images": [[load_image(showing.image)] for showing in shown],
            }

        return Dataset.from_dict({"row": list(range(len(self.showings)))}).with_transform(show)

    def ask(self, question: Question, stage: ReinforceConfig) -> str:
        """Return the words of a question, the same that `eval` asks with."""
        text = question_text(question, closed_prompt=self.asked.closed_prompt)
        return f"{text}\n{THINK_PROMPT}" if stage.rewards.think else text

    def measure(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Return the mean score of the first and of the last fifth of the steps."""
        measures: dict[str, float] = {}
        for name in ("score", "score_other_picture", "reward"):
            values = [r[name] for r in records if r.get(name) is not None]
            if values:
                fifth = max(1, len(values) // 5)
                measures[f"{name}_first"] = float(np.mean(values[:fifth]))
                measures[f"{name}_last"] = float(np.mean(values[-fifth:]))
        others = sum(showing.is_other for showing in self.showings)
        return {**measures, "other_pictures_shown": float(others)}

    def curves(self) -> Mapping[str, Mapping[str, str]]:
        """Return what the page draws."""
        return {
            "Reward": {
                "reward": "reward",
                "score": "score",
                "score, another picture": "score_other_picture",
            },
            "Answers": {"tokens of an answer": "answer_tokens"},
        }


class ReinforceTrainer(RecordedTrainer, GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's GRPO with our prompts, records and checkpoints."""

    showings: tuple[Showing, ...]

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - TRL's own
        """Take what TRL takes."""
        options["args"]._n_gpu = 1  # noqa: SLF001 - a process has one GPU
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self._answers: MetricsFile | None = None

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def train(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the base class
        """Train, keeping every answer."""
        path = self.plan.output_dir / ANSWERS_FILE
        resumed = kwargs.get("resume_from_checkpoint")
        done = int(Path(resumed).name.rpartition("-")[2]) if resumed else 0
        self._answers = MetricsFile(path, after_step=done)
        try:
            return super().train(*args, **kwargs)
        finally:
            self._answers.close()

    def attach_reference(
        self, config: StageRunConfig, settings: Settings, *, weight: float
    ) -> None:
        """Keep the model that the stage starts from, and weigh the distance from it.

        Raises:
            SetupError: the stage starts from bare parts, which is nothing to stay near.
        """
        from trl.trainer.utils import add_fused_lm_head  # noqa: PLC0415 - only here

        if config.init == FROM_PARTS:
            raise SetupError(
                "stage.reinforce.kl needs a checkpoint to stay near: name it with --init."
            )
        dtype = "bf16" if settings.is_half else "fp32"
        reference = load_model(config.init, device="cpu", dtype=dtype).model
        own: Any = self._loaded.model.config
        reference.set_attn_implementation(own._attn_implementation)  # noqa: SLF001 - its only name
        add_fused_lm_head(reference, temperature=self.temperature)
        self.beta = weight
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """Write the prompts as everywhere else: a model is asked as it learned and is measured."""
        processor: Any = self.processing_class
        images = [
            [part["image"] for part in messages[-1]["content"] if part["type"] == "image"]
            for messages in prompts
        ]
        ids = [prompt_ids(processor, _turns(messages)) for messages in prompts]
        shown = [image for listed in images for image in listed]
        pixels = processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
        if self.plan.settings.is_half:
            pixels = pixels.to(torch.bfloat16)
        return ids, images, {"pixel_values": pixels}

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: object,
        completions: list[Any],
        completion_ids: object,
    ) -> Any:  # noqa: ANN401 - as the base class
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        if self._answers is not None:
            for given, completion, parts in zip(inputs, completions, rewards.tolist(), strict=True):
                showing = self.showings[given["row"]]
                named = dict(zip(self.reward_func_names, parts, strict=True))
                self._answers.write(
                    {
                        "step": self.state.global_step + 1,
                        "id": showing.question.id,
                        "image": str(showing.image.name),
                        "other_picture": showing.is_other,
                        "answer": reply_of(completion),
                        **{name: value for name, value in named.items() if value == value},
                    }
                )
        return rewards

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        *args: Any,  # noqa: ANN401 - as the base class
        **kwargs: Any,  # noqa: ANN401 - as the base class
    ) -> Any:  # noqa: ANN401 - as the base class
        """Count the tokens of a forward pass, and compute TRL's loss."""
        asked, said = inputs["prompt_mask"].sum(1), inputs["completion_mask"].sum(1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        learned = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], 1)
        self._meter.add_batch(
            {
                "input_ids": mask,
                "shift_labels": learned - 1,
                "pixel_values": inputs["pixel_values"],
            },
            lengths=[int(n) for n in (asked + said).tolist()],
        )
        if self.plan.settings.is_half:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _own_figures(self) -> dict[str, float]:
        """Return the step's rewards under our names."""
        means = {name: float(np.mean(values)) for name, values in self._metrics["train"].items()}
        self._metrics["train"].clear()
        figures = {ours: means[theirs] for theirs, ours in _FIGURES.items() if theirs in means}
        for name, value in means.items():
            if name.startswith(_PART) and name.endswith("/mean") and "score" not in name:
                figures[f"reward_{name.removeprefix(_PART).removesuffix('/mean')}"] = value
        return {name: value for name, value in figures.items() if value == value}


def prompt_ids(processor: Any, turns: Sequence[Turn]) -> list[int]:  # noqa: ANN401 - any processor
    """Return the ids of a prompt with every image at its full length."""
    text = render_prompt(processor, turns, open_reply=True)
    tokenizer = processor.tokenizer
    ids = tokenizer(text, add_special_tokens=needs_special_tokens(processor, text))["input_ids"]
    image, count = processor.image_token_id, num_image_tokens(processor)
    return [i for token in ids for i in ([token] * count if token == image else [token])]


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    """Return TRL's messages as turns of ours."""
    return [
        Turn(
            role=message["role"],
            content="".join(
                f"{IMAGE_TOKEN}\n" if part["type"] == "image" else part["text"]
                for part in message["content"]
            ),
        )
        for message in messages
    ]
