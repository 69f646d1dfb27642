"""TRL's GRPO with our prompts, answers, records and checkpoints.

TRL decides what an answer's advantage is, what the loss is and when the optimizer steps. On a CPU
the answers are given and scored by `rollouts`, each prompt read once for a whole group; on a GPU
TRL generates, or vLLM does. Pixels are read once a picture, whichever way is taken.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PrinterCallback
from trl import GRPOTrainer

from medllava.data.conversation import user_turn
from medllava.data.pixels import PixelReader
from medllava.data.tokenize import encode_prompt
from medllava.errors import SetupError
from medllava.images.load import load_image
from medllava.model.decode import Decoder
from medllava.model.load import load_model
from medllava.model.processor import num_image_tokens
from medllava.records import Question
from medllava.train.config import FROM_PARTS, StageRunConfig
from medllava.train.monitor import MetricsFile
from medllava.train.recorded import RecordedTrainer
from medllava.train.rewards import Showing, reply_of
from medllava.train.rollouts import give_answers, pack_answers, score_pack, shares_prompts
from medllava.train.settings import Settings

ANSWERS_FILE = "answers.jsonl"
"""Every answer that was given, with its step and what it was worth."""
_FIGURES = {
    "reward": "reward",
    "reward_std": "reward_deviation",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "answers_cut",
    "score": "score",
    "score_other_picture": "score_other_picture",
}
"""TRL's names of what a step's record tells, and ours."""
_PART = "rewards/"
_ROW = "row"
"""Which showing an answer belongs to."""
_SAME = 1e-6
_NO_SIGNAL = "groups_without_signal"
"""Share of groups in which all answers are worth the same; TRL's own figure counts the batch."""


