"""Vision encoders: which kinds fit a LLaVA, and another image size than they were trained at.

The grid of learned positions is resampled once, when the model is built, and the new size is
written into the configuration. So the saved model is native at its size and nothing has to ask for
interpolation at run time.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import copy

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from medllava.errors import SetupError

SUPPORTED_ENCODERS = (
    "clip_vision_model",
    "siglip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "vit",
)
_NO_CLASS_TOKEN = ("siglip_vision_model",)


def check_encoder(encoder: PreTrainedModel, *, source: str) -> None:
    """Stop if the encoder cannot be the tower of a LLaVA.

    Raises:
        SetupError: its type is none of `SUPPORTED_ENCODERS`.
    """
    model_type = encoder.config.model_type
    if model_type not in SUPPORTED_ENCODERS:
        raise SetupError(
            f"a {model_type!r} model cannot be the vision encoder: {source}. "
            f"Use one of {', '.join(SUPPORTED_ENCODERS)}."
        )


def num_prefix_tokens(encoder: PreTrainedModel) -> int:
    """Return how many tokens the encoder puts before its patches: class token, registers."""
    if encoder.config.model_type in _NO_CLASS_TOKEN:
        return 0
    return 1 + int(getattr(encoder.config, "num_register_tokens", 0))


def resize_encoder(encoder: PreTrainedModel, *, image_size: int) -> PreTrainedModel:
    """Return the encoder for square images of `image_size` pixels; 0 keeps its own size.

    Raises:
        SetupError: the size is no multiple of the patch size.
    """
    config = encoder.config
    if image_size in (0, config.image_size):
        return encoder
    if image_size % config.patch_size:
        raise SetupError(
            f"image_size {image_size} is no multiple of the patch size {config.patch_size}: "
            f"model.vision_encoder.image_size. Use {image_size // config.patch_size} or "
            f"{image_size // config.patch_size + 1} patches per side."
        )
    new_config = copy.deepcopy(config)
    new_config.image_size = image_size
    resized: PreTrainedModel = AutoModel.from_config(new_config, dtype=encoder.dtype)
    state = encoder.state_dict()
    side = image_size // config.patch_size
    for name, wanted in resized.state_dict().items():
        if wanted.shape != state[name].shape:
            state[name] = resize_positions(
                state[name], side=side, num_prefix=wanted.shape[-2] - side * side
            )
    resized.load_state_dict(state, strict=True)
    return resized


def resize_positions(positions: Tensor, *, side: int, num_prefix: int) -> Tensor:
    """Resample a square grid of position embeddings bicubically, in float32.

    Args:
        positions: (..., prefix + old side squared, E), prefix tokens first.
        side: new patches per side.
        num_prefix: leading positions that belong to no patch and stay as they are.

    Returns:
        (..., prefix + side squared, E).
    """
    width = positions.shape[-1]
    prefix, grid = positions[..., :num_prefix, :], positions[..., num_prefix:, :]
    old = round(grid.shape[-2] ** 0.5)
    image_EHW = grid.reshape(old, old, width).permute(2, 0, 1).float()
    image_EHW = torch.nn.functional.interpolate(
        image_EHW[None], size=(side, side), mode="bicubic", align_corners=False
    )[0]
    grid = image_EHW.permute(1, 2, 0).reshape(*grid.shape[:-2], side * side, width)
    return torch.cat([prefix, grid.to(positions.dtype)], dim=-2)
