"""Pixels are the processor's own, whichever way they were made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from medllava.data.pixels import PixelReader
from medllava.errors import DataError
from medllava.images.load import load_image
from medllava.model.processor import build_image_processor
from medllava.recipe import Geometry

STATISTICS = ((0.481, 0.457, 0.408), (0.268, 0.261, 0.275))


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make smooth noise, which compresses and resamples as photographs do."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("geometry", list(Geometry))
@settings(max_examples=25, deadline=None)
@example(width=3, height=80, side=8)
@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(8, 40))
def test_pixels_equal_those_of_the_processor(
    tmp_path_factory: pytest.TempPathFactory,
    geometry: Geometry,
    width: int,
    height: int,
    side: int,
) -> None:
    processor = build_image_processor(STATISTICS, image_size=side, geometry=geometry)
    image = photograph(width, height)
    path = tmp_path_factory.mktemp("pixels") / "image.png"
    image.save(path)
    expected = processor([image], return_tensors="pt")["pixel_values"]
    pixels = PixelReader(processor).read([path])
    # The bytes are the same; scaling them rounds in another order: 2e-7 measured.
    assert torch.allclose(pixels, expected, atol=1e-6)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}),
        CLIPImageProcessorPil(
            size={"height": 24, "width": 24}, crop_size={"height": 16, "width": 16}
        ),
        LlavaImageProcessorPil(
            size={"shortest_edge": 12}, crop_size={"height": 20, "width": 20}, do_pad=True
        ),
    ],
    ids=["clip", "stretched, then cropped", "cropped outside the image"],
)
def test_other_processors_keep_their_own_geometry(
    tmp_path: Path, processor: CLIPImageProcessorPil
) -> None:
    image = photograph(50, 31)
    image.save(tmp_path / "image.png")
    expected = processor(image, return_tensors="pt")["pixel_values"]
    pixels = PixelReader(processor).read([tmp_path / "image.png"])
    assert torch.allclose(pixels, expected, atol=1e-6)


def test_cached_pixels_are_the_decoded_ones(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for seed, path in enumerate(paths):
        photograph(40, 30, seed).save(path)
    processor = build_image_processor(STATISTICS, image_size=16, geometry=Geometry.PAD)
    reader = PixelReader(processor)
    decoded = reader.read(paths)
    reader.keep(tmp_path / "cache", paths)
    assert torch.equal(reader.read(paths), decoded)
    for path in paths:
        path.unlink()
    assert torch.equal(reader.read(paths), decoded)


def test_training_sees_an_image_as_evaluation_and_chat_do(tmp_path: Path) -> None:
    grey = (np.linspace(0, 60_000, 32 * 32).reshape(32, 32)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    turned = photograph(32, 20)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    processor = build_image_processor(STATISTICS, image_size=16, geometry=Geometry.PAD)
    reader = PixelReader(processor)
    for name in ("deep.png", "clear.png", "turned.png"):
        path = tmp_path / name
        expected = processor([load_image(path)], return_tensors="pt")["pixel_values"]
        assert torch.allclose(reader.read([path]), expected, atol=1e-6), name


def test_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    photograph(1600, 1200).save(path, quality=92)
    processor = build_image_processor(STATISTICS, image_size=112, geometry=Geometry.PAD)
    whole = processor([load_image(path)], return_tensors="pt")["pixel_values"]
    difference = (PixelReader(processor).read([path]) - whole).abs() * 255 * 0.27
    # Measured: 0.1 of 255 levels on average, 2 at worst; both ways round to whole levels.
    assert difference.mean() < 0.5
    assert difference.max() < 8


def test_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing else")
    processor = build_image_processor(STATISTICS, image_size=16, geometry=Geometry.PAD)
    with pytest.raises(DataError, match=r"torn\.png"):
        PixelReader(processor).read([tmp_path / "torn.png"])


class KilledHalfway(np.ndarray):
    """Pixels of which half are written when the process ends."""

    def __setitem__(self, place: object, value: object) -> None:
        if isinstance(place, slice):
            half = len(value) // 2
            super().__setitem__(slice(0, half), value[:half])
            raise KeyboardInterrupt
        super().__setitem__(place, value)


@pytest.mark.parametrize("way", ["read", "admit"])
def test_an_image_that_was_kept_by_half_is_decoded_again(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.png"
    photograph(40, 30).save(path)
    processor = build_image_processor(STATISTICS, image_size=16, geometry=Geometry.PAD)
    decoded = PixelReader(processor).read([path])
    killed = PixelReader(processor)
    killed.keep(tmp_path / "cache", [path] if way == "read" else [], room=1)
    killed._cache = killed._open_cache().view(KilledHalfway)
    with pytest.raises(KeyboardInterrupt):
        killed.read([path]) if way == "read" else killed.admit(path)
    again = PixelReader(processor)
    again.keep(tmp_path / "cache", [path])
    assert torch.equal(again.read([path]), decoded)
    path.unlink()  # now all of it is there
    assert torch.equal(again.read([path]), decoded)
