"""Answers of any image-text-to-text model, through its own processor and chat template, in batches.

Asks enter, replies leave. Unlike `engine`, which knows our own models from inside, nothing is
shared between questions about one image: families differ too much in how an image enters.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from medllava.errors import DataError, SetupError
from medllava.eval.ask.engine import ask_seed
from medllava.eval.ask.likelihood import choose
from medllava.eval.ask.predict import BLANK, Ask, Batch, blank_image
from medllava.eval.config import DecodingConfig
from medllava.images.load import load_image
from medllava.model.any_model import AnyModel
from medllava.model.sources import without_bars

_CPU_BATCH, _GPU_BATCH = 4, 16


class AnyEngine:
    """A loaded model of any family that answers asks."""

    def __init__(self, loaded: AnyModel, decoding: DecodingConfig) -> None:
        """Hold the model.

        Args:
            loaded: model and processor.
            decoding: length, temperature and batch size; draws are made one question at a time,
                so that they depend on the question alone.
        """
        self._loaded = loaded
        self._decoding = decoding
        on_gpu = loaded.model.device.type == "cuda"
        size = decoding.batch_size or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        self._batch_size = 1 if decoding.temperature else size

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies batch by batch; see `predict.Answerer`.

        Raises:
            DataError: an image cannot be read, or the processor refuses a question.
            SetupError: a batch does not fit into the memory of the device.
        """
        # Batches hold asks with equally many images and texts of about one length.
        ordered = sorted(asks, key=lambda ask: (*_kind(ask), len(ask.text)))
        batch: list[Ask] = []
        for ask in [*ordered, None]:
            is_full = len(batch) == self._batch_size
            if batch and (ask is None or is_full or _kind(batch[0]) != _kind(ask)):
                if not all(map(is_done, batch)):
                    yield list(zip(batch, self._reply(batch), strict=True))
                batch = []
            if ask is not None:
                batch.append(ask)

    @torch.inference_mode()
    def _reply(self, batch: Sequence[Ask]) -> list[str]:
        model, processor = self._loaded.model, self._loaded.processor
        try:
            with without_bars():
                inputs: Any = processor.apply_chat_template(
                    [_conversation(ask) for ask in batch],
                    tokenize=True,
                    add_generation_prompt=True,
                    return_dict=True,
                    return_tensors="pt",
                    padding=True,
                ).to(model.device, model.dtype)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"the processor of {self._loaded.source} cannot take question {batch[0].id!r} "
                f"with {len(batch[0].images)} images ({reason:.160})."
            ) from error
        if batch[0].options:
            logits = model(**inputs).logits[:, -1]
            return choose(processor.tokenizer, logits, [ask.options for ask in batch])
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None}
        if self._decoding.temperature:
            torch.manual_seed(ask_seed(batch[0]))
            drawn = {"do_sample": True, "temperature": self._decoding.temperature}
        try:
            output = model.generate(
                **inputs,
                max_new_tokens=self._decoding.max_new_tokens,
                pad_token_id=processor.tokenizer.pad_token_id,
                top_p=None,
                top_k=None,
                **drawn,
            )
        except torch.OutOfMemoryError:
            raise SetupError(
                f"{len(batch)} questions at once do not fit into memory. "
                f"Use --batch-size {max(1, len(batch) // 2)}."
            ) from None
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _kind(ask: Ask) -> tuple[int, bool]:
    """Asks of one kind can be in one batch."""
    return len(ask.images), bool(ask.options)


def _conversation(ask: Ask) -> list[dict[str, Any]]:
    images = [{"type": "image", "image": _open(image)} for image in ask.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": ask.text}]}]


def _open(image: str) -> Image.Image:
    return blank_image() if image == BLANK else load_image(Path(image)).convert("RGB")
