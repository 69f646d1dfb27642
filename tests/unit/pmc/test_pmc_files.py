"""Files of an input folder that are no article, or hold one in an unusual form: all are told."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pmc_bucket import BucketArticle, article_xml, picture

from medllava.errors import DataError
from medllava.pmc.config import FetchConfig
from medllava.pmc.entrez import iter_lines
from medllava.pmc.fetch import fetch_figures

XML = article_xml(BucketArticle(1, num_figures=1))
IMAGE = {"a1-g001.png": picture(1)}


def outcome_of(tmp_path: Path, files: dict[str, bytes]) -> tuple[int, list[str]]:
    """Figures kept, and the reasons of what was left out."""
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    summary = fetch_figures(
        FetchConfig(
            output_dir=tmp_path / "out", inputs=(tmp_path / "in",), workers=1, licenses=("any",)
        )
    )
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    return summary.counts["kept"], sorted({row["reason"] for row in rejected})


def tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as package:
        for name, data in members.items():
            info = tarfile.TarInfo(f"x/{name.replace('_', '.')}")
            info.size = len(data)
            package.addfile(info, io.BytesIO(data))
    return packed(buffer.getvalue())


def packed(data: bytes) -> bytes:
    # These bytes are names of tests: with the time in them every worker collects others.
    return gzip.compress(data, mtime=0)


def encoded(encoding: str, *, around: str = "{}") -> bytes:
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    return (head + around.format(XML)).encode(encoding)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.xml", b"<html><body><article><h1>News</h1></article></body></html>", "no-article"),
        ("a.xml", b"<article><info><title>DocBook</title></info></article>", "no-article"),
        ("a.xml", b"<!-- <article> --><html/>", "no-article"),
        ("a.xml", "<html>Log in</html>".encode("utf-16"), "no-article"),
        ("a.xml", b"<pmc-articleset><Reply error='not open'/></pmc-articleset>", "no-article"),
        ("a.xml", b"<html><body><br>soup</body></html>", "xml-malformed"),
        ("a.xml", b'{"error": "log in"}', "xml-malformed"),
        ("a.xml", b"", "xml-malformed"),
        ("a.xml", b" \n ", "xml-malformed"),
        ("a.xml", b"\xef\xbb\xbf", "xml-malformed"),
        ("a.xml", bytes(1000), "xml-malformed"),
        (
            "a.xml",
            XML.replace("</caption>", "<p>M\u00fcller</p></caption>").encode("latin-1"),
            "xml-malformed",
        ),
        ("a.xml.gz", packed(b""), "xml-malformed"),
        ("a.xml.gz", packed(XML.encode())[:-20], "file-damaged"),
        ("a.tar.gz", tar(readme_txt=b"words"), "no-article"),
        ("a.tar.gz", tar(), "no-article"),
        ("a.tar.gz", tar(a_nxml=b""), "xml-malformed"),
        ("metadata/PMC2.json", b"{}", "bad-key"),
        (
            "metadata/PMC2.1.json",
            json.dumps({"pmcid": "PMC2", "version": 1, "is_retracted": "yes"}).encode(),
            "metadata-malformed",
        ),
        (
            "metadata/PMC2.1.json",
            json.dumps({"pmcid": "PMC2", "version": 1, "xml_url": "https://x/PMC2.1.xml"}).encode(),
            "metadata-malformed",
        ),
    ],
)
def test_what_is_no_article_is_a_rejected_row(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / "in" / "metadata").mkdir(parents=True)
    if name.startswith("metadata/"):
        (tmp_path / "in" / "metadata" / "PMC9.1.json").write_bytes(b"{")  # what makes it a mirror
    kept, reasons = outcome_of(tmp_path, {name: data})
    assert kept == 0
    assert reason in reasons


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("A.XML.GZ", packed(XML.encode())),
        ("A.TAR.GZ", tar(a_nxml=XML.encode(), **{"a1-g001.png": picture(1)})),
        ("a.xml", encoded("utf-16")),
        ("a.xml", encoded("utf-16", around="<pmc-articleset>{}</pmc-articleset>")),
        ("a.xml", b"\xef\xbb\xbf" + XML.encode()),
        ("a.xml", b"<!-- <html> -->" + XML.encode()),
        ("a.xml", encoded("gb18030")),
    ],
)
def test_an_article_is_read_in_every_dress(tmp_path: Path, name: str, data: bytes) -> None:
    assert outcome_of(tmp_path, {name: data, **IMAGE}) == (1, [])


@pytest.mark.parametrize(("bad", "reason"), [(b"<html/>", "no-article"), (b"<a", "xml-malformed")])
def test_one_bad_file_of_a_package_costs_no_other(tmp_path: Path, bad: bytes, reason: str) -> None:
    package = tar(z_xml=bad, a_nxml=XML.encode(), **{"a1-g001.png": picture(1)})
    assert outcome_of(tmp_path, {"a.tar.gz": package}) == (1, [reason])


def test_a_name_that_cannot_be_written_down_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = os.fsencode(tmp_path / "in") + b"/a\xff.xml"
    with open(path, "wb") as handle:  # noqa: PTH123 - bytes are no Path
        handle.write(XML.encode())
    assert outcome_of(tmp_path, {}) == (0, ["bad-name"])


def test_a_folder_that_cannot_be_read_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "in" / "locked"
    locked.mkdir(parents=True)
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="locked"):
        outcome_of(tmp_path, {"a.xml": XML.encode(), **IMAGE})


def test_ids_are_taken_as_spreadsheets_and_browsers_write_them() -> None:
    lines = [
        "\ufeffPMC1;PMC2, PMC3",
        '"PMC4","https://pmc.ncbi.nlm.nih.gov/articles/PMC5/"',
        "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC6 pmid:7 https://doi.org/10.1000/x",
        "10.1002/1521-3773(20010316)40:6<9823::AID-ANIE9823>3.3.CO;2-C  # of old",
    ]
    assert list(iter_lines(lines)) == [
        *("PMC1", "PMC2", "PMC3", "PMC4", "PMC5", "PMC6", "7", "10.1000/x"),
        "10.1002/1521-3773(20010316)40:6<9823::AID-ANIE9823>3.3.CO;2-C",
    ]
