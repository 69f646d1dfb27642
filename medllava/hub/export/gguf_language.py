"""The language model of a LLaVA as one GGUF file: sizes, weights, vocabulary, chat template.

`gguf` names the tensors and writes the file; what is decided here is which architectures are
known, how rotary weights are laid out, and what a tokenizer is called. A model that llama.cpp would
run differently is refused by name.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor

from medllava.errors import SetupError
from medllava.hub.export.gguf_vocabulary import write_vocabulary
from medllava.model.loaded import LoadedModel

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""transformers' model type to llama.cpp's architecture; sizes and names agree for these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How weights are stored."""

    name: str
    matrices: Kind
    tables: Kind
    """Word embeddings and the output layer, which suffer most from few bits."""
    file_type: gguf.LlamaFileType


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision(
            name="f32", matrices=Kind.F32, tables=Kind.F32, file_type=gguf.LlamaFileType.ALL_F32
        ),
        Precision(
            name="f16", matrices=Kind.F16, tables=Kind.F16, file_type=gguf.LlamaFileType.MOSTLY_F16
        ),
        Precision(
            name="q8_0",
            matrices=Kind.Q8_0,
            tables=Kind.Q8_0,
            file_type=gguf.LlamaFileType.MOSTLY_Q8_0,
        ),
        Precision(
            name="q4_1",
            matrices=Kind.Q4_1,
            tables=Kind.Q8_0,
            file_type=gguf.LlamaFileType.MOSTLY_Q4_1,
        ),
    )
}
"""What the `gguf` package can write; k-quants need llama.cpp's own llama-quantize."""


def write_language_model(loaded: LoadedModel, path: Path, *, precision: Precision) -> None:
    """Write the language model with its tokenizer.

    Raises:
        SetupError: llama.cpp has no such architecture, rotary scaling or tokenizer.
    """
    model: Any = loaded.model
    config = model.config.text_config
    arch = _architecture(config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _write_sizes(writer, config, precision)
    embeddings = int(model.get_input_embeddings().num_embeddings)
    write_vocabulary(writer, loaded.processor, size=embeddings)
    for name, tensor in _iter_tensors(model, arch, config):
        is_table = name.startswith(("token_embd", "output."))
        add_tensor(writer, name, tensor, precision.tables if is_table else precision.matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: Any, name: str, tensor: Tensor, kind: Kind) -> None:  # noqa: ANN401 - gguf's writer is untyped
    """Add one tensor: vectors stay exact, and rows that do not fit a block take 16 bits."""
    values: NDArray[np.float32] = tensor.detach().float().numpy()
    if values.ndim == 1:
        kind = Kind.F32
    elif kind not in (Kind.F32, Kind.F16) and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Kind.F16
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _architecture(config: Any) -> gguf.MODEL_ARCH:  # noqa: ANN401 - any text configuration
    if config.model_type not in _ARCHITECTURES:
        raise SetupError(
            f"no GGUF for a {config.model_type!r} language model; these work: "
            f"{', '.join(_ARCHITECTURES)}. Serve the folder with transformers, vLLM or SGLang."
        )
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise SetupError(
            f"no GGUF for rotary scaling {rope['rope_type']!r}; only the plain form was compared. "
            "Serve the folder with transformers, vLLM or SGLang."
        )
    return _ARCHITECTURES[config.model_type]


def _write_sizes(writer: Any, config: Any, precision: Precision) -> None:  # noqa: ANN401 - untyped libraries
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # llama.cpp attends to all of the text; up to one window both do the same.
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        writer.add_context_length(min(config.max_position_embeddings, window))
    else:
        writer.add_context_length(config.max_position_embeddings)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(precision.file_type)


def _iter_tensors(
    model: Any,  # noqa: ANN401 - transformers' classes are typed in part
    arch: gguf.MODEL_ARCH,
    config: Any,  # noqa: ANN401 - as above
) -> Iterator[tuple[str, Tensor]]:
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    weights = {f"model.{k}": v for k, v in model.model.language_model.state_dict().items()}
    table = model.get_input_embeddings().weight
    if model.lm_head.weight.data_ptr() != table.data_ptr():
        weights["lm_head.weight"] = model.lm_head.weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in weights.items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise SetupError(f"GGUF has no place for the weight {key!r}. This needs a newer gguf.")
        projection = key.split(".")[-2]
        if arch is gguf.MODEL_ARCH.LLAMA and projection in heads:
            yield name, _interleave(tensor, heads[projection])
        else:
            yield name, tensor


def _interleave(tensor: Tensor, heads: int) -> Tensor:
    """Lay rotary rows pair by pair, as llama.cpp turns them; transformers turns halves.

    Args:
        tensor: (heads * D, ...) rows of a query or key projection, or its bias.
        heads: number of heads.
    """
    rows, rest = tensor.shape[0], tensor.shape[1:]
    halves = tensor.reshape(heads, 2, rows // heads // 2, *rest)
    return halves.transpose(1, 2).reshape(rows, *rest).to(torch.float32)
