"""How many planted twins does the contamination check find, and how many false alarms does it give?

    python tests/benchmarks/eval_twins.py [--ckpt CKPT] [--held-out] [FOLDER_OF_IMAGES]

Takes real images from a folder (DICOM too), and drawn ones until there are 300: radiographs that
differ in their fine structure alone, or with `--held-out` slices and sections that no threshold was
tuned on. Fifty are planted again in each of twelve ways; then all 300 are looked for among
themselves. With `--ckpt` the model's vision encoder looks a second time at what the first look did
not find. It is calibrated on each half of the 300 alone, and the other half are its strangers.
Prints a table; exits 1 where a row misses its target.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from medllava.errors import MedllavaError
from medllava.eval.encoder_twins import EncoderTwins, Seen, look_at
from medllava.images.copies import COPIES
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


def drawn_otherwise(seed: int) -> Image.Image:
    """Draw a head in slices (even seeds) or a stained section: other kinds than `drawn` has."""
    rng = np.random.default_rng(10_000 + seed)
    y, x = np.mgrid[-1:1:380j, -1:1:380j]
    if seed % 2 == 0:
        radius = np.hypot(x / rng.uniform(0.7, 0.8), y / rng.uniform(0.85, 0.95))
        picture = 200.0 * ((radius < 1) & (radius > 0.93)) + 95 * (radius <= 0.93)
        for _ in range(40):  # folds and vessels
            cx, cy = rng.uniform(-0.7, 0.7, 2)
            turn, long, thin = (
                rng.uniform(0, np.pi),
                rng.uniform(0.05, 0.3),
                rng.uniform(0.01, 0.04),
            )
            u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
            v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
            spot = np.exp(-((u / long) ** 2) - (v / thin) ** 2)
            picture += rng.uniform(-45, 45) * spot * (radius < 0.93)
        picture += rng.normal(0, 4, picture.shape) * (radius < 1)
        return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("RGB")
    colours = np.array([225.0, 170.0, 205.0]) * rng.uniform(0.95, 1.05, 3)
    section = np.broadcast_to(colours, (*x.shape, 3)).copy()
    for _ in range(160):  # nuclei
        cx, cy, size = *rng.uniform(-1, 1, 2), rng.uniform(0.015, 0.045)
        nucleus = np.exp(-((((x - cx) ** 2 + (y - cy) ** 2) / size**2) ** 2))[..., None]
        section -= nucleus * np.array([120, 110, 60]) * rng.uniform(0.5, 1)
    section += rng.normal(0, 5, section.shape)
    return Image.fromarray(section.clip(0, 255).astype(np.uint8))


TARGETS = dict.fromkeys(("exact", "JPEG 90", "JPEG 50", "resized to 60 %"), 0.95)


def gather(folder: Path | None, *, held_out: bool) -> dict[str, Image.Image]:
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
    draw = drawn_otherwise if held_out else drawn
    for seed in range(NUM_IMAGES - len(pictures)):
        pictures[f"drawn {seed}"] = draw(seed)
    return pictures


class SecondLook:
    """The encoder's look at two halves, each calibrated on its own pictures alone."""

    def __init__(self, looks: dict[str, Seen], checkpoint: str) -> None:
        from medllava.eval.ask.encode_images import ImageEncoder
        from medllava.model.load import load_model

        encoder, known = ImageEncoder(load_model(checkpoint, device="cpu")), {}

        def encode(pictures: list[Image.Image]) -> np.ndarray:
            new = [picture for picture in pictures if id(picture) not in known]
            known.update(zip(map(id, new), encoder(new), strict=True))
            return np.stack([known[id(picture)] for picture in pictures])

        names = list(looks)
        self.halves = [
            (set(half), EncoderTwins(half, [looks[name] for name in half], encode))
            for half in (names[::2], names[1::2])
        ]
        for _, look in self.halves:
            print(f"second look, calibrated on a half: {look.facts()}")

    def find(self, name: str, copy: Seen) -> list[str]:
        """Look for a copy in the half that its original lies in."""
        return next(look for half, look in self.halves if name in half).find([copy])[0]

    def alarms(self, looks: dict[str, Seen]) -> list[tuple[str, str]]:
        """Look for each picture in the half that it does not lie in."""
        found = []
        for half, look in self.halves:
            strangers = [name for name in looks if name not in half]
            hits = look.find([looks[name] for name in strangers])
            found += [(s, o) for s, others in zip(strangers, hits, strict=True) for o in others]
        return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Planted twins and false alarms.")
    parser.add_argument("--ckpt")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    pictures = gather(options.folder, held_out=options.held_out)
    looks = {name: look_at(picture) for name, picture in pictures.items()}
    start = time.process_time()
    first = TwinIndex(list(looks), [look.signature for look in looks.values()])
    second = SecondLook(looks, options.ckpt) if options.ckpt else None
    chosen = list(looks)[:: max(1, len(looks) // NUM_TWINS)][:NUM_TWINS]
    failed = False
    print(f"{'planted':<18}{'first look':>12}{'both':>8}{'others':>8}")
    for change, make in COPIES.items():
        alone = both = others = 0
        for number, name in enumerate(chosen):
            copy = look_at(make(pictures[name], number))
            found = first.find(copy.signature) if copy else []
            alone += name in found
            if copy and not found and second is not None:
                found = second.find(name, copy)
            both += name in found
            others += len(set(found) - {name})
        failed |= both < TARGETS.get(change, 0.8) * len(chosen)
        print(f"{change:<18}{alone:>9}/{len(chosen)}{both:>5}/{len(chosen)}{others:>8}", flush=True)
    alarms = [
        (name, other)
        for name, look in looks.items()
        for other in first.find(look.signature)
        if other != name
    ]
    print(
        f"false alarms among {len(looks)} pictures, first look: {len(alarms)} ({MIN_SIDE} pixels)"
    )
    if second is not None:
        again = second.alarms(looks)
        print(f"false alarms among {len(looks)} pictures, second look: {len(again)}")
        alarms += again
    for pair in alarms[:10]:
        print("  ", *pair)
    print(f"{time.process_time() - start:.0f} s of the processor after reading")
    return int(failed or bool(alarms))


if __name__ == "__main__":
    raise SystemExit(main())
