"""A projector that starts where the language model can hear it.

Features of some encoders (DINOv2 before its last norm) differ 30-fold between channels, and a fresh
projector's outputs are far larger than word embeddings. Small models recover from neither in a few
hundred steps. So the features' mean and deviation are folded into `linear_1`, and `linear_2` is
scaled until its outputs deviate as much as the word embeddings do. The module stays the native one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

_BATCH = 8
_NUM_NOISE = 16
_FLOOR = 1e-2
"""Smallest deviation of a channel that counts, as a share of the channels' mean deviation."""


@torch.no_grad()
def standardize_projector(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    images: Sequence[Image.Image],
    seed: int,
) -> None:
    """Fold the statistics of `images` into the projector of `model`, in place.

    Args:
        model: freshly built.
        processor: its own.
        images: RGB; empty takes colored noise, whose statistics are a rough stand-in.
        seed: of that noise.
    """
    features_NPE = selected_features(model, processor, images or _noise_images(seed))
    mean, deviation = _statistics(features_NPE)
    projector = model.model.multi_modal_projector
    first, second = projector.linear_1, projector.linear_2
    weight = first.weight.float() / deviation
    bias = torch.zeros(first.out_features) if first.bias is None else first.bias.float()
    first.weight.copy_(weight)
    if first.bias is not None:
        first.bias.copy_(bias - weight @ mean)
    out = projector(features_NPE.to(first.weight.dtype)).float()
    embeddings: Any = model.get_input_embeddings()
    scale = float(embeddings.weight.float().std() / out.flatten(0, 1).std())
    second.weight.mul_(scale)
    if second.bias is not None:
        second.bias.mul_(scale)


def feature_statistics(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    images: Sequence[Image.Image],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every channel that the projector is given, (E,) each.

    Args:
        model: whose vision encoder sees `images`.
        processor: its own.
        images: RGB; empty takes colored noise.
        seed: of that noise.
    """
    return _statistics(selected_features(model, processor, images or _noise_images(seed)))


def _statistics(features_NPE: Tensor) -> tuple[Tensor, Tensor]:
    flat = features_NPE.flatten(0, 1).float()
    mean, deviation = flat.mean(dim=0), flat.std(dim=0)
    return mean, deviation.clamp_min(_FLOOR * float(deviation.mean()))


@torch.no_grad()
def selected_features(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, images: Sequence[Image.Image]
) -> Tensor:
    """Return what the projector is given for `images`, (N, P, E)."""
    inner = model.model
    captured: list[Tensor] = []
    hook = inner.multi_modal_projector.register_forward_pre_hook(
        lambda _, inputs: captured.append(inputs[0])
    )
    try:
        for start in range(0, len(images), _BATCH):
            batch = list(images[start : start + _BATCH])
            pixels = processor.image_processor(batch, return_tensors="pt")["pixel_values"]
            inner.get_image_features(pixels.to(model.device, model.dtype))
    finally:
        hook.remove()
    return torch.cat(captured)


def _noise_images(seed: int) -> list[Image.Image]:
    """Make smooth colored noise: a few random pixels each, enlarged."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(_NUM_NOISE):
        side = 3 + 3 * (index % 8)
        pixels = random.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
        images.append(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))
    return images
