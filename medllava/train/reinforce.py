"""Stage 5: the model answers, is rewarded, and what was rewarded becomes likelier. By TRL's GRPO.

Questions enter. Each is laid out beside its own picture and, where looking is rewarded, beside
another of the same modality (`other_pictures`); several answers to each are drawn, `rewards`
tells what they are worth, and the policy gradient follows (`reinforce_trainer`).

Source: GRPO, Shao et al. 2024 (arXiv 2402.03300); DAPO, Yu et al. 2025 (arXiv 2503.14476);
Dr. GRPO, Liu et al. 2025 (arXiv 2503.20783).
"""

import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import GRPOConfig

from medllava.data.benchmarks.questions import QuestionSet, image_paths
from medllava.data.other_pictures import count_modalities
from medllava.errors import DataError, SetupError
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress
from medllava.provenance import trace_sources
from medllava.records import DataRecord, Question
from medllava.train.config import StageRunConfig
from medllava.train.recorded import RecordedTrainer, StageRun
from medllava.train.reinforce_trainer import ReinforceTrainer
from medllava.train.rewards import Showing, build_rewards
from medllava.train.settings import Settings
from medllava.train.showings import (
    find_questions,
    fingerprint_of,
    lay_out,
    question_words,
    usable_questions,
)
from medllava.train.stage_data import StageData
from medllava.train.stages import check_batch


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
            **(
                {"vllm_mode": "colocate"}
                if stage.vllm
                else {"generation_kwargs": {"suppress_tokens": [loaded.processor.image_token_id]}}
            ),
        )
        trainer = ReinforceTrainer(
            model=loaded.model,
            reward_funcs=functions,
            args=args,
            train_dataset=self._dataset(),
            processing_class=loaded.processor,
        )
        trainer.begin_records(loaded, plan)
        trainer.begin_showings(self.showings, self.ask)
        if stage.kl:
            trainer.attach_reference(self.config, self.settings, weight=stage.kl)
        return trainer

    def _dataset(self) -> Dataset:
        """Return the showings as TRL reads them: by number, pictures are opened when they are due.

        A transform would do so too, but `datasets` fingerprints one by taking apart all it refers
        to, which takes longer than many steps.
        """
        prompts = [self.ask(showing.question) for showing in self.showings]
        return Dataset.from_dict(
            {
                "row": list(range(len(prompts))),
                "prompt": [[{"role": "user", "content": prompt}] for prompt in prompts],
            }
        )

    def ask(self, question: Question) -> str:
        """Return the words of a question."""
        return question_words(question, self.asked, self.config.recipe.stage.reinforce.rewards)

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
