"""How soon chat answers, beside transformers alone on the same model, prompt and machine.

    python tests/benchmarks/chat_latency.py [--ckpt CKPT] [--image FILE] [--repeats N] [--processor]

Three numbers, each with its target: the first token against bare `generate` (image processing
counted on both sides), the second turn against the first, and what a `medllava chat --prompt`
process takes to its first word beyond a script that imports transformers, loads the same processor
and weights and generates one token.
Without a checkpoint, random weights of the quickstart model's shape are used, with a tower of 336
pixels: 576 image tokens. Both sides run in turn; the best of each counts, because a busy machine
only ever adds time; `--processor` counts processor time, for a machine that others use too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from medllava.chat.examples import draw_phantom
from medllava.chat.session import ChatSession
from medllava.data.conversation import render_prompt
from medllava.images.load import load_image
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.processor import num_image_tokens
from medllava.model.sampling import Sampling
from medllava.recipe import FeatureSelect, load_recipe
from medllava.records import Turn

QUESTION = "What does this image show?"
FOLLOW_UP = "Are you sure?"
_ENCODER = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 14,
    "image_size": 336,
}
_LANGUAGE_MODEL = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
BARE = """
import sys, torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
model = LlavaForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], backend="pil")
image = Image.open(sys.argv[2]).convert("RGB")
inputs = processor(images=image, text=sys.argv[3], return_tensors="pt")
with torch.inference_mode():
    out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
print(processor.decode(out[0, -1:]), "said")
"""


def write_random_checkpoint(folder: Path) -> None:
    """Save random weights of the quickstart model's shape."""
    shape = load_recipe("smollm2-135m").model
    random_parts = replace(
        shape,
        vision_encoder=replace(
            shape.vision_encoder,
            source="random",
            config=_ENCODER,
            image_size=_ENCODER["image_size"],
            feature_select=FeatureSelect.DEFAULT,  # without the class token: 24 x 24
        ),
        language_model=replace(shape.language_model, source="random", config=_LANGUAGE_MODEL),
        projector=replace(shape.projector, standardize_features=False),
    )
    save_model(build_model(random_parts, seed=0), folder)


def prompt_of(loaded: LoadedModel) -> str:
    """Return the prompt of the first question, as chat renders it."""
    turn = Turn(role="user", content=f"<image>\n{QUESTION}")
    return render_prompt(loaded.processor, [turn], open_reply=True)


Clock = Callable[[], float]


def bare_seconds(loaded: LoadedModel, image: Image.Image, prompt: str, clock: Clock) -> float:
    """Return the time from question to first token with transformers alone."""
    started = clock()
    inputs = loaded.processor(images=image, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    return clock() - started


def session_seconds(loaded: LoadedModel, image: Image.Image, clock: Clock) -> tuple[float, float]:
    """Return the times of the first and of the second turn, with an answer of one token each."""
    session = ChatSession(loaded, sampling=Sampling(max_new_tokens=1))
    times = []
    for question, images in ((QUESTION, [image]), (FOLLOW_UP, [])):
        started = clock()
        list(session.ask(question, images))
        times.append(clock() - started)
    return times[0], times[1]


def process_seconds(command: list[str]) -> tuple[float, float]:
    """Start a process; return wall-clock and processor seconds until it says its first word."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), "it said nothing"
        wall = time.perf_counter() - started
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.stdout.read()
    return wall, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def best_of(repeats: int, *ways: Callable[[], tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Run the ways in turn, `repeats` times; return the best of every number of each."""
    found: list[list[tuple[float, ...]]] = [[] for _ in ways]
    for _ in range(repeats):
        for times, way in zip(found, ways, strict=True):
            times.append(way())
    return [tuple(map(min, zip(*times, strict=True))) for times in found]


def measure_tokens(checkpoint: str, image_file: str, repeats: int, clock: Clock) -> str:
    """Time both turns and print them; return the prompt of the first."""
    loaded = load_model(checkpoint, device="cpu")
    image, prompt = load_image(image_file), prompt_of(loaded)
    bare_seconds(loaded, image, prompt, clock), session_seconds(loaded, image, clock)  # warm-up
    (bare,), (first, second) = best_of(
        4 * repeats,
        lambda: (bare_seconds(loaded, image, prompt, clock),),
        lambda: session_seconds(loaded, image, clock),
    )
    num_weights = sum(p.numel() for p in loaded.model.parameters())
    num_tokens = num_image_tokens(loaded.processor)
    print(
        f"{checkpoint}: {num_weights / 1e6:.0f}M weights, {num_tokens} image tokens, "
        f"{torch.get_num_threads()} threads, {clock.__name__}"
    )
    _report("first token", first, "bare generate", bare, limit=1.1)
    _report("second turn", second, "first turn", first, limit=0.4)
    return prompt


def measure_processes(checkpoint: str, image_file: str, prompt: str, repeats: int) -> None:
    """Time whole processes and print what ours costs more."""
    chat = ["-m", "medllava", "chat", image_file, "--ckpt", checkpoint, "--prompt", QUESTION]
    ours, alone = best_of(
        repeats,
        lambda: process_seconds(
            [sys.executable, *chat, "--max-new-tokens", "1", "--device", "cpu"]
        ),
        lambda: process_seconds([sys.executable, "-c", BARE, checkpoint, image_file, prompt]),
    )
    for name, mine, theirs in zip(("wall-clock", "processor"), ours, alone, strict=True):
        share = mine - theirs
        print(
            f"{'start-up, ' + name:<22}{mine:8.2f} s  script of transformers {theirs:6.2f} s  "
            f"our share {share:5.2f} s (at most 0.50)"
        )


def _report(name: str, seconds: float, peer: str, peer_seconds: float, *, limit: float) -> None:
    print(
        f"{name:<22}{1e3 * seconds:8.1f} ms  {peer:<14}{1e3 * peer_seconds:8.1f} ms  "
        f"ratio {seconds / peer_seconds:.2f} (at most {limit:.2f})"
    )


def main() -> None:
    """Measure a checkpoint, or a random one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt")
    parser.add_argument("--image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processor", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, image = options.ckpt, options.image
        if checkpoint is None:
            checkpoint = str(Path(folder) / "checkpoint")
            write_random_checkpoint(Path(checkpoint))
        if image is None:
            image = str(Path(folder) / "phantom.png")
            draw_phantom().save(image)
        clock = time.process_time if options.processor else time.perf_counter
        prompt = measure_tokens(checkpoint, image, options.repeats, clock)
        measure_processes(checkpoint, image, prompt, options.repeats)


if __name__ == "__main__":
    main()
