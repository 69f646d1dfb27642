"""Images per second from JPEG files to normalised pixels, with the processor as the measure.

    python tests/benchmarks/image_pixels.py [NUM_PROCESSES]

500 x 500 JPEG at 336 pixels, decoding included. Both ways run on the same files in turn, a few
times; the best of each counts. The cache is what a second pass over the data reads.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medllava.data.pixels import PixelReader
from medllava.model.processor import build_image_processor
from medllava.recipe import Geometry

NUM_IMAGES, SIDE, IMAGE_SIZE, REPEATS = 120, 500, 336, 3
STATISTICS = ((0.481, 0.457, 0.408), (0.268, 0.261, 0.275))


def write_images(folder: Path) -> list[Path]:
    """Write smooth noise, about as many bytes per pixel as a radiograph."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(NUM_IMAGES)]
    for path in paths:
        small = random.integers(0, 256, (60, 60, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(path, quality=90)
    return paths


def prepare_reader(geometry: Geometry, cache: Path, paths: list[Path]) -> None:
    """Make what one worker process reads with."""
    global direct, cached, processor
    torch.set_num_threads(1)
    processor = build_image_processor(STATISTICS, image_size=IMAGE_SIZE, geometry=geometry)
    direct, cached = PixelReader(processor), PixelReader(processor)
    cached.keep(cache, paths)


def by_processor(path: Path) -> Tensor:
    """Read as transformers alone does."""
    with Image.open(path) as image:
        pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    return pixels


def by_reader(path: Path) -> Tensor:
    """Decode as training does."""
    return direct.read([path])


def from_cache(path: Path) -> Tensor:
    """Read what an earlier pass kept."""
    return cached.read([path])


def total(way: Callable[[Path], Tensor], paths: list[Path]) -> float:
    """Read some images one by one, and return the sum of their pixels."""
    return sum(float(way(path).sum()) for path in paths)


def rate(
    pool: ProcessPoolExecutor, way: Callable[[Path], Tensor], chunks: list[list[Path]]
) -> float:
    """Return images per second over all processes."""
    started = time.perf_counter()
    list(pool.map(total, [way] * len(chunks), chunks))
    return sum(map(len, chunks)) / (time.perf_counter() - started)


def main() -> None:
    """Print one row per geometry."""
    num_processes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"{num_processes} processes; images/s: processor, reader (ratio), cached")
    with tempfile.TemporaryDirectory() as name:
        paths = write_images(Path(name))
        chunks = [paths[i :: num_processes * 2] for i in range(num_processes * 2)]
        for geometry in Geometry:
            prepare_reader(geometry, Path(name) / f"{geometry.value}.cache", paths)
            assert torch.allclose(by_reader(paths[0]), by_processor(paths[0]), atol=1e-6)
            setting = (geometry, Path(name) / f"{geometry.value}.cache", paths)
            with ProcessPoolExecutor(
                num_processes, initializer=prepare_reader, initargs=setting
            ) as pool:
                rate(pool, from_cache, chunks)  # starts the processes and fills the cache
                ways = (by_processor, by_reader, from_cache)
                best = [max(rate(pool, way, chunks) for _ in range(REPEATS)) for way in ways]
            plain, ours, kept = best
            print(f"{geometry.value:8} {plain:7.0f} {ours:7.0f} ({ours / plain:.1f}x) {kept:7.0f}")


if __name__ == "__main__":
    main()
