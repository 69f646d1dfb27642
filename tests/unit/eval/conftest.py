"""A tiny model, a few images and a small task for the tests of this room."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_model():
    from medllava.model.parts import build_model
    from medllava.recipe import load_recipe

    return build_model(load_recipe("debug").model, seed=3)


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory) -> Path:
    from medllava.model.load import save_model

    folder = tmp_path_factory.mktemp("tiny")
    save_model(tiny_model, folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def task_file(images) -> Path:
    """Twelve questions about four images of two modalities: yes/no, choices and open ones."""
    lines = []
    for i, image in enumerate(images):
        shown = {"image": image.name, "modality": "ct" if i < 2 else "mri"}
        closed = {**shown, "answer_type": "closed"}
        lines += [
            {
                "id": f"yn{i}",
                "question": f"Is there a lesion in region {i}?",
                "answer": "yes" if i % 2 else "no",
                "category": "presence",
                **closed,
            },
            {
                "id": f"mc{i}",
                "question": "Which modality?",
                "answer": "MRI",
                "choices": ["CT", "MRI", "x-ray"],
                "category": "modality",
                **closed,
            },
            {
                "id": f"op{i}",
                **shown,
                "question": "Where is it?",
                "answer": "left lung",
                "answer_type": "open",
                "category": "place",
            },
        ]
    file = images[0].parent / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
