"""Metadata leave, pixels stay: byte for byte what a decoder reads."""

import io

import pytest
from PIL import Image, PngImagePlugin

from medllava.images.encode import rewrite_image
from medllava.images.strip import strip_jpeg, strip_png

SECRET = b"patient Jane Roe"


def picture(mode: str = "RGB") -> Image.Image:
    noise = Image.effect_noise((96, 64), 60)
    return noise if mode == "L" else Image.merge("RGB", (noise, noise.rotate(180), noise))


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    buffer = io.BytesIO()
    picture(mode).save(buffer, "JPEG", exif=exif, comment=SECRET, icc_profile=SECRET, **options)
    return buffer.getvalue()


def png(mode: str = "RGB") -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", SECRET.decode())
    buffer = io.BytesIO()
    picture(mode).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def pixels(data: bytes) -> tuple[str, bytes]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.mode, opened.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0, "quality": 95},
        {"restart_marker_rows": 1},
        {"optimize": True},
    ],
)
def test_jpeg_keeps_its_pixels_and_loses_its_words(mode: str, options: dict[str, object]) -> None:
    data = jpeg(mode, **options)
    assert data.count(SECRET) >= 3
    stripped = strip_jpeg(data + SECRET)
    assert stripped is not None
    assert SECRET not in stripped
    assert pixels(stripped) == pixels(data)
    assert rewrite_image(data + SECRET, name="x").data == stripped


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_png_keeps_its_pixels_and_loses_its_words(mode: str) -> None:
    data = png(mode)
    stripped = strip_png(data + SECRET)
    assert stripped is not None
    assert SECRET not in stripped
    assert pixels(stripped) == pixels(data)


def test_unknown_segments_are_dropped_whatever_they_are() -> None:
    data = jpeg()
    for marker in (0xE5, 0xEF, 0xFE, 0xEE, 0xE0):
        segment = bytes((0xFF, marker)) + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
        stripped = strip_jpeg(data[:2] + segment + data[2:])
        assert stripped is not None
        assert SECRET not in stripped


@pytest.mark.parametrize("cut", [3, 20, 200, -1, -2])
def test_what_breaks_off_is_not_taken(cut: int) -> None:
    assert strip_jpeg(jpeg()[:cut]) is None
    assert strip_png(png()[:cut]) is None


def test_what_needs_a_change_is_encoded_anew() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", exif=exif)
    turned = rewrite_image(buffer.getvalue(), name="x")
    assert turned.pixels.size == (64, 96)
    palette = io.BytesIO()
    picture().quantize(16).save(palette, "PNG")
    assert strip_png(palette.getvalue()) is None
    assert rewrite_image(palette.getvalue(), name="x").pixels.mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_saved_of_the_picture_later_names_nobody(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(buffer, kind, exif=exif.tobytes())
    assert SECRET in buffer.getvalue()
    clean = rewrite_image(buffer.getvalue(), name="a file")
    assert SECRET not in clean.data
    for later in ("JPEG", "PNG", "TIFF", "WEBP"):
        for pixels in (clean.pixels, clean.pixels.crop((0, 0, 20, 20))):
            saved = io.BytesIO()
            pixels.save(saved, later)
            assert SECRET not in saved.getvalue()
