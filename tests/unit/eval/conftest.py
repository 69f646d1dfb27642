"""A tiny model and a few images for the tests of this room."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_model():
    from medllava.model.parts import build_model
    from medllava.recipe import load_recipe

    return build_model(load_recipe("debug").model, seed=3)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths
