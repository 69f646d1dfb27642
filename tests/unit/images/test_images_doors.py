"""One picture at every door: what fetch-pmc keeps, training reads, and a server is sent."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medllava.data.pixels import PixelReader
from medllava.images.encode import image_address, open_address, rewrite_image, shrink
from medllava.images.limits import ImageError
from medllava.images.load import load_image
from medllava.llm.payload import build_messages
from medllava.llm.protocol import Message
from medllava.model.processor import build_image_processor
from medllava.pmc.images import clean_image
from medllava.recipe import Geometry

PICTURES = Path(__file__).parents[2] / "fixtures" / "pictures"
STATISTICS = ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def reader(geometry: Geometry) -> PixelReader:
    return PixelReader(build_image_processor(STATISTICS, image_size=56, geometry=geometry))


def sent(path: Path) -> np.ndarray:
    content = build_messages((Message(role="user", content="?", images=(str(path),)),))[0][
        "content"
    ]
    address = content[0]["image_url"]["url"]
    return np.asarray(load_image(base64.b64decode(address.partition(",")[2]))).astype(int)


@pytest.mark.parametrize("name", ["hot.png", "rot.jpg", "miniswhite16.tif", "bigtiff.tif"])
def test_every_door_shows_one_picture(name: str):
    path = PICTURES / name
    wanted = np.asarray(load_image(path)).astype(int)
    fetched = clean_image(path.read_bytes(), max_pixels=10**7)
    kept = np.asarray(load_image(fetched.data)).astype(int)
    tolerance = 3 if name.endswith("jpg") else 0  # encoded once more
    for pixels in (kept, np.asarray(fetched.pixels.convert("RGB")).astype(int), sent(path)):
        assert pixels.shape == wanted.shape
        assert np.abs(pixels - wanted).max() <= tolerance


@pytest.mark.parametrize("name", ["aspect_2_1.dcm", "width_one.dcm", "rgb.nii"])
def test_a_server_is_sent_medical_files_as_they_are_shown(name: str):
    pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    wanted = np.asarray(load_image(PICTURES / name))
    assert np.array_equal(sent(PICTURES / name), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_nothing_of_a_files_metadata_is_sent(kind: str, tmp_path: Path):
    exif = Image.Exif()
    exif[0x010E] = "Roe^Jane 1970"
    path = tmp_path / "picture"
    Image.new("RGB", (40, 30), "red").save(path, kind, exif=exif)
    assert b"Roe^Jane" in path.read_bytes()
    data = base64.b64decode(image_address(path).partition(",")[2])
    assert b"Roe" not in data
    assert load_image(data).size == (40, 30)


def test_an_address_opens_as_the_picture_it_was_made_of():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    assert np.array_equal(np.asarray(open_address(image_address(picture))), np.asarray(picture))
    with pytest.raises(ImageError):
        open_address("data:image/png;base64,AAAA")


def test_a_small_copy_leaves_the_picture_alone():
    picture = Image.new("RGB", (400, 100))
    assert shrink(picture, 80).size == (80, 20)
    assert picture.size == (400, 100)


def test_a_floating_point_tiff_with_holes_is_refused_by_name_where_pictures_are_kept():
    buffer = io.BytesIO()
    values = np.ones((20, 20), np.float32)
    values[3] = np.nan
    Image.fromarray(values).save(buffer, "TIFF")
    with pytest.raises(ImageError, match="no numbers") as caught:
        clean_image(buffer.getvalue(), max_pixels=10**6)
    assert caught.value.reason == "image-damaged"


def test_a_claim_over_the_callers_limit_is_too_large():
    with pytest.raises(ImageError) as caught:
        rewrite_image((PICTURES / "bigtiff.tif").read_bytes(), name="x", most_pixels=100)
    assert caught.value.reason == "image-too-large"


@pytest.mark.parametrize("geometry", list(Geometry))
def test_training_and_evaluation_see_equal_pixels_of_a_large_jpeg(
    geometry: Geometry, tmp_path: Path
):
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=90)
    ours = reader(geometry)
    assert ours.read([path]).equal(ours.prepare([load_image(path)]))
    processor = build_image_processor(STATISTICS, image_size=56, geometry=geometry)
    theirs = processor(load_image(path), return_tensors="pt")["pixel_values"]
    assert np.array_equal(ours.read([path]).numpy(), np.asarray(theirs))


def test_a_thread_of_pixels_takes_no_more_than_the_square_it_becomes(
    monkeypatch: pytest.MonkeyPatch,
):
    made = []
    resize = Image.Image.resize

    def watch(image: Image.Image, size: tuple[int, int], *args: object, **options: object):
        made.append(size[0] * size[1])
        return resize(image, size, *args, **options)

    ours = reader(Geometry.CROP)
    monkeypatch.setattr(Image.Image, "resize", watch)
    pixels = ours.read([PICTURES / "1x3000.png"])
    assert pixels.shape == (1, 3, 56, 56)
    assert max(made) <= 56 * 56


def test_the_middle_of_a_long_picture_is_that_of_the_whole():
    noise = np.random.default_rng(0).integers(0, 256, (30, 300, 3), dtype=np.uint8)
    processor = build_image_processor(STATISTICS, image_size=56, geometry=Geometry.CROP)
    theirs = np.asarray(processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"])
    ours = reader(Geometry.CROP).prepare([Image.fromarray(noise)]).numpy()
    assert np.abs(ours - theirs).max() < 1.1 / 255 / 0.26  # one level of eight bits


def test_a_thread_is_padded_within_the_limit():
    thread = Image.new("RGB", (60_000, 2), "red")
    assert reader(Geometry.PAD).prepare([thread]).shape == (1, 3, 56, 56)
