"""Hostile files on disk: each is rejected by name, and nothing is written outside the folder."""

import io
import tarfile
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pmc_bucket import BucketArticle, article_xml

from medllava.pmc.config import FetchConfig
from medllava.pmc.fetch import fetch_figures

BILLION_LAUGHS = (
    "<!DOCTYPE article ["
    + "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    + '<!ENTITY l0 "ha">]><article><p>&l9;</p></article>'
).encode()
EXTERNAL = b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/hostname">]><article>&x;</article>'


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as package:
        for member, data in members:
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def bomb_png(side: int) -> bytes:
    """A PNG that claims `side` squared pixels and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(b"0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def reasons_of(tmp_path: Path) -> set[str]:
    summary = fetch_figures(
        FetchConfig(output_dir=tmp_path / "out", inputs=(tmp_path / "in",), workers=1)
    )
    assert summary.complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    return {row["reason"] for row in pq.read_table(tmp_path / "out/rejected.parquet").to_pylist()}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BILLION_LAUGHS, "xml-entities"),
        (EXTERNAL, "xml-entities"),
        (b"<article>" + b"<sec>" * 200_000, "xml-too-deep"),
        (b"\x00\xff\xfe nonsense", "xml-malformed"),
    ],
)
def test_hostile_xml_file(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_bytes(data)
    assert reasons_of(tmp_path) == {reason}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("../../escaped.jpg"), "package-path"),
        (member("/tmp/escaped.jpg"), "package-path"),
        (member("x/link.jpg", tarfile.SYMTYPE, "/etc/hostname"), "package-link"),
        (member("x/hard.jpg", tarfile.LNKTYPE, "/etc/hostname"), "package-link"),
        (member("x/device", tarfile.CHRTYPE), "package-link"),
    ],
)
def test_hostile_package(tmp_path: Path, bad: tarfile.TarInfo, reason: str) -> None:
    (tmp_path / "in").mkdir()
    xml = article_xml(BucketArticle(1)).encode()
    make_tar(tmp_path / "in" / "p.tar.gz", [(member("x/a.nxml"), xml), (bad, b"")])
    assert reasons_of(tmp_path) == {reason}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bomb_png(60_000), "image-too-large"),
        (bomb_png(300), "image-damaged"),
        (b"<svg onload='x'/>", "not-an-image"),
        (b"", "not-an-image"),
    ],
)
def test_hostile_image(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_text(article_xml(BucketArticle(1, num_figures=1)))
    (tmp_path / "in" / "a1-g001.png").write_bytes(data)
    assert reasons_of(tmp_path) == {reason}


def test_damaged_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.tar.gz").write_bytes(b"\x1f\x8b" + b"junk" * 50)
    assert reasons_of(tmp_path) == {"package-damaged"}
