"""A picture drowned in noise, as diffusion does it: what it shows can then only be guessed."""

import numpy as np
from PIL import Image

_STEPS = 1000
_FIRST, _LAST = 1e-4, 0.02
"""Noise of the first and last step. Source: DDPM, Ho et al. 2020 (arXiv 2006.11239)."""


def add_diffusion_noise(picture: Image.Image, *, step: int, seed: int) -> Image.Image:
    """Return the RGB picture after so many of 1,000 steps of noise; the same for the same seed.

    Args:
        picture: RGB.
        step: 0 leaves it, 1,000 leaves nothing of it.
        seed: of the noise.
    """
    kept = np.prod(1 - np.linspace(_FIRST, _LAST, _STEPS)[:step])
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 127.5 - 1
    noise = np.random.default_rng(seed).standard_normal(pixels.shape)
    mixed = np.sqrt(kept) * pixels + np.sqrt(1 - kept) * noise
    return Image.fromarray(((mixed + 1) * 127.5).round().clip(0, 255).astype(np.uint8))
