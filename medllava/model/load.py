"""A checkpoint to a model in memory, and back to a folder.

Reads what we train (a transformers folder), any native LLaVA from the hub, and the older LLaVA
layouts, which are imported on the fly (`import_llava_med`). Writes safetensors and processor files
that `pipeline("image-text-to-text")`, `transformers serve` and vLLM load as they lie.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import importlib.util
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from medllava.errors import SetupError
from medllava.layout import MODEL_CONFIG_FILE
from medllava.model.adapter import (
    base_of,
    has_adapter,
    is_adapter,
    merge_adapter,
    merged_state_dict,
)
from medllava.model.attention import choose_attention
from medllava.model.devices import choose_device, choose_dtype
from medllava.model.import_llava_med import import_llava, split_delta
from medllava.model.loaded import LoadedModel
from medllava.model.sources import check_keys, read_config, reading_weights, without_bars
from medllava.recipe import Attention

__all__ = ["LoadedModel", "load_model", "save_model"]

_SHARD = "5GB"
_TOWER = "model.vision_tower."
_WITH_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
_LAST = MODEL_CONFIG_FILE
"""Written last: a folder that has it is complete."""


def load_model(
    source: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    attention: Attention = Attention.AUTO,
) -> LoadedModel:
    """Load a checkpoint, ready to answer.

    Args:
        source: folder or hub id of a native LLaVA, or of a LLaVA checkpoint of the older layout;
            `DELTA+BASE` for a v1 delta and the LLaMA it is to be added to; the folder of an
            adapter, or `ADAPTER+BASE` where its model lies elsewhere.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `bf16`, `fp16`, `fp32`, or `auto`: bf16 on a GPU that has it, fp32 on the CPU.
        quantize: `4bit` or `8bit`; needs CUDA and bitsandbytes.
        attention: kernel; see `attention.choose_attention`.

    Raises:
        SetupError: the source cannot be reached or is no LLaVA, weights do not fit, or the device,
            a package or a value is not available.
    """
    device = choose_device(device)
    torch_dtype = choose_dtype(dtype, device=device)
    name = choose_attention(attention, device=device)
    delta, base = split_delta(source)
    if is_adapter(delta):
        base = base or base_of(Path(delta))
        adapted = load_model(base, device=device, dtype=dtype, attention=attention)
        model: Any = merge_adapter(adapted.model, Path(delta))
        return replace(adapted, model=model, source=source)
    config = read_config(delta)
    if base is None and is_native(config):
        return load_native(
            source, device=device, dtype=torch_dtype, attention=name, quantize=quantize
        )
    if quantize is not None:
        raise SetupError(
            f"only a native checkpoint can be quantized while it loads: {source}. "
            "Save the imported model first, then load that folder."
        )
    imported = import_llava(delta, base=base, dtype=torch_dtype, attention=name)
    model = imported.model
    model.to(device)
    return imported


def load_native(
    source: str, *, device: str, dtype: torch.dtype, attention: str, quantize: str | None = None
) -> LoadedModel:
    """Load a transformers LLaVA; every weight must be there and have its place."""
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    if quantize is not None:
        options |= {"quantization_config": _quantization(quantize, dtype), "device_map": device}
    with reading_weights(source, key="--ckpt"):
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            source, output_loading_info=True, use_safetensors=True, **options
        )
        processor = AutoProcessor.from_pretrained(source, backend="pil")
    model, info = loaded
    check_keys(info, source=source)
    if not isinstance(processor, LlavaProcessor) or processor.patch_size is None:
        raise SetupError(
            f"the processor saved here is not LLaVA's: {source}. "
            "Save the model again with its processor."
        )
    if quantize is None:
        model.to(device)
    model.eval()
    return LoadedModel(model=model, processor=processor, source=source)


def is_native(config: dict[str, Any]) -> bool:
    """Tell whether these values are those of transformers' own LLaVA."""
    return config.get("model_type") == "llava" and "vision_config" in config


def save_model(loaded: LoadedModel, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write model and processor so that transformers alone can load them.

    The files are written beside `folder` first and moved in at the end, `config.json` last. An
    adapter is written merged.

    Args:
        loaded: what to write.
        folder: made if absent; files of the same names are replaced, others stay.
        dtype: of the weights on disk; None keeps them as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        with without_bars():
            loaded.model.save_pretrained(
                temporary,
                state_dict=_exported_state(loaded.model, dtype),
                max_shard_size=_SHARD,
            )
        if dtype is not None:
            _write_dtype(temporary / _LAST, dtype)
        _forget_loading(loaded.processor.tokenizer)
        loaded.processor.save_pretrained(temporary)
        for path in sorted(temporary.iterdir(), key=lambda p: p.name == _LAST):
            path.chmod(0o644)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary)


def _forget_loading(tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Drop what loading noted, so that a run that goes on saves what a fresh one does."""
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.backend == "pil":  # the image processor's: loading gives both the same
        tokenizer.backend = tokenizer.init_kwargs["backend"] = "tokenizers"


def _exported_state(model: Any, dtype: torch.dtype | None) -> dict[str, Tensor]:  # noqa: ANN401 - a LLaVA
    """Return the tensors to write, an adapter merged, under names that every server knows.

    transformers 5 has no `vision_model` inside CLIP and SigLIP towers and reads either name; vLLM,
    SGLang and older transformers read only the name with it.
    """
    state = merged_state_dict(model) if has_adapter(model) else model.state_dict()
    has_inner = model.config.vision_config.model_type in _WITH_VISION_MODEL
    exported = {}
    for name, tensor in state.items():
        rest = name.removeprefix(_TOWER)
        if has_inner and rest != name and not rest.startswith("vision_model."):
            name = f"{_TOWER}vision_model.{rest}"
        exported[name] = tensor if dtype is None else tensor.to(dtype)
    return exported


def _write_dtype(path: Path, dtype: torch.dtype) -> None:
    """Make a saved configuration, and those of its parts, say what the weights on disk are."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for table in (values, values["text_config"], values["vision_config"]):
        table["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _quantization(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Describe 4- or 8-bit weights; encoder and projector are small and keep their precision."""
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise SetupError(
            "quantized weights need CUDA and bitsandbytes. "
            "Install medllava[quantize] on a machine with a GPU, or leave the option out."
        )
    kept = ["vision_tower", "multi_modal_projector", "lm_head"]
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    if quantize == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    raise SetupError(f"quantization {quantize!r} is not one of 4bit, 8bit.")
