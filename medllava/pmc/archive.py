"""Article versions in the layout of the public bucket, behind HTTPS or on a disk.

    PMC123.1/PMC123.1.xml, PMC123.1/figure.jpg, ...    metadata/PMC123.1.json

The metadata object names every other object with its md5. Keys and names are checked before they
are used; every body is checked against its md5 before it is believed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medllava.errors import DataError, RemoteError
from medllava.pmc.rights import normalize_code
from medllava.pmc.state import Item, Miss
from medllava.pmc.xml import Element, parse_article
from medllava.store import contained_path

KEY = re.compile(r"(PMC[1-9]\d{0,11})\.([1-9]\d{0,3})")
_OBJECT = re.compile(
    r"s3://[a-z0-9.-]+/(PMC[1-9]\d{0,11}\.[1-9]\d{0,3})/([^/?#\x00-\x1f]{1,255})\?md5=([0-9a-f]{32})"
)
_IMAGE_NAME = re.compile(r".+\.(?:jpe?g|png|gif|tiff?|webp)", re.IGNORECASE)


Check = Callable[[bytes], str | None]
"""Looks at a body and says what is wrong with it, None if nothing is."""


class ObjectError(DataError):
    """An object cannot be had, and asking again will not help; `reason` is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason apart from the sentence."""
        super().__init__(f"{detail}. It is skipped.")
        self.reason = reason
        self.detail = detail


class UnansweredError(RemoteError):
    """What was asked for is neither given nor denied; `reason` is the word it is counted under."""

    def __init__(self, message: str, *, reason: str = "no-answer") -> None:
        """Keep the reason apart from the sentence."""
        super().__init__(message)
        self.reason = reason


class UnreadableError(UnansweredError):
    """A file that is there cannot be read today."""

    def __init__(self, detail: str) -> None:
        """Name the file and why."""
        super().__init__(f"cannot be read ({detail}). Run again when it can.", reason="unreadable")


class ObjectStore(Protocol):
    """Reads objects by key."""

    is_remote: bool
    """What it says may be the connection's word, not the archive's."""

    def read(self, key: str, *, check: Check) -> bytes:
        """Return a whole object that passes its check.

        Raises:
            ObjectError: it is not there, or is damaged where nothing stands between.
            RemoteError: no answer that can be used; a later run may have more luck.
        """
        ...

    def size(self, key: str) -> int:
        """Return the size of an object in bytes without reading it.

        Raises:
            ObjectError: it is not there.
            RemoteError: no answer after retries.
        """
        ...

    def release(self, prefix: str) -> None:
        """Forget what is kept of an article that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the archive says of an article version."""

    pmcid: str
    version: int
    pmid: str | None = None
    doi: str | None = None
    title: str = ""
    citation: str = ""
    license: str | None = None
    is_retracted: bool | None = None
    """None: the source does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """Bytes of an image file as the source has them."""

    data: bytes
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArticleFiles:
    """One article before it is read: what is known, and how to get the rest."""

    item: str
    load_root: Callable[[], Element]
    image_names: tuple[str, ...]
    """Of the image files that are there, whether a figure or not."""
    load_image: Callable[[str], SourceImage]
    size_of: Callable[[str], int]
    """Bytes of an image file, or of the XML under the empty name, without reading it."""
    metadata: Metadata | None = None
    """None where only the XML speaks for itself, as in legacy packages."""
    metadata_md5: str = ""


class Source(Protocol):
    """Turns work items into articles."""

    is_remote: bool
    """Reads through a network, which has failures of its own."""

    def iter_articles(self, item: Item) -> Iterator[ArticleFiles]:
        """Yield the articles of one item; the bucket has one, a file may hold many."""
        ...

    def release(self, item: Item) -> None:
        """Forget what is kept of an item that is done."""


class BucketSource:
    """Articles of an object store in the bucket's layout."""

    def __init__(self, store: ObjectStore) -> None:
        """Read from `store`."""
        self._store = store
        self.is_remote = store.is_remote

    def iter_articles(self, item: Item) -> Iterator[ArticleFiles]:
        """Read the metadata object and yield the article."""
        key, metadata, objects, md5 = self.read_metadata(item.name)
        xml_name = f"{key}.xml"

        def load_root() -> Element:
            if xml_name not in objects:
                raise ObjectError("xml-missing", f"no XML is listed for {key}")
            return parse_article(
                self._store.read(f"{key}/{xml_name}", check=md5_check(objects[xml_name]))
            )

        def load_image(name: str) -> SourceImage:
            return SourceImage(
                data=self._store.read(f"{key}/{name}", check=md5_check(objects[name])),
                md5=objects[name],
            )

        yield ArticleFiles(
            item=item.name,
            metadata=metadata,
            load_root=load_root,
            image_names=tuple(name for name in objects if _IMAGE_NAME.fullmatch(name)),
            load_image=load_image,
            size_of=lambda name: self._store.size(f"{key}/{name or xml_name}"),
            metadata_md5=md5,
        )

    def read_metadata(self, key: str) -> tuple[str, Metadata, dict[str, str], str]:
        """Return key, metadata, md5 by object name, and the md5 of the metadata object itself."""
        if not KEY.fullmatch(key):
            raise ObjectError("bad-key", f"{key!r} is not PMCID.version")
        data = self._store.read(f"metadata/{key}.json", check=lambda body: _not_of(body, key))
        metadata, objects = parse_metadata(data, key=key)
        return key, metadata, objects, hashlib.md5(data, usedforsecurity=False).hexdigest()

    def release(self, item: Item) -> None:
        """Forget the kept objects of an article that is done."""
        self._store.release(item.name)