class ReinforceTrainer(RecordedTrainer, GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """Trains stage 5."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - TRL's own
        """Take what TRL takes."""
        options["args"]._n_gpu = 1  # noqa: SLF001 - a process has one GPU
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self._answers: MetricsFile | None = None
        self._rows: list[int] = []  # of the answers in hand

    def begin_showings(self, showings: Sequence[Showing], ask: Callable[[Question], str]) -> None:
        """Note what is shown over the whole run, and how a question is put into words."""
        self.showings = showings
        self._ask = ask
        self._reader = PixelReader(self._loaded.processor.image_processor)
        self._decoder = Decoder(self._loaded)

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

    # Answers.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer and reward, remembering which showing every answer belongs to."""
        self._rows = [given[_ROW] for given in inputs]
        if self.use_vllm:
            inputs = [{**given, "images": self._pictures(given[_ROW])} for given in inputs]
        scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return {**scored, _ROW: torch.tensor([given[_ROW] for given in inputs])}

    def _tokenize_prompts(self, _: object) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """Write the prompts as everywhere else: a model is asked as it learned and is measured."""
        processor: Any = self.processing_class
        length = num_image_tokens(processor)
        shown = [self.showings[row] for row in self._rows]
        texts = {showing.question.id: self._ask(showing.question) for showing in shown}
        ids = {
            name: encode_prompt(processor, [user_turn(text, num_images=1)], image_tokens=length)
            for name, text in texts.items()
        }
        listed = [ids[showing.question.id] for showing in shown]
        if self.use_vllm:
            return listed, [self._pictures(row) for row in self._rows], {}
        return listed, None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,  # noqa: ANN401 - as the base class
        multimodal_fields: dict[str, Any],
        num_generations: int,
        **options: Any,  # noqa: ANN401 - as the base class
    ) -> tuple[list[list[int]], Any]:
        """Answer on a CPU by our own loop, elsewhere by TRL's or vLLM's."""
        if self.use_vllm or self._decoder.device.type != "cpu":
            fields = {} if self.use_vllm else {"pixel_values": self._pixels(self._rows)}
            return super()._generate_single_turn(  # type: ignore[no-any-return]
                prompt_ids, images, {**multimodal_fields, **fields}, num_generations, **options
            )
        drawn = np.random.SeedSequence([self.args.seed, self.state.global_step])
        self._module.eval()
        answers = give_answers(
            self._decoder,
            prompt_ids[::num_generations],
            self._pixels(self._rows[::num_generations]),
            seeds=drawn.generate_state(len(prompt_ids)).tolist(),
            temperature=self.temperature,
            max_new_tokens=self.max_completion_length,
        )
        self._module.train()
        return answers, None

    def _pictures(self, row: int) -> list[Image.Image]:
        """Return the picture of a showing, as vLLM takes it."""
        return [load_image(self.showings[row].image)]

    def _pixels(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of some showings, (N, 3, H, W)."""
        pixels = self._reader.read([self.showings[row].image for row in rows])
        return pixels.to(self._decoder.device, self._decoder.model.dtype)

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: object,
        completions: list[Any],
        completion_ids: object,
    ) -> Any:  # noqa: ANN401 - as the base class
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        worth = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        groups = worth.view(-1, self.num_generations)
        is_flat = groups.amax(1) - groups.amin(1) < _SAME
        self._metrics["train"][_NO_SIGNAL].append(float(is_flat.float().mean()))
        if self._answers is not None:
            for given, completion, parts in zip(inputs, completions, rewards.tolist(), strict=True):
                showing = self.showings[given[_ROW]]
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

    # Learning.

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        *args: Any,  # noqa: ANN401 - as the base class
        **kwargs: Any,  # noqa: ANN401 - as the base class
    ) -> Any:  # noqa: ANN401 - as the base class
        """Compute TRL's loss of the answers in hand."""
        self._rows = inputs[_ROW].tolist()
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        **options: Any,  # noqa: ANN401 - as the base class
    ) -> tuple[Tensor, Any, Any]:
        """Return what the tokens of the answers in hand are worth to a model.

        By one pack of all groups where a model takes it, else by TRL's padded rows.
        """
        longest = input_ids.shape[1]
        learns = torch.is_grad_enabled()
        if not shares_prompts(self._module, longest=longest):
            if learns:
                lengths = attention_mask.sum(1).tolist()
                self._count(input_ids, lengths, attention_mask[:, -logits_to_keep:], len(input_ids))
            options = {**options, "pixel_values": self._pixels(self._rows), "num_images": None}
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        pack = pack_answers(input_ids, attention_mask, width=logits_to_keep, groups=self._rows)
        if learns:
            said = attention_mask[:, -logits_to_keep:]
            self._count(pack.inputs["input_ids"], pack.lengths, said, len(pack.firsts))
        likelihoods, entropies = score_pack(
            model,
            pack,
            self._pixels([self._rows[first] for first in pack.firsts]),
            shape=torch.Size((len(input_ids), logits_to_keep)),
            temperature=self.temperature,
        )
        return likelihoods, entropies, None

    def _count(self, ids: Tensor, lengths: Sequence[int], said: Tensor, num_images: int) -> None:
        """Tell the meter what one forward pass takes."""
        self._meter.add_batch(
            {
                "input_ids": ids,
                "shift_labels": said - 1,
                "pixel_values": torch.empty(num_images, 0),
            },
            lengths=[int(length) for length in lengths],
        )

    def _own_figures(self) -> dict[str, float]:
        """Return the step's rewards under our names."""
        means = {name: float(np.mean(values)) for name, values in self._metrics["train"].items()}
        self._metrics["train"].clear()
        kept = {**_FIGURES, _NO_SIGNAL: _NO_SIGNAL}
        figures = {ours: means[theirs] for theirs, ours in kept.items() if theirs in means}
        for name, value in means.items():
            if name.startswith(_PART) and name.endswith("/mean") and "score" not in name:
                figures[f"reward_{name.removeprefix(_PART).removesuffix('/mean')}"] = value
        return {name: value for name, value in figures.items() if value == value}
