"""Any image-text-to-text model of transformers, to be measured as it lies.

What we train is a LLaVA and has loaders of its own (`load`). Everything else that transformers
knows under this name (Qwen-VL, Gemma, InternVL, Idefics, LLaVA-NeXT, ...) is loaded by its own
class, with its own processor and chat template; remote code is never run.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from medllava.errors import SetupError
from medllava.model.adapter import is_adapter
from medllava.model.devices import choose_device, choose_dtype
from medllava.model.import_llava_med import split_delta
from medllava.model.sources import check_keys, read_config, reading_weights

_OWN = frozenset({"llava"})
"""Loaded by `load`, in its native and its older layouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyModel:
    """A model with the processor that was saved beside it; transformers has no type for either."""

    model: Any
    processor: Any
    source: str


def is_any_model(config: Mapping[str, Any]) -> bool:
    """Tell from a checkpoint's `config.json` a model of transformers that is no LLaVA."""
    kind = config.get("model_type")
    return kind not in _OWN and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def is_other_family(checkpoint: str) -> bool:
    """Tell a checkpoint that transformers loads by a class of its own from a LLaVA in any layout.

    Raises:
        SetupError: it cannot be reached.
    """
    name, base = split_delta(checkpoint)
    return base is None and not is_adapter(name) and is_any_model(read_config(name))


def load_any_model(source: str, *, device: str = "auto", dtype: str = "auto") -> AnyModel:
    """Load a model by its own class; every weight must be there and have its place.

    Args:
        source: folder or hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `bf16`, `fp16`, `fp32` or `auto`.

    Raises:
        SetupError: the source cannot be reached, weights do not fit, it has no chat template, or
            the device is not available.
    """
    device = choose_device(device)
    with reading_weights(source, key="--ckpt"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=choose_dtype(dtype, device=device),
        )
        processor = _load_processor(source)
    model, info = loaded
    check_keys(info, source=source)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not (processor.chat_template or tokenizer.chat_template):
        raise SetupError(
            f"no processor with a chat template is saved here: {source}. Measure the instruction-"
            "tuned model, or save its processor beside it."
        )
    tokenizer.padding_side = "left"  # answers begin where prompts end
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.to(torch.device(device)).eval()
    return AnyModel(model=model, processor=processor, source=source)


def _load_processor(source: str) -> Any:  # noqa: ANN401 - transformers has no type for it
    try:
        return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
        raise SetupError(
            f"the processor of this family needs torchvision: {source}. "
            "Run pip install 'medllava[families]'."
        ) from error
