"""What is told of a picture before it goes to a server, by the privacy gate's own eyes."""

from pathlib import Path

import pydicom
import pytest
from dicom_files import write_slice
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from medllava.chat import privacy
from medllava.chat.privacy import PrivacyWatch
from medllava.cli.app import app
from medllava.images.load import load_image

SERVER = "gpu.example.org:8000"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A file whose tags name somebody and that says that its pixels may, too."""
    path = tmp_path / "scan.dcm"
    write_slice(path, series="1.2", patient="P-77", height=0, number=1, hounsfield=0)
    data = pydicom.dcmread(path)
    data.BurnedInAnnotation = "YES"
    data.save_as(path)
    return path


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "has_reader", lambda: False)


def look(source: Path | bytes, sent_to: str | None) -> list[tuple[bool, str]]:
    told = PrivacyWatch(sent_to).look(source, [load_image(source)])
    return [(one.is_urgent, one.text) for one in told]


@pytest.mark.usefixtures("no_reader")
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_server_is_named_with_what_it_would_get_and_no_value_is_told(scan: Path, as_bytes: bool):
    told = look(scan.read_bytes() if as_bytes else scan, SERVER)
    (burned, first), (unseen, second), (tags, third) = told
    assert (burned, unseen, tags) == (True, False, False)
    assert f"would go to {SERVER}" in first
    assert "were not looked at" in second
    assert "PatientName, PatientID" in third or "PatientID, PatientName" in third
    assert "Secret" not in str(told)
    assert "P-77" not in str(told)


def test_a_model_loaded_here_is_no_reason_to_warn(scan: Path):
    ((is_urgent, text),) = look(scan, None)
    assert not is_urgent
    assert "the model sees only the picture" in text


def test_a_clean_picture_is_told_nothing_about(tmp_path: Path):
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "clean.png")
    assert look(tmp_path / "clean.png", None) == []


@pytest.mark.usefixtures("no_reader")
def test_a_series_is_told_once(tmp_path: Path):
    for number in range(3):
        write_slice(
            tmp_path / "ct" / f"{number}.dcm",
            series="1.2", patient="P-77", height=number, number=number, hounsfield=0,
        )  # fmt: skip
    image = load_image(tmp_path / "ct")
    told = PrivacyWatch(SERVER).look(tmp_path / "ct", [image, image, image])
    assert sum("tags" in one.text for one in told) == 1


def test_text_in_the_pixels_is_seen_before_it_is_sent(tmp_path: Path):
    pytest.importorskip("rapidocr")
    picture = Image.new("RGB", (480, 160), "black")
    font = ImageFont.load_default(36)
    ImageDraw.Draw(picture).text((20, 50), "MUSTER, ERIKA 1961", fill="white", font=font)
    picture.save(tmp_path / "screen.png")
    urgent = [text for is_urgent, text in look(tmp_path / "screen.png", SERVER) if is_urgent]
    assert len(urgent) == 1
    assert "Text stands in this picture" in urgent[0]
    assert "ERIKA" not in urgent[0]


@pytest.mark.usefixtures("no_reader")
def test_a_script_is_warned_on_stderr_before_anything_is_sent(scan: Path):
    address = "http://me:secret@127.0.0.1:9/v1"  # nothing listens there
    arguments = ["chat", str(scan), "--prompt", "What?", "--base-url", address, "--ckpt", "m"]
    done = CliRunner().invoke(app, [*arguments, "--json"], env={"OPENAI_API_KEY": "none"})
    assert done.exit_code == 5
    assert f"Warning: {scan}: The file says" in done.stderr
    assert "would go to 127.0.0.1:9." in done.stderr
    assert "secret" not in done.output
