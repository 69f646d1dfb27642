"""A tiny model that has really learned something: the colour of an image, to stand by it, to sing.

It answers "Sing." without an end, so that there is an answer to stop.
"""

from pathlib import Path

import pytest
import torch
from PIL import Image

from medllava.data.conversation import render_prompt
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe
from medllava.records import Turn

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 40), "blue": (20, 40, 220)}


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (40, 30), COLOURS[colour])


def dialogue(colour: str) -> list[Turn]:
    return [
        Turn(role="user", content="<image>\nWhich colour?"),
        Turn(role="assistant", content=f"It is {colour}."),
        Turn(role="user", content="Are you sure?"),
        Turn(role="assistant", content=f"Yes, {colour}."),
    ]


def song(colour: str) -> list[Turn]:
    return [
        Turn(role="user", content="<image>\nSing."),
        Turn(role="assistant", content="la " * 24),
    ]


def train_colours(loaded: LoadedModel, *, steps: int = 150) -> float:
    """Fit the dialogues of all colours; returns the last loss."""
    model, processor = loaded.model.train(), loaded.processor
    end = processor.tokenizer.eos_token
    texts = [render_prompt(processor, dialogue(c), open_reply=False) for c in COLOURS]
    song_text = render_prompt(processor, song("red"), open_reply=False)
    texts.append(song_text[: song_text.rindex(end)])
    batch = processor(
        text=texts, images=[plain(c) for c in (*COLOURS, "red")], padding=True, return_tensors="pt"
    )
    skipped = (batch["attention_mask"] == 0) | (batch["input_ids"] == processor.image_token_id)
    batch["labels"] = batch["input_ids"].masked_fill(skipped, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


@pytest.fixture(scope="session")
def colour_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    loaded = build_model(load_recipe("debug").model, seed=0)
    train_colours(loaded)
    folder = tmp_path_factory.mktemp("colours") / "checkpoint"
    save_model(loaded, folder)
    return folder


@pytest.fixture(scope="session")
def colour_model(colour_checkpoint: Path) -> LoadedModel:
    return load_model(str(colour_checkpoint), device="cpu")
