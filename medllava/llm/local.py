"""A language model in this process: any chat model of transformers, with or without eyes.

For a few hundred figures on the machine at hand. A server (`--base-url`) is faster for more: it
answers many requests at once.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import threading
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from medllava.errors import DataError, SetupError
from medllava.images.encode import open_address
from medllava.llm.protocol import Attempts, ChatReply, ChatRequest, RequestRefusedError


class LocalModel:
    """A `ChatModel` that runs here, one request at a time."""

    def __init__(self, folder: str, *, device: str = "auto") -> None:
        """Load a model.

        Args:
            folder: transformers folder or hub id of a model with a chat template.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            SetupError: it cannot be loaded, or has no chat template.
        """
        self.name = f"local:{folder}"
        self._lock = threading.Lock()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            config = AutoConfig.from_pretrained(folder)
            self._sees = hasattr(config, "vision_config")
            kind: Any = AutoModelForImageTextToText if self._sees else AutoModelForCausalLM
            reader: Any = AutoProcessor if self._sees else AutoTokenizer
            self._reader: Any = reader.from_pretrained(folder)
            self._model: Any = kind.from_pretrained(folder, dtype="auto").to(device).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise SetupError(
                f"cannot load the model ({error!s:.200}): {folder}. Give a transformers folder."
            ) from None
        self._tokenizer: Any = getattr(self._reader, "tokenizer", self._reader)
        if not (getattr(self._reader, "chat_template", None) or self._tokenizer.chat_template):
            raise SetupError(f"the model has no chat template: {folder}. Use a chat model.")

    def reply(self, request: ChatRequest, *, attempts: Attempts | None = None) -> ChatReply:  # noqa: ARG002 - costs nothing
        """Answer one request.

        Raises:
            RequestRefusedError: it is too long for the model, or shows an image to a blind one.
        """
        with self._lock, torch.inference_mode():
            inputs = self._inputs(request)
            num_given = inputs["input_ids"].shape[1]
            text_config = self._model.config.get_text_config()
            room = getattr(text_config, "max_position_embeddings", 1 << 30) - num_given
            if room < 1:
                raise RequestRefusedError(
                    f"request of {num_given} tokens is too long: {self.name}. Use a model that "
                    "reads more."
                )
            if request.seed is not None:
                torch.manual_seed(request.seed)
            sampling: dict[str, Any] = {"do_sample": request.temperature > 0}
            if request.temperature > 0:
                sampling["temperature"] = request.temperature
            written = self._model.generate(
                **inputs,
                max_new_tokens=min(request.max_new_tokens, room),
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                **sampling,
            )[0, num_given:]
        num_written = len(written)
        return ChatReply(
            request_id=request.request_id,
            text=self._tokenizer.decode(written, skip_special_tokens=True).strip(),
            model=self.name,
            finish_reason="length" if num_written >= request.max_new_tokens else "stop",
            input_tokens=num_given,
            output_tokens=num_written,
        )

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """Yield the answer in one piece."""
        yield self.reply(request).text

    def _inputs(self, request: ChatRequest) -> Any:  # noqa: ANN401 - transformers' own type
        messages: list[dict[str, Any]] = []
        for message in request.messages:
            if message.images and not self._sees:
                raise RequestRefusedError(f"the model cannot see images: {self.name}.")
            content: Any = message.content
            if self._sees:
                shown = [{"type": "image", "image": _open(image)} for image in message.images]
                content = [*shown, {"type": "text", "text": message.content}]
            messages.append({"role": message.role, "content": content})
        return self._reader.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)


def _open(image: str) -> Image.Image:
    try:
        return open_address(image)
    except DataError as error:
        raise RequestRefusedError(str(error)) from None
