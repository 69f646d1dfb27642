"""Pictures as the vision encoder of a loaded model sees them, for comparing pictures.

RGB pictures enter, one vector each leaves: the mean feature of every one of 4 x 4 parts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medllava.data.pixels import PixelReader
from medllava.model.loaded import LoadedModel
from medllava.model.vision import num_prefix_tokens

_PARTS = 4
_BATCH = 16


class ImageEncoder:
    """The vision encoder of a model, asked for features of parts."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Hold the encoder; the language model is not used."""
        model: Any = loaded.model
        self._tower: Any = model.model.vision_tower
        self._reader = PixelReader(loaded.processor.image_processor)
        self._num_prefix = num_prefix_tokens(self._tower)

    def __call__(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Return (N, 16 * E) features."""
        found = [self._batch(pictures[i : i + _BATCH]) for i in range(0, len(pictures), _BATCH)]
        return np.concatenate(found) if found else np.zeros((0, 1), dtype=np.float32)

    @torch.inference_mode()
    def _batch(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        weight = next(self._tower.parameters())
        pixels = self._reader.prepare(pictures).to(weight.device, weight.dtype)
        hidden = self._tower(pixel_values=pixels).last_hidden_state[:, self._num_prefix :].float()
        side = round(hidden.shape[1] ** 0.5)
        grid = hidden.transpose(1, 2).reshape(len(pictures), -1, side, side)
        parts = torch.nn.functional.adaptive_avg_pool2d(grid, min(_PARTS, side))
        return np.asarray(parts.flatten(1).cpu(), dtype=np.float32)
