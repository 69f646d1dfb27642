"""How fast do exported files say a token, beside transformers? In seconds of the processor.

    python tests/benchmarks/export_speed.py CKPT FILE.gguf ...

One picture, greedy, ends ignored; `OMP_NUM_THREADS` threads. A short and a long answer are timed,
and their difference is the rate, without loading, encoder and prompt. With one thread the
processor's own clock is read, so that other work on the machine counts little; with more the clock
on the wall, so let nothing else run.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from medllava.data.conversation import render_prompt
from medllava.hub.export.engine import LlamaCpp
from medllava.hub.export.parity import make_prompts
from medllava.llm.llama_server import llama_server, num_threads
from medllava.model.load import load_model
from medllava.provenance import gguf_files

SHORT, LONG = 16, 80
THREADS = num_threads()


def main(checkpoint: str, files: list[Path]) -> None:
    """Print a line per engine and file."""
    torch.set_num_threads(THREADS)
    loaded = load_model(checkpoint, device="cpu", dtype="fp32")
    (prompt,) = make_prompts(loaded.processor, count=1)
    spent = {count: by_transformers(loaded, prompt, count) for count in (SHORT, LONG)}
    tell("transformers float32", spent)
    image_token_id = int(loaded.processor.image_token_id)
    for file in files:
        tell(file.name, {n: by_llama_cpp(file, prompt, n, image_token_id) for n in (SHORT, LONG)})


def tell(name: str, spent: dict[int, float]) -> None:
    """Print tokens per second of one thread."""
    rate = (LONG - SHORT) / (spent[LONG] - spent[SHORT])
    print(f"{name:<24} {rate:8.1f} tokens/s, {THREADS} threads", flush=True)


def by_transformers(loaded: Any, prompt: Any, count: int) -> float:
    """Return the seconds for an answer of so many tokens."""
    inputs = loaded.processor(
        images=list(prompt.pictures),
        text=render_prompt(loaded.processor, prompt.turns, open_reply=True),
        return_tensors="pt",
        add_special_tokens=False,
    )
    started = seconds()
    with torch.inference_mode():
        loaded.model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return seconds() - started


def by_llama_cpp(file: Path, prompt: Any, count: int, image_token_id: int) -> float:
    """Return the seconds of a server that starts, answers so many tokens, and ends."""
    model, vision = gguf_files(file)
    started = seconds()
    with llama_server(model, vision=vision, threads=THREADS, context=1024) as address:
        engine = LlamaCpp(address, image_token_id=image_token_id)
        reply = engine.answer(prompt.turns, prompt.pictures, max_tokens=count, stop=False)
        assert len(reply.ids) == count
    return seconds() - started


def seconds() -> float:
    """Return what this process and its ended children took so far, or the time of day."""
    if THREADS > 1:
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main(sys.argv[1], [Path(argument) for argument in sys.argv[2:]])
