"""How many planted twins does the contamination check find, and how many false alarms does it give?

    python tests/benchmarks/eval_twins.py [FOLDER_OF_IMAGES]

Takes real images from a folder (DICOM too), and drawn radiographs that differ in their fine
structure alone, until there are 300. Fifty are planted again in each of twelve ways; then all 300
are looked for among themselves. Prints a table; exits 1 where a row misses its target.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from medllava.errors import MedllavaError
from medllava.images.load import load_image
from medllava.images.twins import MIN_SIDE, TwinIndex, compute_signature

NUM_IMAGES, NUM_TWINS = 300, 50


def drawn(seed: int) -> Image.Image:
    """Draw something like a chest: every one has the same coarse light and dark."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:420j, -1:1:360j]
    picture = 90 + 40 * np.exp(-(x**2) / 0.02)
    for side in (-1, 1):
        wide, high = 0.32 * rng.uniform(0.9, 1.1), 0.7 * rng.uniform(0.9, 1.1)
        picture -= 60 * (((x - side * 0.45) / wide) ** 2 + (y / high) ** 2 < 1)
    for _ in range(60):
        cx, cy, size = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9), rng.uniform(0.02, 0.12)
        picture += rng.uniform(-40, 40) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)
    picture += rng.normal(0, 3, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("RGB")


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """Return what a JPEG of that quality keeps."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, share: float, seed: int) -> Image.Image:
    """Cut a share off both sides of each axis, unevenly."""
    rng = np.random.default_rng(seed)
    width, height = picture.size
    left, top = rng.uniform(0, share, 2)
    box = (left * width, top * height, width * (1 - share + left), height * (1 - share + top))
    return picture.crop(tuple(round(end) for end in box))


def windowed(picture: Image.Image) -> Image.Image:
    """Show a narrower range of values, as another window does."""
    return picture.point([min(255, max(0, round((value - 40) * 1.6))) for value in range(256)] * 3)


CHANGES = {
    "exact": lambda p, i: p,
    "JPEG 90": lambda p, i: jpeg(p, 90),
    "JPEG 50": lambda p, i: jpeg(p, 50),
    "resized to 60 %": lambda p, i: p.resize([round(0.6 * side) for side in p.size]),
    "cropped 1 %": lambda p, i: cropped(p, 0.01, i),
    "cropped 3 %": lambda p, i: cropped(p, 0.03, i),
    "cropped 5 %": lambda p, i: cropped(p, 0.05, i),
    "brighter": lambda p, i: ImageEnhance.Brightness(p).enhance(1.3),
    "windowed": lambda p, i: windowed(p),
    "mirrored": lambda p, i: ImageOps.mirror(p),
    "rotated 90": lambda p, i: p.transpose(Image.Transpose.ROTATE_90),
    "bordered": lambda p, i: ImageOps.expand(p, border=round(0.08 * min(p.size)), fill="white"),
}
TARGETS = dict.fromkeys(("exact", "JPEG 90", "JPEG 50", "resized to 60 %"), 0.95)


def gather(folder: Path | None) -> dict[str, Image.Image]:
    """Return 300 pictures by name: the folder's that can be read, then drawn ones."""
    pictures: dict[str, Image.Image] = {}
    seen: set[bytes] = set()
    for file in sorted(folder.rglob("*")) if folder else []:
        if file.is_file() and len(pictures) < NUM_IMAGES:
            try:
                picture = load_image(file)
            except MedllavaError:
                continue
            is_new = picture.tobytes() not in seen
            if min(picture.size) >= 100 and is_new and compute_signature(picture) is not None:
                pictures[str(file)] = picture
                seen.add(picture.tobytes())
    print(f"{len(pictures)} real pictures, {NUM_IMAGES - len(pictures)} drawn")
    for seed in range(NUM_IMAGES - len(pictures)):
        pictures[f"drawn {seed}"] = drawn(seed)
    return pictures


def main() -> int:
    """Print the table."""
    pictures = gather(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    names = list(pictures)
    index = TwinIndex(names, [compute_signature(picture) for picture in pictures.values()])
    step = max(1, len(names) // NUM_TWINS)
    chosen = names[::step][:NUM_TWINS]
    failed = False
    print(f"{'planted':<18}{'found':>8}{'others':>8}")
    for change, make in CHANGES.items():
        hits = others = 0
        for number, name in enumerate(chosen):
            signature = compute_signature(make(pictures[name], number))
            found = index.find(signature) if signature else []
            hits += name in found
            others += len(set(found) - {name})
        failed |= hits < TARGETS.get(change, 0.8) * len(chosen)
        print(f"{change:<18}{hits:>5}/{len(chosen)}{others:>8}")
    alarms = [
        (name, other)
        for name, picture in pictures.items()
        for other in index.find(compute_signature(picture))
        if other != name
    ]
    print(f"false alarms among {len(names)} pictures: {len(alarms)} (minimum side {MIN_SIDE})")
    for pair in alarms[:10]:
        print("  ", *pair)
    return int(failed or bool(alarms))


if __name__ == "__main__":
    raise SystemExit(main())
