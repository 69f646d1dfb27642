"""A small bucket in the archive's layout, made of generated articles and pictures."""

import gzip
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

CAPTIONS = (
    "Axial T1-weighted MRI of the brain shows a mass in the left frontal lobe.",
    "Axial CT of the abdomen after contrast shows a lesion in the liver, segment VII.",
    "Chest X-ray in posteroanterior view shows an infiltrate in the right lower lobe.",
    "Hematoxylin and eosin stain of the biopsy at original magnification x200.",
    "Gross specimen of the resected kidney with a yellow mass of 4 cm.",
    "Kaplan-Meier curves of overall survival in both arms of the trial.",
)


@dataclass
class BucketArticle:
    number: int
    version: int = 1
    num_figures: int = 2
    license: str | None = "CC BY"
    xml_license: str = "by"
    is_retracted: bool = False
    article_type: str = "research-article"
    caption: str | None = None
    image_size: tuple[int, int] = (160, 120)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"PMC{self.number}.{self.version}"


def picture(seed: int, size: tuple[int, int] = (160, 120), kind: str = "PNG") -> bytes:
    """A picture that looks like no other: coarse noise, enlarged."""
    digest = b"".join(hashlib.blake2b(f"{seed}:{i}".encode()).digest() for i in range(3))
    image = Image.frombytes("L", (16, 12), digest[:192]).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def article_xml(article: BucketArticle) -> str:
    figures, mentions = [], []
    for n in range(1, article.num_figures + 1):
        caption = article.caption or CAPTIONS[(article.number + n) % len(CAPTIONS)]
        figures.append(
            f'<fig position="float" id="f{n}"><label>Figure {n}</label><caption><p>{caption}</p>'
            f'</caption><graphic position="float" xlink:href="a{article.number}-g{n:03d}.png"/>'
            "</fig>"
        )
        mentions.append(f'We saw it (<xref rid="f{n}" ref-type="fig">Figure {n}</xref>).')
    url = f"https://creativecommons.org/licenses/{article.xml_license}/4.0/"
    return (
        '<article xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' article-type="{article.article_type}"><front><journal-meta/><article-meta>'
        f'<article-id pub-id-type="pmcid">PMC{article.number}</article-id>'
        f'<article-id pub-id-type="pmcid-ver">{article.key}</article-id>'
        f"<title-group><article-title>Title {article.number}</article-title></title-group>"
        f"<permissions><license><ali:license_ref>{url}</ali:license_ref></license></permissions>"
        f"</article-meta></front><body><p>{' '.join(mentions)}</p>{''.join(figures)}</body>"
        "</article>"
    )


def article_objects(article: BucketArticle) -> dict[str, bytes]:
    """Every object of an article by key."""
    key = article.key
    objects = {f"{key}/{key}.xml": article_xml(article).encode()}
    for n in range(1, article.num_figures + 1):
        data = picture(article.number * 100 + n, article.image_size)
        objects[f"{key}/a{article.number}-g{n:03d}.png"] = data
    urls = {
        name: f"s3://pmc-oa-opendata/{name}?md5={hashlib.md5(data).hexdigest()}"
        for name, data in objects.items()
    }
    xml_url = urls.pop(f"{key}/{key}.xml")
    metadata = {
        "pmcid": f"PMC{article.number}",
        "version": article.version,
        "pmid": article.number + 1,
        "doi": f"10.1/{article.number}",
        "title": f"Title {article.number}",
        "citation": f"J Test. 2026; {article.number}.",
        "is_pmc_openaccess": True,
        "is_retracted": article.is_retracted,
        "license_code": article.license,
        "xml_url": xml_url,
        "media_urls": list(urls.values()),
        **article.extra,
    }
    data = json.dumps(metadata).encode()
    return {**objects, f"{key}/{key}.json": data, f"metadata/{key}.json": data}


def inventory_objects(objects: dict[str, bytes], date: str = "2026-09-01") -> dict[str, bytes]:
    """The inventory of all metadata objects, in two parts."""
    prefix = "inventory-reports/pmc-oa-opendata/metadata"
    rows = [
        f'"pmc-oa-opendata","{key}","{date}T00:00:00.000Z","{hashlib.md5(data).hexdigest()}"\n'
        for key, data in objects.items()
        if key.startswith("metadata/")
    ]
    parts = {
        f"{prefix}/data/{date}-{n}.csv.gz": gzip.compress("".join(rows[n::2]).encode(), mtime=0)
        for n in range(2)
    }
    manifest = {
        "sourceBucket": "pmc-oa-opendata",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": [
            {"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}
            for key, data in parts.items()
        ],
    }
    return {**parts, f"{prefix}/{date}T01-00Z/manifest.json": json.dumps(manifest).encode()}


def write_mirror(folder: Path, articles: list[BucketArticle]) -> Path:
    for article in articles:
        for key, data in article_objects(article).items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder
