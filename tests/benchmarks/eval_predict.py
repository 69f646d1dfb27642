"""How much faster batched, prefix-sharing prediction is than one full generation per question.

    python tests/benchmarks/eval_predict.py [--processor] [CKPT or folder of the quickstart's parts]
    python tests/benchmarks/eval_predict.py --memory [CKPT or folder]

With `--processor` the time of the processor counts, on one thread, which holds on a machine that
others use too. With `--memory` it prints instead how much memory a process of its own takes at most
for 32, 128 and 512 images of two questions each. Without a model the quickstart's parts are used
where they are, else random ones of the debug recipe. Both ways run on the same machine, model,
images and questions, in turn, the best of a few rounds counts, and the replies must be the same.
Eleven questions about each image, as in SLAKE's English test (1,061 about 96).
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
MEMORY_IMAGES = (32, 128, 512)
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


def make_asks(folder: Path, num_images: int, questions: Sequence[str]) -> list[Ask]:
    """Write pictures of noise and return what is asked about them."""
    rng = np.random.default_rng(0)
    asks = []
    for i in range(num_images):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (256, 320, 3), dtype=np.uint8)).save(path)
        asks += [
            Ask(id=f"{i}-{j}", condition="real", seed=0, image=str(path), text=text)
            for j, text in enumerate(questions)
        ]
    return asks


def measure_memory(source: str | None) -> None:
    """Print the peak of a process of its own for growing numbers of images."""
    print(f"{'images':>8}{'questions':>11}{'model, MiB':>12}{'peak, MiB':>11}")
    for number in MEMORY_IMAGES:
        command = [sys.executable, __file__, "--peak", str(number), *([source] if source else [])]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def print_peak(number: int, source: str | None) -> None:
    """Answer two questions about each image and print the memory before and at most."""
    loaded = load(source)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        asks = make_asks(Path(folder), number, QUESTIONS[:2])
        engine = Engine(loaded, DecodingConfig(max_new_tokens=2))
        for _ in engine.answer(asks, is_done=lambda _: False):
            pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number:>8}{len(asks):>11}{before:>12.0f}{peak:>11.0f}")


def main() -> None:
    """Time both ways and print one table."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--memory"]:
        return measure_memory(next(iter(arguments[1:]), None))
    if arguments[:1] == ["--peak"]:
        return print_peak(int(arguments[1]), next(iter(arguments[2:]), None))
    by_processor = arguments[:1] == ["--processor"]
    if by_processor:
        torch.set_num_threads(1)
        arguments = arguments[1:]
    clock = time.process_time if by_processor else time.perf_counter
    loaded = load(next(iter(arguments), None))
    with tempfile.TemporaryDirectory() as folder:
        asks = make_asks(Path(folder), NUM_IMAGES, QUESTIONS)
        batched(loaded, asks[:6])  # warm-up
        times: dict[str, float] = {}
        replies = {}
        for _ in range(ROUNDS):
            for name, way in (("one at a time", one_at_a_time), ("batched", batched)):
                start = clock()
                replies[name] = way(loaded, asks)
                seconds = clock() - start
                times[name] = min(seconds, times.get(name, seconds))
    same = sum(replies["batched"][key] == text for key, text in replies["one at a time"].items())
    print(f"model {loaded.source}, {torch.get_num_threads()} threads, {len(asks)} questions,")
    print(f"{NUM_IMAGES} images, {MAX_NEW_TOKENS} new tokens at most, best of {ROUNDS} rounds")
    print("seconds of the processor" if by_processor else "seconds by the clock")
    print(f"{'way':<16}{'seconds':>10}{'questions/s':>14}{'speed-up':>10}")
    for name, seconds in times.items():
        ratio = times["one at a time"] / seconds
        print(f"{name:<16}{seconds:>10.2f}{len(asks) / seconds:>14.2f}{ratio:>10.1f}")
    print(f"same replies: {same} of {len(asks)}")
    return None


if __name__ == "__main__":
    main()
