"""The pictures that readers get wrong, each with the value that its standard gives."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from medllava.errors import DataError
from medllava.images import limits
from medllava.images.load import load_image

PICTURES = Path(__file__).parents[2] / "fixtures" / "pictures"


def shown(source: Path | bytes, **options: object) -> np.ndarray:
    return np.asarray(load_image(source, **options))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_hot_pixel_leaves_the_rest_in_full_contrast():
    pixels = shown(PICTURES / "hot.png")
    assert pixels.mean() == pytest.approx(128, abs=1)
    assert len(np.unique(pixels)) == 256


def test_a_turned_photograph_stands_upright():
    assert load_image(PICTURES / "rot.jpg").size == (20, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_shows_the_same_picture(orientation: int, kind: str):
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :24] = 255
    upright[:16, 24:, 0] = 255
    upright[16:, :24, 2] = 255
    back = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }.get(orientation, lambda a: a)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(back(upright)))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = shown(encode(stored, kind, exif=exif, **options))
    assert pixels.shape == upright.shape
    middles = [(8, 12), (8, 36), (24, 12), (24, 36)]
    for row, column in middles:
        assert np.abs(pixels[row, column].astype(int) - upright[row, column]).max() < 12


def test_an_orientation_turns_sixteen_bits_too():
    values = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = (
        shown(encode(Image.fromarray(values), "PNG", **options)) for options in ({}, {"exif": exif})
    )
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_a_tiff_whose_zero_is_white_is_no_negative():
    row = shown(PICTURES / "miniswhite16.tif")[60, :, 0]
    assert row[0] < 20
    assert row[-1] > 235
    assert (np.diff(row.astype(int)) >= 0).all()


@pytest.mark.parametrize(("bits", "dtype"), [(8, "uint8"), (16, "uint16"), (32, "float32")])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_white_zero_inverts_at_every_depth(bits: int, dtype: str, byte_order: str):
    tifffile = pytest.importorskip("tifffile")
    top = 1 if dtype == "float32" else 2**bits - 1
    ramp = np.tile(np.linspace(0, top, 256), (16, 1)).astype(dtype)
    pages = []
    for photometric in ("minisblack", "miniswhite"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, ramp, photometric=photometric, byteorder=byte_order)
        pages.append(shown(buffer.getvalue()).astype(int))
    assert pages[0][0, -1, 0] > 250
    assert np.abs(pages[0] - (255 - pages[1])).max() <= 1


def test_bilevel_fax_pages_keep_their_black():
    black = Image.new("1", (64, 64), 1)
    black.paste(0, (0, 0, 32, 64))
    for compression in ("group4", "group3", "packbits"):
        pixels = shown(encode(black, "TIFF", compression=compression))
        assert pixels[10, 10].tolist() == [0, 0, 0]
        assert pixels[10, 50].tolist() == [255, 255, 255]


def test_a_bigtiff_is_read():
    assert load_image(PICTURES / "bigtiff.tif").size == (200, 120)


def test_a_small_page_of_a_large_pyramid_is_read():
    path = PICTURES / "pyramid_page1_small.tif"
    assert load_image(path, frame=1).size == (200, 120)
    with pytest.raises(DataError, match="12,000 x 12,000"):
        load_image(path)


def test_a_page_far_beyond_pillows_own_limit_does_not_hide_the_small_one():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        blank = (np.zeros((512, 512), np.uint8) for _ in range(50 * 50))
        writer.write(
            blank, shape=(25600, 25600), dtype="uint8", tile=(512, 512), compression="zlib"
        )
        writer.write(np.full((30, 40), 7, np.uint8))
    assert load_image(buffer.getvalue(), frame=1).size == (40, 30)


def test_cmyk_lab_and_wide_colors_are_near_what_they_were():
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    color = Image.fromarray(np.dstack([ramp, ramp.T, np.full_like(ramp, 60)]))
    wanted = np.asarray(color).astype(int)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(color, to_lab)
    files = {
        "cmyk jpeg": encode(color.convert("CMYK"), "JPEG", quality=95),
        "cmyk tiff": encode(color.convert("CMYK"), "TIFF"),
        "lab tiff": encode(lab, "TIFF"),
        "ycbcr tiff": encode(color, "TIFF", compression="jpeg"),
        "avif": encode(color, "AVIF", quality=95),
        "ppm": encode(color, "PPM"),
    }
    for name, data in files.items():
        assert np.abs(shown(data) - wanted).mean() < 6, name


def test_signed_and_whole_numbers_of_any_depth_show_one_ramp():
    tifffile = pytest.importorskip("tifffile")
    ramp = np.tile(np.arange(256), (8, 1))
    eight = shown(encode(Image.fromarray(ramp.astype(np.uint8)), "PNG")).astype(int)
    stored = [
        (ramp * 257).astype(np.uint16),
        (ramp * 100 - 12_000).astype(np.int16),
        (ramp * 16_000_000).astype(np.uint32),
        (ramp * 1_000_000 - 100_000_000).astype(np.int32),
        (ramp / 255).astype(np.float32),
    ]
    for values in stored:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="minisblack")
        assert np.abs(shown(buffer.getvalue()) - eight).max() <= 2, values.dtype


def test_a_sixteen_bit_pgm_and_png_are_one_picture():
    values = (np.random.default_rng(0).gamma(2, 500, (40, 40))).astype(np.uint16)
    pgm = b"P5\n40 40\n65535\n" + values.astype(">u2").tobytes()
    png = encode(Image.fromarray(values), "PNG")
    assert np.array_equal(shown(pgm), shown(png))


def test_the_table_and_the_percentiles_agree_on_every_value():
    from medllava.images.windowing import render_gray

    values = np.random.default_rng(1).gamma(3, 900, (300, 200)).astype(np.uint16)
    values[0, 0] = 65535
    low, high = np.percentile(values, (0.5, 99.5))
    wanted = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(render_gray(values), wanted)
    assert np.array_equal(render_gray(values.astype(np.float64)), wanted)


_MEASURE = """
import sys
from medllava.images.load import load_image
assert load_image(sys.argv[1]).size == (9400, 9500)
# Not ru_maxrss: it remembers the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_picture_of_89_megapixels_takes_a_small_multiple_of_its_size():
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(PICTURES / "max16.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(ran.stdout) / 2**20
    assert peak < 0.62, f"{peak:.2f} GiB"


def test_no_more_than_two_large_pictures_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "LARGE_PIXELS", 100)
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with limits.decoding(20, 20):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_forked_process_has_turns_of_its_own():
    import os

    limits._turns.acquire()
    limits._turns.acquire()
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if limits._turns.acquire(timeout=2) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        limits._turns.release()
        limits._turns.release()


def test_a_small_picture_never_waits():
    for _ in range(2):
        limits._turns.acquire()
    try:
        assert load_image(PICTURES / "rot.jpg").size == (20, 40)
    finally:
        for _ in range(2):
            limits._turns.release()


def test_a_tiff_of_signed_bytes_begins_with_the_darkest(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(-128, 128, dtype=np.int8).reshape(1, -1).repeat(4, axis=0)
    tifffile.imwrite(tmp_path / "signed.tif", values)
    assert shown(tmp_path / "signed.tif")[2, :, 0].tolist() == list(range(256))


def test_a_tiff_of_a_kind_that_is_not_read_is_not_called_damaged(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "doubles.tif", np.eye(8))
    with pytest.raises(DataError, match=r"cannot be decoded: .*doubles\.tif\. Save it as PNG"):
        load_image(tmp_path / "doubles.tif")
