"""Small random LLaVAs and conversations, for tests and benchmarks of export."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from medllava.data.conversation import render_prompt, user_turn
from medllava.hub.export.engine import LlamaCpp
from medllava.hub.export.gguf_language import PRECISIONS, write_language_model
from medllava.hub.export.gguf_vision import write_vision
from medllava.llm.llama_server import llama_server
from medllava.model.chat_template import MISTRAL
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe
from medllava.records import IMAGE_TOKEN, Turn

_TOWER = "model.vision_encoder"
_SIGLIP = (
    f"{_TOWER}.config.model_type='siglip_vision_model'",
    f"{_TOWER}.feature_select='full'",
)
TOWERS = {
    "clip-pad": (),
    "clip-crop": (f"{_TOWER}.geometry='crop'",),
    "siglip": _SIGLIP,
    "siglip-last-layer": (*_SIGLIP, f"{_TOWER}.feature_layer=-1"),
    "siglip2": (
        *_SIGLIP,
        f"{_TOWER}.config.patch_size=16",
        f"{_TOWER}.config.image_size=64",
        f"{_TOWER}.config.hidden_act='gelu_pytorch_tanh'",
    ),
    "dinov2": (f"{_TOWER}.config.model_type='dinov2'",),
}
LANGUAGE = {
    "llama": (),
    "mistral": ("model.language_model.config.model_type='mistral'",),
    "qwen2": ("model.language_model.config.model_type='qwen2'",),
    "qwen3": ("model.language_model.config.model_type='qwen3'",),
}


QUESTIONS = (
    "What kind of image is this?",
    "Is there a fracture?\nAnswer yes or no.",
    "Größe der Läsion in mm (37.5 °C)?",
    " A. CT\n B. MRI\n\nName one. ",
    "What changed between the two?",
)
REPLIES = ("no", "A chest X-ray.\n\n1. Heart: 12 cm", "Lungenödem, beidseits", "B. MRI")


def build_small(
    tower: str, *, language: str = "llama", tokenizer: Path | None = None, seed: int = 0
) -> LoadedModel:
    """Build the debug model with another tower; weights are large enough to tell pictures apart.

    Args:
        tower: of `TOWERS`.
        language: of `LANGUAGE`.
        tokenizer: folder of a real one, which gets LLaVA-Med's template; unset is the debug
            model's own.
        seed: of the weights.
    """
    overrides = (*TOWERS[tower], *LANGUAGE[language])
    config = load_recipe("debug", overrides=list(overrides)).model
    if tokenizer is not None:
        speaks = replace(config.language_model, tokenizer=str(tokenizer), chat_template=MISTRAL)
        config = replace(config, language_model=speaks)
    loaded = build_model(config, seed=seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for name, weight in loaded.model.named_parameters():
            if weight.ndim > 1:
                is_table = "embed" in name or "lm_head" in name
                weight.normal_(0, 1.0 if is_table else 2.0 / weight.shape[-1] ** 0.5)
    return loaded


def conversations(count: int) -> list[list[Turn]]:
    """Return conversations of one and two turns of the user, with none to three pictures."""
    found = []
    for number in range(count):
        first = user_turn(
            QUESTIONS[number % len(QUESTIONS)], num_images=(1, 2, 1, 1, 0)[number % 5]
        )
        turns = [first]
        if number % 2:
            again = user_turn(
                QUESTIONS[(number + 2) % len(QUESTIONS)], num_images=int(number % 3 == 0)
            )
            turns += [Turn(role="assistant", content=REPLIES[number % len(REPLIES)]), again]
        found.append(turns)
    return found


def compare_ids(loaded: LoadedModel, count: int) -> dict[str, int]:
    """Count the conversations whose token ids are those of training, engine by engine.

    `transformers` renders lists of parts, as pipelines and `transformers serve` do; llama.cpp does
    it with the template in the file, and counts the tokens of text and pictures that it is given.
    """
    same = {"transformers": 0, "llama.cpp": 0}
    processor: Any = loaded.processor
    picture = Image.new("RGB", (8, 8))
    with TemporaryDirectory() as folder:
        files = Path(folder, "model.gguf"), Path(folder, "mmproj.gguf")
        write_language_model(loaded, files[0], precision=PRECISIONS["f16"])
        write_vision(loaded, files[1], precision=PRECISIONS["f16"])
        with llama_server(files[0], vision=files[1], context=4096) as address:
            engine = LlamaCpp(address, image_token_id=int(processor.image_token_id))
            for turns in conversations(count):
                pictures = [picture] * sum(turn.content.count(IMAGE_TOKEN) for turn in turns)
                ids = processor(
                    text=render_prompt(processor, turns, open_reply=True),
                    images=pictures or None,
                    add_special_tokens=False,
                )["input_ids"][0]
                listed = processor.apply_chat_template(
                    [_as_parts(turn, picture) for turn in turns],
                    tokenize=True,
                    add_generation_prompt=True,
                    return_dict=True,
                )["input_ids"][0]
                asked = engine.answer(turns, pictures, max_tokens=1).num_asked
                same["transformers"] += list(listed) == list(ids)
                same["llama.cpp"] += engine.prompt_ids(turns, like=ids) == list(
                    ids
                ) and asked == len(ids)
    return same


def _as_parts(turn: Turn, picture: Image.Image) -> dict[str, Any]:
    words = turn.content.replace(IMAGE_TOKEN, "").strip()
    shown = [{"type": "image", "image": picture}] * turn.content.count(IMAGE_TOKEN)
    return {"role": turn.role, "content": [*shown, {"type": "text", "text": words}]}
