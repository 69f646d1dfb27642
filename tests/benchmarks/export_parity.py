"""How often do exported files answer as transformers does, and how fast?

    python tests/benchmarks/export_parity.py [PROMPTS]

Small random models of every kind of tower, in float32 and with fewer bits; prompts with no, one and
two pictures. One line per model and precision.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from export_models import build_small

from medllava.hub.export.gguf_language import PRECISIONS, write_language_model
from medllava.hub.export.gguf_vision import write_vision
from medllava.hub.export.parity import Reference, make_prompts

CASES = (
    ("siglip", ("f32", "f16", "q8_0", "q4_1")),
    ("siglip2", ("f32",)),
    ("siglip-last-layer", ("f32",)),
    ("clip-pad", ("f32",)),
    ("clip-crop", ("f32",)),
)
MAX_TOKENS = 16


def main(count: int) -> None:
    """Print a line per case."""
    torch.set_num_threads(1)
    print(f"{count} prompts, {MAX_TOKENS} tokens each, greedy, one thread", flush=True)
    for tower, kinds in CASES:
        loaded = build_small(tower)
        prompts = make_prompts(loaded.processor, count=count)
        reference = Reference(loaded, prompts, max_tokens=MAX_TOKENS)
        for kind in kinds:
            with TemporaryDirectory() as folder:
                files = Path(folder, "model.gguf"), Path(folder, "mmproj.gguf")
                write_language_model(loaded, files[0], precision=PRECISIONS[kind])
                write_vision(loaded, files[1], precision=PRECISIONS[kind])
                found = reference.compare(*files, exact=kind == "f32")
            print(
                f"{tower:<18} {kind:<5} same prompts {found.same_text:>4}  same answers "
                f"{found.same_answers:>4}  ties {found.ties:>3}  tokens/s "
                f"{found.tokens_per_second:8.1f}  transformers "
                f"{found.reference_tokens_per_second:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
