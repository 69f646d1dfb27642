"""An image that opened is not decoded again while its file is the same one."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from medllava.data import image_verdicts
from medllava.data.image_verdicts import ImageVerdicts
from medllava.errors import DataError
from medllava.progress import SilentProgress


class Decoder:
    """Counts what is decoded; refuses what begins with `bad`."""

    def __init__(self) -> None:
        self.decoded: list[str] = []
        self.trusted: list[str] = []

    def decode(self, path: Path) -> None:
        self.decoded.append(path.name)
        if path.is_dir():
            return
        if not path.exists() or path.read_bytes().startswith(b"bad"):
            raise DataError(f"damaged: {path}")

    def trust(self, path: Path) -> None:
        self.trusted.append(path.name)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_verdicts, "_SETTLED_SECONDS", 0.0)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"good a")
    (folder / "b.png").write_bytes(b"good b")
    return folder


def start(root: Path) -> Decoder:
    """Try every image of a folder once, as a run does when it starts."""
    verdicts, decoder = ImageVerdicts(root, SilentProgress()), Decoder()
    for path in sorted(root.iterdir()):
        with contextlib.suppress(DataError):
            verdicts.try_once(path, decode=decoder.decode, trust=decoder.trust)
    verdicts.save()
    return decoder


def test_a_second_start_decodes_nothing(root: Path) -> None:
    assert start(root).decoded == ["a.png", "b.png"]
    again = start(root)
    assert (again.decoded, again.trusted) == ([], ["a.png", "b.png"])


def test_a_changed_file_is_decoded_again_even_of_the_same_size_and_time(root: Path) -> None:
    start(root)
    path = root / "a.png"
    before = path.stat()
    path.write_bytes(b"bad !!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert start(root).decoded == ["a.png"]


def test_what_was_refused_is_tried_again(root: Path) -> None:
    (root / "a.png").write_bytes(b"bad")
    start(root)
    assert start(root).decoded == ["a.png"]


def test_a_file_that_has_just_changed_is_not_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_verdicts, "_SETTLED_SECONDS", 60.0)
    start(root)
    assert start(root).decoded == ["a.png", "b.png"]
    later = time.time() + 100
    monkeypatch.setattr(image_verdicts.time, "time", lambda: later)
    start(root)
    assert start(root).decoded == []


def test_folders_links_and_other_roots_are_kept_apart(root: Path, tmp_path: Path) -> None:
    (root / "series").mkdir()
    (root / "link.png").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"good")
    start(root)
    assert start(root).decoded == ["series"]  # its files may change without it
    (tmp_path / "target").write_bytes(b"good too")
    assert start(root).decoded == ["link.png", "series"]
    (tmp_path / "target").unlink()
    assert start(root).decoded == ["link.png", "series"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a.png": 3}', b"\xff"])
def test_a_damaged_cache_is_made_again(root: Path, tmp_path: Path, content: bytes) -> None:
    start(root)
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(content)
    assert start(root).decoded == ["a.png", "b.png"]
    assert start(root).decoded == []


def test_a_disk_that_takes_nothing_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    said: list[str] = []

    class Notes(SilentProgress):
        def note(self, message: str) -> None:
            said.append(message)

    verdicts, decoder = ImageVerdicts(root, Notes()), Decoder()
    verdicts.try_once(root / "a.png", decode=decoder.decode, trust=decoder.trust)
    verdicts.save()
    assert "decode all images again" in said[0]
