"""Does an exported file answer as transformers does? Asked before the file is kept.

The same pictures and prompts go to the model in transformers and to llama.cpp's server, both
decode greedily, and token ids are compared. Prompts go through the template in the file, so text
that would differ shows as well.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import base64
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from medllava.data.conversation import render_prompt, user_turn
from medllava.errors import RemoteError
from medllava.hub.export.results import Parity
from medllava.llm.llama_server import llama_server
from medllava.model.loaded import LoadedModel
from medllava.records import IMAGE_TOKEN

_QUESTIONS = (
    "What kind of image is this?",
    "Describe the picture in one sentence.",
    "Is there an abnormality? Answer yes or no.",
    "Which part of the body is shown?",
)
_NUM_PICTURES = (1, 1, 1, 1, 2, 0)
"""Of the prompts in turn: most show one picture, some two or none."""
_SECONDS = 600
_TIE = 0.1
"""Nats between two tokens that rounding may swap: llama.cpp's activations are tables of 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing to ask both engines."""

    pictures: tuple[Image.Image, ...]
    """RGB, square, at the encoder's size: both engines then see the same pixels."""
    question: str


def make_prompts(processor: Any, *, count: int, seed: int = 0) -> list[Prompt]:  # noqa: ANN401 - any processor
    """Return prompts over smooth and noisy pictures, always the same for one seed."""
    random = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        pictures = []
        for _ in range(_NUM_PICTURES[number % len(_NUM_PICTURES)]):
            coarse = random.integers(0, 256, (int(random.integers(2, 9)),) * 2 + (3,), np.uint8)
            picture = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
            pictures.append(square(processor, picture))
        question = f"{_QUESTIONS[number % len(_QUESTIONS)]} ({number})"
        prompts.append(Prompt(pictures=tuple(pictures), question=question))
    return prompts


def square(processor: Any, picture: Image.Image) -> Image.Image:  # noqa: ANN401 - any processor
    """Return the RGB picture as the processor pads, crops and resizes it."""
    values = processor.image_processor(
        picture, do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0]
    return Image.fromarray(np.asarray(values).round().astype(np.uint8).transpose(1, 2, 0))


class Reference:
    """The answers of transformers, asked once for all files."""

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Prompt], *, max_tokens: int) -> None:
        """Ask the model in float32."""
        self.prompts = prompts
        self.max_tokens = max_tokens
        self.inputs: list[list[int]] = []
        self.answers: list[list[int]] = []
        self.logits: list[list[torch.Tensor]] = []
        ends = loaded.model.generation_config.eos_token_id  # type: ignore[union-attr]
        self.ends = set(ends if isinstance(ends, list) else [ends])
        started, tokens = time.perf_counter(), 0
        for prompt in prompts:
            turns = [user_turn(prompt.question, num_images=len(prompt.pictures))]
            text = render_prompt(loaded.processor, turns, open_reply=True)
            inputs = loaded.processor(
                images=list(prompt.pictures) or None,
                text=text,
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
            asked = inputs["input_ids"].shape[1]
            self.inputs.append(inputs["input_ids"][0].tolist())
            self.answers.append(out.sequences[0, asked:].tolist())
            self.logits.append([logits[0].float() for logits in out.logits])
            tokens += len(self.answers[-1])
        self.tokens_per_second = tokens / (time.perf_counter() - started)

    def compare(self, model: Path, vision: Path, *, threads: int = 1) -> Parity:
        """Ask llama.cpp the same.

        Args:
            model: the language model's GGUF file.
            vision: the picture part's.
            threads: of the server.

        Raises:
            SetupError: the server's package is missing, or cannot load the files.
            RemoteError: the server gave no answer.
        """
        longest = max(len(ids) for ids in self.inputs) + self.max_tokens
        with llama_server(model, vision=vision, threads=threads, context=longest + 64) as url:
            client = httpx.Client(base_url=url, timeout=_SECONDS)
            started = time.perf_counter()
            replies = list(self._ask(client))
            seconds = time.perf_counter() - started
        same = sum(self._is_same(n, reply["tokens"]) for n, reply in enumerate(replies))
        return Parity(
            prompts=len(self.prompts),
            same_text=sum(
                reply["tokens_evaluated"] == len(ids)
                for reply, ids in zip(replies, self.inputs, strict=True)
            ),
            same_answers=same,
            ties=sum(
                self._is_tie(number, reply["tokens"])
                for number, reply in enumerate(replies)
                if not self._is_same(number, reply["tokens"])
            ),
            tokens_per_second=sum(len(reply["tokens"]) for reply in replies) / seconds,
            reference_tokens_per_second=self.tokens_per_second,
        )

    def _is_same(self, number: int, tokens: Sequence[int]) -> bool:
        return self._cut(tokens) == self._cut(self.answers[number])

    def _is_tie(self, number: int, tokens: Sequence[int]) -> bool:
        """Tell whether an answer first parts where the reference hardly prefers its own token."""
        pairs = zip(self.answers[number], tokens, strict=False)
        for step, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                logits = self.logits[number][step]
                return bool(logits[ours] - logits[theirs] < _TIE)
        return False  # one of them ended

    def _cut(self, ids: Sequence[int]) -> list[int]:
        """Drop the token that ends an answer, which engines report or leave out."""
        return [i for n, i in enumerate(ids) if not self.ends & set(ids[: n + 1])]

    def _ask(self, client: httpx.Client) -> Iterator[dict[str, Any]]:
        marker = _get(client, "GET", "/props", None).get("media_marker") or "<__media__>"
        for prompt in self.prompts:
            parts: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(p)}"}}
                for p in prompt.pictures
            ]
            parts.append({"type": "text", "text": prompt.question})
            messages = {"messages": [{"role": "user", "content": parts}]}
            text = _get(client, "POST", "/apply-template", messages)["prompt"]
            request = {
                "prompt": {
                    "prompt_string": text.replace(IMAGE_TOKEN, marker),
                    "multimodal_data": [_png(picture) for picture in prompt.pictures],
                }
                if prompt.pictures
                else text,
                "n_predict": self.max_tokens,
                "temperature": 0,
                "return_tokens": True,
                "cache_prompt": False,
            }
            yield _get(client, "POST", "/completion", request)


def _get(client: httpx.Client, method: str, path: str, body: object) -> dict[str, Any]:
    try:
        reply = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise RemoteError(f"llama.cpp's server gave no answer ({error!r}): {path}.") from None
    if reply.status_code != httpx.codes.OK:
        raise RemoteError(f"llama.cpp's server: HTTP {reply.status_code}: {reply.text[:300]}")
    values: dict[str, Any] = reply.json()
    return values


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
