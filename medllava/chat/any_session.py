"""A conversation with a model of any family, through its own processor and chat template.

The whole conversation is given to the processor each time and to transformers' `generate`, which
streams: families differ too much in how an image enters for a cache that outlives a question. Our
own models have `session`, which computes every token once.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria, TextIteratorStreamer

from medllava.chat.choices import choice_probabilities, find_choices
from medllava.chat.config import Answer, Options
from medllava.chat.conversation import from_first_word
from medllava.chat.occlusion import measure_parts
from medllava.data.conversation import user_turn
from medllava.errors import DataError
from medllava.model.any_model import AnyModel
from medllava.model.sampling import Sampling
from medllava.model.sources import without_bars
from medllava.records import IMAGE_TOKEN, Turn

Shown = tuple[Image.Image, ...]


class AnySession:
    """A `Conversation` with a model in memory. Not for two threads at once."""

    def __init__(self, loaded: AnyModel, *, sampling: Sampling) -> None:
        """Begin an empty conversation; several may share one loaded model."""
        self._model, self._processor = loaded.model, loaded.processor
        self._source = loaded.source
        self._tokenizer = loaded.processor.tokenizer
        text_config = self._model.config.get_text_config()
        self._context_length = int(getattr(text_config, "max_position_embeddings", 0) or 2**31)
        self._sampling = sampling
        self._turns: list[Turn] = []
        self._images: list[Shown] = []  # of every turn
        self._last: Answer | None = None

    @property
    def turns(self) -> Sequence[Turn]:
        """Everything said, in order."""
        return tuple(self._turns)

    @property
    def last_answer(self) -> Answer | None:
        """Facts about the newest answer; None before the first."""
        return self._last

    def clear(self) -> None:
        """Forget turns and images."""
        self._turns, self._images, self._last = [], [], None

    def forget(self) -> None:
        """Do nothing: nothing is cached between two questions."""

    def restore(self, turns: Sequence[Turn], images: Sequence[Sequence[Image.Image]]) -> None:
        """Begin with what was said elsewhere; see `Conversation.restore`."""
        self._turns, self._images = list(turns), [tuple(shown) for shown in images]
        self._last = None

    def ask(
        self, text: str, images: Sequence[Image.Image] = (), options: Options | None = None
    ) -> Generator[str]:
        """Answer a question, yielding text as it comes; see `Conversation.ask`."""
        started = time.perf_counter()
        options = options or Options()
        sampling = options.sampling or self._sampling
        asked = [*self._turns[: options.keep], user_turn(text, num_images=len(images))]
        shown = [*self._images[: options.keep], tuple(images)]
        system = [Turn(role="system", content=options.system)] if options.system else []
        inputs = self._encode([*system, *asked], [*((),) * len(system), *shown])
        num_asked = int(inputs["input_ids"].shape[1])
        room = min(sampling.max_new_tokens, self._context_length - num_asked)
        if room < 1:
            raise DataError(
                f"the conversation has {num_asked:,} tokens, and the model reads "
                f"{self._context_length:,}. Begin a new one, or show fewer images."
            )
        run = _Run(self._model, self._tokenizer, inputs, self._arguments(sampling, room))
        torch.manual_seed(sampling.seed + len(asked) - 1)
        said, first, reason = "", 0.0, "interrupted"
        try:
            for piece in from_first_word(run.pieces()):
                first = first or time.perf_counter() - started
                said += piece
                yield piece
            reason = "length" if run.num_new >= room and not run.is_ended else "stop"
        finally:
            run.stop()
            if said or reason != "interrupted":
                answer = said.replace(IMAGE_TOKEN, "").strip()
                self._turns = [*asked, Turn(role="assistant", content=answer)]
                self._images = [*shown, ()]
            self._last = Answer(
                text=said.strip(),
                finish_reason=reason,
                input_tokens=num_asked,
                output_tokens=run.num_new,
                first_token_seconds=first,
                seconds=time.perf_counter() - started,
                choices=run.choices(find_choices(text)),
            )

    def look(self, images: Sequence[Image.Image], number: int = 0) -> list[list[float]]:
        """Return which parts of a picture the last answer depends on; see `Conversation.look`."""
        if len(self._turns) < 2 or not self._turns[-1].content:
            raise DataError("nothing was answered yet.")
        if number >= len(images) or len(images) != len(self._images[-2]):
            raise DataError("the last question showed no such picture.")
        ids = self._tokenizer(self._turns[-1].content, add_special_tokens=False)["input_ids"]

        def score(picture: Image.Image) -> float:
            last = [*self._images[-2]]
            last[number] = picture
            return self._log_probability([*self._images[:-2], tuple(last)], ids)

        return measure_parts(score, images[number])

    @torch.inference_mode()
    def _log_probability(self, shown: Sequence[Shown], ids: Sequence[int]) -> float:
        """Return the log probability of the last answer's tokens, given all before them."""
        inputs = self._encode(self._turns[:-1], shown)
        length = inputs["input_ids"].shape[1]
        answer = torch.tensor([list(ids)], device=inputs["input_ids"].device)
        for name, value in inputs.items():  # whatever goes along the tokens grows with them
            if value.shape == (1, length):
                tail = torch.ones_like(answer) if name == "attention_mask" else answer * 0
                tail = answer if name == "input_ids" else tail
                inputs[name] = torch.cat([value, tail.to(value.dtype)], dim=1)
        logits = self._model(**inputs).logits[0, length - 1 : -1].float()
        return float(logits.log_softmax(-1).gather(1, answer[0][:, None]).sum())

    def _encode(self, turns: Sequence[Turn], shown: Sequence[Shown]) -> Any:  # noqa: ANN401 - the processor's batch
        messages = [
            {"role": turn.role, "content": _content(turn, images)}
            for turn, images in zip(turns, shown, strict=True)
        ]
        try:
            with without_bars():
                inputs = self._processor.apply_chat_template(
                    [messages],
                    tokenize=True,
                    add_generation_prompt=True,
                    return_dict=True,
                    return_tensors="pt",
                )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"the processor of {self._source} cannot take this conversation ({reason:.160}). "
                "Begin a new one, with fewer images or without a system prompt."
            ) from error
        return inputs.to(self._model.device, self._model.dtype)

    def _arguments(self, sampling: Sampling, room: int) -> dict[str, Any]:
        """Return what `generate` is told; what is unset follows the checkpoint."""
        given: dict[str, Any] = {
            "max_new_tokens": room,
            "pad_token_id": self._tokenizer.pad_token_id,
        }
        if sampling.temperature:
            given |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
            }
            if sampling.top_k is not None:
                given["top_k"] = sampling.top_k
        else:
            given |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.repetition_penalty is not None:
            given["repetition_penalty"] = sampling.repetition_penalty
        if sampling.stop:
            given |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return given


