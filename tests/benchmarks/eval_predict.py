"""How much faster batched, prefix-sharing prediction is than one full generation per question.

    python tests/benchmarks/eval_predict.py [CKPT or folder of the quickstart's parts]

Without either the quickstart's parts are used where they are, else random ones of the debug recipe.
Both ways run on the same machine, model, images and questions, in turn, the best of a few rounds
counts, and the replies must be the same. Eleven questions about each image, as in SLAKE's English
test (1,061 about 96).
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medllava.data.conversation import render_prompt
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import Ask
from medllava.eval.config import DecodingConfig
from medllava.images.load import load_image
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe
from medllava.records import Turn

NUM_IMAGES = 4
ROUNDS = 3
MAX_NEW_TOKENS = 8
QUESTIONS = (
    "Is there a lesion in this image?",
    "What organ is shown?",
    "Which modality was used to take it?",
    "Is the heart enlarged?",
    "Where is the abnormality located?",
    "Are both lungs visible in this picture?",
    "Is this a CT scan?",
    "What is the main organ in the picture?",
    "Does the image contain the left kidney?",
    "Which part of the body is this?",
    "What is the largest organ?",
)


def load(source: str | None) -> LoadedModel:
    """Return the checkpoint, or the quickstart's untrained model."""
    if source and (Path(source) / "config.json").is_file():
        return load_model(source, device="cpu")
    parts = Path(source or ".cache/quickstart/parts")
    if not parts.is_dir():
        return build_model(load_recipe("debug").model, seed=0)
    overrides = [
        f"model.language_model.source={parts / 'smollm2-135m-instruct'}",
        f"model.vision_encoder.source={parts / 'dinov2-small'}",
    ]
    return build_model(load_recipe("smollm2-135m", overrides=overrides).model, seed=0)


def one_at_a_time(loaded: LoadedModel, asks: list[Ask]) -> dict[str, str]:
    """Answer every question by a full generation of its own."""
    replies = {}
    for ask in asks:
        turn = Turn(role="user", content=f"<image>\n{ask.text}")
        prompt = render_prompt(loaded.processor, [turn], open_reply=True)
        inputs = loaded.processor(images=load_image(ask.image), text=prompt, return_tensors="pt")
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        replies[ask.id] = loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return replies


def batched(loaded: LoadedModel, asks: list[Ask]) -> dict[str, str]:
    """Answer all questions through the engine."""
    engine = Engine(loaded, DecodingConfig(max_new_tokens=MAX_NEW_TOKENS))
    batches = engine.answer(asks, is_done=lambda _: False)
    return {ask.id: text for batch in batches for ask, text in batch}


def main() -> None:
    """Time both ways and print one table."""
    loaded = load(sys.argv[1] if len(sys.argv) > 1 else None)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        asks = []
        for i in range(NUM_IMAGES):
            path = Path(folder) / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (256, 320, 3), dtype=np.uint8)).save(path)
            asks += [
                Ask(id=f"{i}-{j}", condition="real", seed=0, image=str(path), text=text)
                for j, text in enumerate(QUESTIONS)
            ]
        batched(loaded, asks[:6])  # warm-up
        times: dict[str, float] = {}
        replies = {}
        for _ in range(ROUNDS):
            for name, way in (("one at a time", one_at_a_time), ("batched", batched)):
                start = time.perf_counter()
                replies[name] = way(loaded, asks)
                seconds = time.perf_counter() - start
                times[name] = min(seconds, times.get(name, seconds))
    same = sum(replies["batched"][key] == text for key, text in replies["one at a time"].items())
    print(f"model {loaded.source}, {torch.get_num_threads()} threads, {len(asks)} questions,")
    print(f"{NUM_IMAGES} images, {MAX_NEW_TOKENS} new tokens at most, best of {ROUNDS} rounds")
    print(f"{'way':<16}{'seconds':>10}{'questions/s':>14}{'speed-up':>10}")
    for name, seconds in times.items():
        ratio = times["one at a time"] / seconds
        print(f"{name:<16}{seconds:>10.2f}{len(asks) / seconds:>14.2f}{ratio:>10.1f}")
    print(f"same replies: {same} of {len(asks)}")


if __name__ == "__main__":
    main()