class MirrorStore:
    """A copy of the bucket on disk, or a part of it."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        """Read below `root`."""
        self._root = root

    def read(self, key: str, *, check: Check) -> bytes:
        """Return a file's bytes."""
        path = contained_path(self._root, key)
        if not path.is_file() and key.startswith("metadata/"):
            name = path.name
            path = self._root / name.removesuffix(".json") / name
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectError("object-missing", f"not in the mirror: {path}") from None
        except OSError as error:
            raise UnreadableError(f"{error.strerror}: {path}") from None
        problem = check(data)
        if problem is not None:
            is_metadata = key.startswith("metadata/")
            reason = "metadata-malformed" if is_metadata else "checksum"
            raise ObjectError(reason, f"{problem}: {path}")
        return data

    def size(self, key: str) -> int:
        """Return a file's size."""
        path = contained_path(self._root, key)
        return path.stat().st_size if path.is_file() else 0

    def release(self, prefix: str) -> None:
        """Do nothing: the mirror is not ours."""


def is_mirror(folder: Path) -> bool:
    """Tell whether a folder has the bucket's layout."""
    if next((folder / "metadata").glob("PMC*.json"), None) is not None:
        return True
    return any(
        (p / f"{p.name}.json").is_file() for p in folder.glob("PMC*.*") if KEY.fullmatch(p.name)
    )


def iter_mirror(folder: Path) -> Iterator[Item | Miss]:
    """Yield the article versions of a mirror, and metadata under a name that is none."""
    stems = {path.stem for path in (folder / "metadata").glob("PMC*.json")}
    stems |= {path.name for path in folder.glob("PMC*.*") if (path / f"{path.name}.json").is_file()}
    for stem in sorted(stems):
        match = KEY.fullmatch(stem)
        if match:
            yield Item(name=stem, version=int(match[2]))
        else:
            yield Miss(key=stem, reason="bad-key", detail="metadata not named PMCID.version.json")


def md5_check(md5: str) -> Check:
    """Return a check that a body has this md5."""

    def check(body: bytes) -> str | None:
        found = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return None if found == md5 else f"md5 is {found}, not {md5}"

    return check


def json_check(body: bytes) -> str | None:
    """Say why a body is not JSON, such as an error page."""
    try:
        json.loads(body)
    except ValueError:
        return f"not JSON but {body[:60]!r}"
    return None


def _not_of(body: bytes, key: str) -> str | None:
    """Say why a body is not the metadata of an article version."""
    try:
        parse_metadata(body, key=key)
    except ObjectError as error:
        return error.detail
    return None


def parse_metadata(data: bytes, *, key: str) -> tuple[Metadata, dict[str, str]]:
    """Return what a metadata object says and the md5 of each object it names.

    Objects of other articles or with odd names are left out, so a hostile file cannot point
    elsewhere.

    Raises:
        ObjectError: not the metadata of `key`, or in a form that leaves its XML or whether it is
            retracted in doubt.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ObjectError(
            "metadata-malformed", f"metadata of {key} is not JSON ({error})"
        ) from None
    if not isinstance(values, dict) or f"{values.get('pmcid')}.{values.get('version')}" != key:
        raise ObjectError("metadata-malformed", f"metadata of {key} describes something else")
    media, retracted = values.get("media_urls"), values.get("is_retracted")
    if retracted is not None and not isinstance(retracted, bool):
        raise ObjectError("metadata-malformed", f"is_retracted of {key} is {retracted!r}")
    objects = {}
    for url in [values.get("xml_url"), *(media if isinstance(media, list) else ())]:
        match = _OBJECT.fullmatch(url) if isinstance(url, str) else None
        if match and match[1] == key and match[2] not in {".", ".."}:
            objects[match[2]] = match[3]
    if values.get("xml_url") and f"{key}.xml" not in objects:
        raise ObjectError("metadata-malformed", f"XML of {key} is named {values['xml_url']!r}")
    metadata = Metadata(
        pmcid=values["pmcid"],
        version=int(values["version"]),
        pmid=_text(values, "pmid") or None,
        doi=_text(values, "doi") or None,
        title=_text(values, "title"),
        citation=_text(values, "citation"),
        license=normalize_code(_text(values, "license_code")),
        is_retracted=retracted,
    )
    return metadata, objects


def match_image(names: tuple[str, ...], image_names: tuple[str, ...]) -> str | None:
    """Return the image file that one of a graphic's names means.

    The name itself wins; else the same name with an image extension, whatever the case; a GIF of
    the legacy packages is a thumbnail and comes last. Extensions are never guessed off, because
    names such as `pone.0046493.g001` have dots of their own.

    Args:
        names: alternatives of one image, best first.
        image_names: of the files that are there.
    """
    for name in names:
        base = name.rpartition("/")[2]
        if base in image_names:
            return base
    by_lower: dict[str, list[str]] = {}
    for name in sorted(image_names, key=lambda name: name.lower().endswith(".gif")):
        by_lower.setdefault(name.lower(), []).append(name)
        by_lower.setdefault(name.lower().rpartition(".")[0], []).append(name)
    for name in names:
        base = name.rpartition("/")[2].lower()
        found = by_lower.get(base) or (
            by_lower.get(base.rpartition(".")[0]) if _IMAGE_NAME.fullmatch(base) else None
        )
        if found:
            return found[0]
    return None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
