"""Does an exported file answer as transformers does? Asked before the file is kept.

The same pictures and prompts go to the checkpoint in transformers and to what was exported, both
decode greedily, and token ids are compared: those of the prompts, which go through the template in
the file, and those of the answers.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medllava.data.conversation import render_prompt, user_turn
from medllava.data.pixels import PixelReader
from medllava.hub.export.engine import LlamaCpp
from medllava.hub.export.results import Parity
from medllava.llm.llama_server import llama_server
from medllava.model.loaded import LoadedModel
from medllava.records import Turn

_QUESTIONS = (
    "What kind of image is this?",
    "Describe the picture in one sentence.",
    "Is there an abnormality? Answer yes or no.",
    "Which part of the body is shown?",
)
_NUM_PICTURES = (1, 1, 1, 1, 2, 0)
"""Of the prompts in turn: most show one picture, some two or none."""
_TIE = 0.1
"""Nats between two tokens that rounding may swap: llama.cpp's activations are tables of 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing to ask both engines."""

    pictures: tuple[Image.Image, ...]
    """RGB, square, at the encoder's size: both engines then see the same pixels."""
    question: str

    @property
    def turns(self) -> list[Turn]:
        """The prompt as the conversation that it opens."""
        return [user_turn(self.question, num_images=len(self.pictures))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one engine made of one prompt."""

    asked: list[int]
    """Token ids of the prompt, one image token for each feature of a picture."""
    said: list[int]
    """Token ids of the answer; the one that ends it may be left out."""
    likely: list[dict[int, float]]
    """Per token of the answer: log probability by token id, of the likeliest; empty: not told."""


def make_prompts(processor: Any, *, count: int, seed: int = 0) -> list[Prompt]:  # noqa: ANN401 - any processor
    """Return prompts over smooth and noisy pictures, always the same for one seed."""
    random = np.random.default_rng(seed)
    reader = PixelReader(processor.image_processor)
    prompts = []
    for number in range(count):
        pictures = []
        for _ in range(_NUM_PICTURES[number % len(_NUM_PICTURES)]):
            coarse = random.integers(0, 256, (int(random.integers(2, 9)),) * 2 + (3,), np.uint8)
            picture = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
            pictures.append(reader.show(picture))
        question = f"{_QUESTIONS[number % len(_QUESTIONS)]} ({number})"
        prompts.append(Prompt(pictures=tuple(pictures), question=question))
    return prompts


class Reference:
    """The answers of the checkpoint in transformers, asked once for all that is exported."""

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Prompt], *, max_tokens: int) -> None:
        """Ask the model in float32."""
        self.prompts = prompts
        self.max_tokens = max_tokens
        self._image_token_id = int(loaded.processor.image_token_id)
        self._ends = _end_ids(loaded)
        started = time.perf_counter()
        self.answers = _ask_transformers(loaded, prompts, max_tokens=max_tokens)
        self.tokens_per_second = _count(self.answers) / (time.perf_counter() - started)

    def compare(
        self, model: Path, vision: Path, *, threads: int = 1, exact: bool = False
    ) -> Parity:
        """Ask llama.cpp the same.

        Args:
            model: the language model's GGUF file.
            vision: the picture part's.
            threads: of the server.
            exact: keep keys and values in float32, to compare files and not caches.

        Raises:
            SetupError: the server's package is missing, or cannot load the files.
            RemoteError: the server gave no answer.
        """
        longest = max(len(answer.asked) for answer in self.answers) + self.max_tokens
        with llama_server(
            model, vision=vision, threads=threads, context=longest + 64, exact=exact
        ) as address:
            engine = LlamaCpp(address, image_token_id=self._image_token_id)
            asked = [
                engine.prompt_ids(prompt.turns, like=answer.asked)
                for prompt, answer in zip(self.prompts, self.answers, strict=True)
            ]
            started = time.perf_counter()
            replies = [
                engine.answer(prompt.turns, prompt.pictures, max_tokens=self.max_tokens)
                for prompt in self.prompts
            ]
            seconds = time.perf_counter() - started
            for number, reply in enumerate(replies):
                if self._cut(reply.ids) != self._cut(self.answers[number].said):
                    prompt = self.prompts[number]
                    replies[number] = engine.answer(
                        prompt.turns, prompt.pictures, max_tokens=self.max_tokens, likely=True
                    )
        answers = [
            Answer(
                # The server counts what it was given; ids are of the text between pictures.
                asked=ids if reply.num_asked == len(ids) else [],
                said=reply.ids,
                likely=reply.likely,
            )
            for ids, reply in zip(asked, replies, strict=True)
        ]
        return self._compare(answers, seconds)

    def compare_model(self, loaded: LoadedModel) -> Parity:
        """Ask another model in transformers the same."""
        started = time.perf_counter()
        answers = _ask_transformers(loaded, self.prompts, max_tokens=self.max_tokens)
        return self._compare(answers, time.perf_counter() - started)

    def _compare(self, answers: Sequence[Answer], seconds: float) -> Parity:
        pairs = list(zip(self.answers, answers, strict=True))
        same = [self._cut(ours.said) == self._cut(theirs.said) for ours, theirs in pairs]
        return Parity(
            prompts=len(pairs),
            same_text=sum(ours.asked == theirs.asked for ours, theirs in pairs),
            same_answers=sum(same),
            ties=sum(
                _is_tie(*pair) for pair, is_same in zip(pairs, same, strict=True) if not is_same
            ),
            tokens_per_second=_count(answers) / seconds,
            reference_tokens_per_second=self.tokens_per_second,
        )

    def _cut(self, ids: Sequence[int]) -> list[int]:
        """Drop the token that ends an answer, which engines report or leave out."""
        return [i for n, i in enumerate(ids) if not self._ends & set(ids[: n + 1])]


def _is_tie(ours: Answer, theirs: Answer) -> bool:
    """Tell whether two answers first part where neither engine prefers its own token by much."""
    for step, (mine, other) in enumerate(zip(ours.said, theirs.said, strict=False)):
        if mine != other:
            gaps = (_gap(ours, step, mine, other), _gap(theirs, step, other, mine))
            return max(gaps) < _TIE
    return False  # one of them ended


def _gap(answer: Answer, step: int, said: int, other: int) -> float:
    """Return by how many nats an engine prefers what it said; -inf where it did not tell."""
    found = answer.likely[step]
    return found[said] - found.get(other, -np.inf) if said in found else -np.inf


def _end_ids(loaded: LoadedModel) -> set[int]:
    ends = loaded.model.generation_config.eos_token_id  # type: ignore[union-attr]
    return set(ends if isinstance(ends, list) else [ends])


def _count(answers: Sequence[Answer]) -> int:
    return sum(len(answer.said) for answer in answers)


def _ask_transformers(
    loaded: LoadedModel, prompts: Sequence[Prompt], *, max_tokens: int
) -> list[Answer]:
    answers = []
    for prompt in prompts:
        inputs = loaded.processor(
            images=list(prompt.pictures) or None,
            text=render_prompt(loaded.processor, prompt.turns, open_reply=True),
            return_tensors="pt",
            add_special_tokens=False,
        )
        with torch.inference_mode():
            out: Any = loaded.model.generate(  # type: ignore[operator]
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        asked = inputs["input_ids"][0].tolist()
        answers.append(
            Answer(
                asked=asked,
                said=out.sequences[0, len(asked) :].tolist(),
                likely=[_likeliest(logits[0]) for logits in out.logits],
            )
        )
    return answers


def _likeliest(logits: torch.Tensor) -> dict[int, float]:
    found = logits.float().log_softmax(dim=-1).topk(min(16, len(logits)))
    return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))
