"""The language model's matrices in 8-bit floats, as vLLM and transformers read them.

Every row has a scale of its own, and activations are scaled while the model runs, so no data is
needed. Encoder, projector, word embeddings and head keep their precision. Format and code are those
of `compressed-tensors`, which vLLM's makers maintain.
"""

# mypy: allow-untyped-calls
# compressed-tensors types its functions only in part

import io
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medllava.errors import DataError
from medllava.hub.export.parity import Reference
from medllava.hub.export.results import Export
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress
from medllava.provenance import weights_files

FP8 = "fp8"
_SCHEME = "FP8_DYNAMIC"
_KEPT = ["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
_ROUNDING = 2**-4
"""Of an 8-bit float with three bits behind its first, as a share of the value."""
_BF16_ROUNDING = 2**-8


def export_fp8(
    checkpoint: LoadedModel, out: Path, reference: Reference, *, progress: Progress
) -> Export:
    """Write a checkpoint with 8-bit weights and see what that costs.

    Args:
        checkpoint: loaded in float32.
        out: gets the folder `fp8`.
        reference: the checkpoint's own answers.
        progress: told of the phases.

    Raises:
        DataError: a weight that was written is not the checkpoint's, rounded; nothing is left then.
    """
    target = out / FP8
    progress.start("write fp8")
    shutil.rmtree(target, ignore_errors=True)
    with redirect_stderr(io.StringIO()):  # its bars; what goes wrong is raised
        _write(load_model(checkpoint.source, device="cpu", dtype="bf16"), target)
    progress.start("ask transformers, fp8")
    with redirect_stderr(io.StringIO()):
        rounded = load_model(str(target), device="cpu", dtype="fp32")
        parity = reference.compare_model(rounded)
    if wrong := _wrong_weight(rounded.model, checkpoint.model):
        shutil.rmtree(target)
        raise DataError(
            f"the 8-bit weights read back are not the checkpoint's: {wrong}. Nothing was kept. "
            "Export another format."
        )
    return Export(
        name=FP8,
        files=tuple(weights_files(target)),
        parity=parity,
        use=(
            f"`{FP8}/` is a whole checkpoint. vLLM runs it as it lies on GPUs that multiply 8-bit "
            "floats; transformers unpacks it:",
            "",
            f"    vllm serve {FP8}",
            f"    medllava chat image.png --ckpt {FP8}",
        ),
    )


def _write(loaded: LoadedModel, folder: Path) -> None:
    from compressed_tensors.compressors import (  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        ModelCompressor,
    )
    from compressed_tensors.quantization import (  # type: ignore[import-untyped]  # noqa: PLC0415
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    model: Any = loaded.model
    scheme = preset_name_to_scheme(_SCHEME, targets=["Linear"])
    apply_quantization_config(
        model, QuantizationConfig(config_groups={"language_model": scheme}, ignore=_KEPT)
    )
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            largest = module.weight.detach().abs().amax(dim=1, keepdim=True).float()
            scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / _largest_float8()
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    # By pattern: the names it gathers are of this process, not those that are written.
    compressor.quantization_config.ignore = _KEPT
    save_model(loaded, folder)
    compressor.update_config(str(folder))


def _largest_float8() -> float:
    return torch.finfo(torch.float8_e4m3fn).max


def _wrong_weight(found: nn.Module, wanted: nn.Module) -> str:
    """Return the name of a weight that differs by more than rounding, or nothing."""
    state = found.state_dict()
    for name, weight in wanted.state_dict().items():
        other = state.get(name)
        if other is None or other.shape != weight.shape:
            return name
        largest = weight.abs().amax(dim=-1, keepdim=True)
        share = _ROUNDING if weight.ndim == 2 and ".language_model." in f".{name}" else 0
        if bool(((other.float() - weight).abs() > (share + _BF16_ROUNDING) * largest).any()):
            return name
    return ""
