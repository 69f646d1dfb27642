"""Pictures read, judged and made clean: milliseconds of CPU time per picture, and where they go.

    python tests/benchmarks/pmc_pictures.py ../shared/pmc-samples

Beside the way before: every file encoded anew, and the picture made gray once for the perceptual
hash and once more for the gutters. Both read the same files in turns in one process; CPU time is
counted, so that other work on the machine matters little.
"""

import argparse
import hashlib
import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from medllava.pmc.images import clean_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".tif"}
MAX_PIXELS = 80_000_000


def ours(data: bytes) -> None:
    clean_image(data, max_pixels=MAX_PIXELS)


def before(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        buffer = io.BytesIO()
        if opened.format == "JPEG" and opened.mode in {"L", "RGB"}:
            opened.save(buffer, "JPEG", quality="keep", comment=b"", exif=b"")
            pixels = opened.copy()
        else:
            pixels = opened.convert("RGB")
            pixels.save(buffer, "PNG")
    hashlib.sha256(buffer.getvalue())
    gray = pixels.convert("L")
    cells = gray.resize((17, 16), Image.Resampling.BILINEAR).tobytes()
    sum(left > right for left, right in itertools.pairwise(cells))
    gray.resize((12, 12), Image.Resampling.BILINEAR).tobytes().hex()
    small = pixels.convert("L").resize((96, 96), Image.Resampling.NEAREST)
    for lines in (small.tobytes(), small.transpose(Image.Transpose.TRANSPOSE).tobytes()):
        [(min(lines[i : i + 96]), max(lines[i : i + 96])) for i in range(0, 96 * 96, 96)]


def decode(data: bytes) -> None:
    Image.open(io.BytesIO(data)).load()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    bodies = [path.read_bytes() for path in paths]
    ways: dict[str, Callable[[bytes], None]] = {
        "medllava": ours,
        "encoded anew, gray twice": before,
        "Pillow, decoding alone": decode,
    }
    best: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            started = time.process_time()
            for body in bodies:
                way(body)
            spent = time.process_time() - started
            best[name] = min(best.get(name, spent), spent)
    print(
        f"{len(bodies)} pictures, {sum(map(len, bodies)) / 1e6:.1f} MB, best of {options.repeats}"
    )
    for name, spent in best.items():
        each = 1000 * spent / len(bodies)
        print(f"{name:26s} {each:7.2f} ms each  {1000 / each:6.0f} a second of one core")
    print(f"ours is {best['encoded anew, gray twice'] / best['medllava']:.2f} times as fast")


if __name__ == "__main__":
    main()