class _Run:
    """One `generate` in a thread of its own, which can be stopped between two tokens."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' own, as the next two
        tokenizer: Any,  # noqa: ANN401
        inputs: Any,  # noqa: ANN401
        arguments: dict[str, Any],
    ) -> None:
        """Prepare; `pieces` begins."""
        self.num_new = 0
        self.is_ended = False
        """The model ended its answer itself."""
        self._tokenizer = tokenizer
        self._length = int(inputs["input_ids"].shape[1])
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._first = _FirstLogits()
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        stated = model.generation_config.eos_token_id
        ends = {*stated} if isinstance(stated, list | tuple) else {stated}

        def work() -> None:
            try:
                with torch.inference_mode():
                    output = model.generate(
                        **inputs,
                        **arguments,
                        streamer=self._streamer,
                        stopping_criteria=[_Stopped(self._stopped)],
                        logits_processor=[self._first],
                    )
                new = output[0, self._length :].tolist()
                self.num_new = len(new)
                self.is_ended = bool(new) and new[-1] in ends
            except BaseException as error:  # noqa: BLE001 - told in the thread that waits
                self._error = error
            finally:
                self._streamer.end()

        self._thread = threading.Thread(target=work, daemon=True)

    def pieces(self) -> Generator[str]:
        """Yield text as it comes.

        Raises:
            BaseException: what `generate` raised, such as memory that is full.
        """
        self._thread.start()
        yield from self._streamer
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End after the token that is being computed, and wait for it."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def choices(self, found: Sequence[str]) -> dict[str, float]:
        """Return the probability that the answer begins with each choice."""
        if self._first.logits is None:
            return {}
        return choice_probabilities(self._first.logits, found, self._tokenizer)


class _FirstLogits(LogitsProcessor):
    """Keeps the logits (V,) of the first token and changes nothing."""

    logits: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002 - transformers' types
        if self.logits is None:
            self.logits = scores[0].float()
        return scores


class _Stopped(StoppingCriteria):
    """Ends an answer when somebody says so."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]  # noqa: ANN401, ARG002
        return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device)


def _content(turn: Turn, images: Shown) -> list[dict[str, Any]]:
    text = turn.content.replace(IMAGE_TOKEN, "").strip()
    shown = [{"type": "image", "image": image} for image in images]
    return [*shown, {"type": "text", "text": text}]
