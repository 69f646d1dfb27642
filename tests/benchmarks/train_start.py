"""How long a run needs before its first step: records read, tokenized, every image tried.

    python tests/benchmarks/train_start.py [--records 500000] [--images 500] [--cache DIR]

Made-up captions of LLaVA-Med's lengths about drawn pictures; the tokenizer and the image geometry
are those of the recipe. Each start is what `medllava train` does for its index: seconds by the
clock and of the processor, children included. With `--cache` a later call finds what this one
kept.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from medllava.layout import INSTRUCTIONS_FILE
from medllava.model.weightless_processor import read_processor
from medllava.progress import SilentProgress
from medllava.records import InstructionRecord, Stage, Turn
from medllava.store import JsonlWriter
from medllava.train import prepare
from medllava.train.ranks import Ranks
from medllava.train.resolve import resolve_config

_WORDS = ("image", "tissue", "inflammatory", "vessel", "fibrosis", "lung", "axial", "CT", "lesion")


def write_data(folder: Path, *, num_records: int, num_images: int) -> Path:
    """Write records and pictures, unless they are there."""
    if (folder / INSTRUCTIONS_FILE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for number in range(num_images):
        small = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
    with JsonlWriter(folder / INSTRUCTIONS_FILE) as writer:
        for number in range(num_records):
            asked, said = (" ".join(draw.choices(_WORDS, k=count)) for count in (12, 40))
            record = InstructionRecord(
                record_id=str(number),
                images=(f"{number % num_images}.jpg",),
                turns=(
                    Turn(role="user", content=f"<image>\n{asked}"),
                    Turn(role="assistant", content=said),
                ),
                stage=Stage.ALIGN,
                license="CC0-1.0",
            )
            writer.write(record.to_json())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--recipe", default="debug")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cache", type=Path, help="keep data and cache in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medllava-") as made:
        folder = options.cache or Path(made)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        name = f"data-{options.records}-{options.images}"
        data = write_data(folder / name, num_records=options.records, num_images=options.images)
        time.sleep(3)  # pictures that have just changed are not remembered
        for number in range(1, options.starts + 1):
            config = resolve_config(
                options.recipe,
                stage="1",
                data=str(data),
                overrides=options.set,
                output_dir=folder / f"run-{number}",
            )
            config.output_dir.mkdir(exist_ok=True)
            processor = read_processor(config.recipe.model, init=config.init)
            clock, before = time.perf_counter(), os.times()
            found = prepare.share_data(config, Ranks())
            index = prepare.share_index(
                config, found, processor, Ranks(), progress=SilentProgress(), is_training=True
            )
            after = os.times()
            used = sum(after[:4]) - sum(before[:4])
            seconds = time.perf_counter() - clock
            print(
                f"start {number}: {len(index):,} records, {options.images:,} images, "
                f"{seconds:.1f} s, {used:.1f} processor seconds, {index.fingerprint()[:12]}",
                flush=True,
            )
            prepare.clear_pixels(config.output_dir)


if __name__ == "__main__":
    main()
