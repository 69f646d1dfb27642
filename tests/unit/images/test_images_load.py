import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from loopback import Handler, serving
from PIL import Image

from medllava.errors import DataError, RemoteError
from medllava.images import load as image_module
from medllava.images.limits import MAX_PIXELS
from medllava.images.load import load_image


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    ramp = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3) * 3
    return Image.fromarray(ramp).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_lossless_formats_give_the_pixels_back(kind: str, tmp_path: Path):
    original = picture("L").convert("RGB")
    path = tmp_path / "no-extension-needed"
    path.write_bytes(encoded(original, kind))
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), np.asarray(original))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_formats_are_read(kind: str):
    loaded = load_image(encoded(Image.new("RGB", (40, 30), (200, 30, 60)), kind))
    assert loaded.size == (40, 30)
    assert np.allclose(loaded.getpixel((20, 15)), (200, 30, 60), atol=12)


def test_the_kind_is_read_from_the_bytes_and_not_the_name(tmp_path: Path):
    path = tmp_path / "scan.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert load_image(path).size == (6, 4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind: str):
    values = np.linspace(900, 2900, 200, dtype=np.uint16).reshape(10, 20)
    grey = np.asarray(load_image(encoded(Image.fromarray(values), kind)))[..., 0]
    assert grey.min() == 0
    assert grey.max() == 255
    assert (np.diff(grey.reshape(-1).astype(int)) >= 0).all()
    assert len(np.unique(grey)) > 150


def test_a_window_chooses_the_range_of_sixteen_bit_grey():
    values = np.array([[0, 100, 200, 300]], dtype=np.uint16)
    image = load_image(encoded(Image.fromarray(values), "TIFF"), window=(150, 100))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 255, 255]


def test_a_single_hot_pixel_does_not_darken_the_rest():
    values = np.full((40, 40), 1000, dtype=np.uint16)
    values[:, 20:] = 2000
    values[0, 0] = 65535
    grey = np.asarray(load_image(encoded(Image.fromarray(values), "PNG")))[..., 0]
    assert grey[5, 30] == 255
    assert grey[5, 5] == 0


def test_a_floating_point_tiff_with_holes_is_read():
    values = np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10)
    values[2, 2] = np.nan
    grey = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert grey[2, 2] == 0
    assert grey.max() == 255


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    loaded = load_image(encoded(image, "PNG"))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 0)) == (10, 20, 30)


def test_a_palette_with_a_transparent_entry_is_resolved():
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 0)) == (0, 250, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert (
        load_image(encoded(picture("RGBA" if mode == "LA" else "RGB").convert(mode), kind)).mode
        == "RGB"
    )


def test_exif_orientation_is_applied_and_metadata_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "John Doe"
    loaded = load_image(encoded(picture(size=(6, 4)), "JPEG", exif=exif.tobytes()))
    assert loaded.size == (4, 6)
    assert loaded.info == {}
    assert not loaded.getexif()


def test_draft_decoding_never_goes_below_the_side_asked_for():
    data = encoded(picture(size=(640, 400)), "JPEG")
    assert load_image(data, min_side=100).size == (160, 100)
    assert load_image(data, min_side=101).size == (320, 200)
    assert load_image(data, min_side=399).size == (640, 400)


def test_a_page_is_chosen_and_a_missing_one_is_named():
    pages = [Image.new("L", (3, 3), grey) for grey in (10, 20, 30)]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert load_image(data).getpixel((0, 0)) == (10, 10, 10)
    assert load_image(data, frame=2).getpixel((0, 0)) == (30, 30, 30)
    with pytest.raises(DataError, match="no frame 3; the file has 3"):
        load_image(data, frame=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"id,question\n1,what\n", "not an image"),
        (b"\x89PNG\r\n\x1a\nnothing else", "cannot be decoded|damaged"),
    ],
)
def test_what_is_not_an_image_is_named(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_a_file_cut_anywhere_is_a_data_error_or_an_image(kind: str):
    data = encoded(picture(size=(32, 32)), kind)
    for length in range(1, len(data), max(1, len(data) // 40)):
        try:
            assert load_image(data[:length]).mode == "RGB"
        except DataError:
            continue


@pytest.mark.parametrize("side", [MAX_PIXELS, 20_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_decoding(side: int):
    with pytest.raises(DataError, match="pixels"):
        load_image(png_header(side, side))
    with pytest.raises(DataError, match="pixels"):
        load_image(png_header(10_000, MAX_PIXELS // 10_000 + 1))


def test_a_large_file_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_module, "MAX_BYTES", 10)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    with pytest.raises(DataError, match="more than 10"):
        load_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such image: .*gone\.png"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        load_image("a\0b")


class _Pictures(Handler):
    picture = encoded(picture(), "PNG")

    def get(self):
        if self.path == "/moved":
            self.reply(302, headers={"Location": "/a.png"})
        elif self.path == "/a.png":
            self.reply(200, self.picture)
        else:
            self.send_error(404)


@pytest.fixture
def address():
    with serving(_Pictures) as address:
        yield address


def test_an_address_is_fetched_redirects_included(address: str):
    assert load_image(f"{address}/a.png").size == (6, 4)
    assert load_image(f"{address}/moved").size == (6, 4)


def test_what_an_address_refuses_or_sends_too_much_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(RemoteError, match="404"):
        load_image(f"{address}/gone.png")
    with pytest.raises(RemoteError, match="cannot fetch"):
        load_image("http://127.0.0.1:9/a.png")
    monkeypatch.setattr(image_module, "_MAX_DOWNLOAD_BYTES", 5)
    with pytest.raises(DataError, match="more than 5 bytes"):
        load_image(f"{address}/a.png")


def test_a_path_that_looks_like_an_address_is_not_fetched(address: str):
    with pytest.raises(DataError, match="no such image"):
        load_image(Path(f"{address}/a.png"))
