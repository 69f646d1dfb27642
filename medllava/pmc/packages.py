"""Articles from files on disk: folders of XML and images, legacy tar packages, gzip, article sets.

A package is read member by member, never unpacked: a member that would leave the folder, a link or
a device condemns the package. Images go to numbered files in a scratch folder of ours until the
article is done.
"""

import gzip
import hashlib
import io
import logging
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Never

from medllava.errors import DataError
from medllava.pmc.archive import (
    ArticleFiles,
    BucketSource,
    MirrorStore,
    ObjectError,
    SourceImage,
    UnreadableError,
    is_mirror,
    iter_mirror,
)
from medllava.pmc.images import MAX_IMAGE_BYTES
from medllava.pmc.state import Item, Miss
from medllava.pmc.xml import MAX_XML_BYTES, Element, XmlError, is_jats, iter_articles

_LOGGER = logging.getLogger(__name__)
XML_SUFFIXES = (".nxml", ".xml", ".nxml.gz", ".xml.gz")
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".webp")
_MAX_MEMBERS = 100_000
_MAX_PACKAGE_BYTES = 8 * 1024**3


class LocalSource:
    """Articles below the paths of `--input`, each a mirror, a folder, a package or a file."""

    is_remote = False

    def __init__(self, inputs: Sequence[Path], *, scratch_dir: Path) -> None:
        """Check the paths.

        Raises:
            DataError: a path does not exist.
        """
        for path in inputs:
            if not path.exists():
                raise DataError(f"no such file or folder: {path}. Check --input.")
        self._inputs = tuple(inputs)
        self._mirrors = {
            n: BucketSource(MirrorStore(p)) for n, p in enumerate(inputs) if is_mirror(p)
        }
        self._scratch_dir = scratch_dir

    def iter_items(self) -> Iterator[Item | Miss]:
        """Yield the articles and files below the inputs in a stable order, and what is neither."""
        for number, path in enumerate(self._inputs):
            if number in self._mirrors:
                yield from iter_mirror(path)
            elif path.is_file():
                yield Item(name=f"{number}/{path.name}")
            else:
                for relative in iter_files(path):
                    yield _item_of(f"{number}/{relative}")

    def iter_articles(self, item: Item) -> Iterator[ArticleFiles]:
        """Yield the articles of a mirror's version or of a file."""
        if item.version:
            yield from self._iter_mirrored(item)
            return
        number, _, relative = item.name.partition("/")
        root = self._inputs[int(number)]
        path = root if root.is_file() else root / relative
        if path.name.lower().endswith(TAR_SUFFIXES):
            yield from self._iter_package(item, path)
        else:
            with _open_xml(path) as stream:
                yield from _iter_stream(item, stream, FolderImages(path.parent))

    def _iter_mirrored(self, item: Item) -> Iterator[ArticleFiles]:
        for number, source in enumerate(self._mirrors.values(), start=1):
            try:
                yield from source.iter_articles(item)
            except ObjectError:
                if number == len(self._mirrors):
                    raise
            else:
                return

    def _iter_package(self, item: Item, path: Path) -> Iterator[ArticleFiles]:
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch_dir) as scratch:
            for name, data, images in read_package(path, Path(scratch)):
                try:
                    yield from _iter_stream(item, io.BytesIO(data), images)
                except (ObjectError, XmlError) as error:
                    # One that cannot be read must not cost those behind it.
                    yield _unreadable(f"{item.name}#{name}", error)

    def release(self, item: Item) -> None:
        """Do nothing: the files are not ours."""


def _item_of(name: str) -> Item | Miss:
    """Return a file as an item, or what is wrong with its name: it cannot be written down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="backslashreplace").decode()
        return Miss(key=shown, reason="bad-name", detail="the file's name is not UTF-8; rename it")
    return Item(name=name)


class FolderImages:
    """The image files of one folder, by name."""

    def __init__(self, folder: Path, files: dict[str, Path] | None = None) -> None:
        """List `folder`, or take names with their files."""
        self._files = _list_images(folder) if files is None else files
        self.names = tuple(self._files)

    def size(self, name: str) -> int:
        """Return the size of an image file; the empty name, the XML's, is not known here."""
        return self._files[name].stat().st_size if name else 0

    def load(self, name: str) -> SourceImage:
        """Return an image file's bytes."""
        path = self._files[name]
        try:
            return self._load(path)
        except OSError as error:
            raise UnreadableError(f"{error.strerror}: {path}") from None

    @staticmethod
    def _load(path: Path) -> SourceImage:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ObjectError("image-too-large", f"image file of {path.stat().st_size:,} bytes")
        data = path.read_bytes()
        return SourceImage(data=data, md5=hashlib.md5(data, usedforsecurity=False).hexdigest())


def iter_files(folder: Path) -> Iterator[str]:
    """Yield the XML files and packages below a folder, sorted.

    Links to folders are not followed, which is said in a warning.

    Raises:
        DataError: a folder below it cannot be read; what it holds would be missed for good.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"the folder cannot be read ({error.strerror}): {error.filename}."
            " Change its permissions, or give the readable ones with --input."
        ) from None

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in folders:
            if (Path(place) / name).is_symlink():
                _LOGGER.warning(
                    "a link is not followed: %s; give it with --input", Path(place, name)
                )
        for name in sorted(files):
            if name.lower().endswith(XML_SUFFIXES + TAR_SUFFIXES):
                yield (Path(place) / name).relative_to(folder).as_posix()


def read_package(path: Path, scratch: Path) -> Iterator[tuple[str, bytes, FolderImages]]:
    """Yield name and content of each XML file in a tar package with the images of its folder.

    Raises:
        ObjectError: damaged, too large, without XML, or a member that has no place in a package;
            XML that is too large is told after the others were yielded.
    """
    documents: list[tuple[PurePosixPath, bytes]] = []
    images: dict[str, dict[str, Path]] = {}
    too_large = ""
    try:
        with tarfile.open(path, "r|*") as package:
            for number, (member, stream) in enumerate(_iter_members(package, path.name)):
                name = PurePosixPath(member.name)
                if name.suffix.lower() in {".nxml", ".xml"}:
                    if member.size <= MAX_XML_BYTES:
                        documents.append((name, stream.read()))
                    else:
                        too_large = f"XML of {member.size:,} bytes: {name} of {path.name}"
                elif name.suffix.lower() in _IMAGE_SUFFIXES and member.size <= MAX_IMAGE_BYTES:
                    file = scratch / f"{number}"
                    file.write_bytes(stream.read())
                    images.setdefault(str(name.parent), {})[name.name] = file
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ObjectError(
            "package-damaged", f"package that does not open ({error}): {path.name}"
        ) from None
    for name, data in documents:
        yield str(name), data, FolderImages(scratch, images.get(str(name.parent), {}))
    if too_large:
        raise ObjectError("xml-too-large", too_large)
    if not documents:
        raise ObjectError("no-article", f"no XML in the package: {path.name}")


def _iter_members(
    package: tarfile.TarFile, name: str
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield the files of a package with their content, once they are known to be harmless."""
    total = 0
    for number, member in enumerate(package):
        _check_member(member, number)
        total += member.size
        if total > _MAX_PACKAGE_BYTES:
            raise ObjectError(
                "package-too-large", f"more than {_MAX_PACKAGE_BYTES:,} bytes: {name}"
            )
        stream = package.extractfile(member)
        if stream is not None:
            yield member, stream


def _check_member(member: tarfile.TarInfo, number: int) -> None:
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0:1]:
        raise ObjectError("package-path", f"member that leaves the folder: {member.name!r}")
    if not (member.isfile() or member.isdir()):
        raise ObjectError("package-link", f"member that is a link or a device: {member.name!r}")
    if number >= _MAX_MEMBERS:
        raise ObjectError("package-too-large", f"more than {_MAX_MEMBERS:,} members")


def _iter_stream(item: Item, stream: IO[bytes], images: FolderImages) -> Iterator[ArticleFiles]:
    position = -1
    for root in iter_articles(stream):
        if not is_jats(root):
            continue
        position += 1
        yield ArticleFiles(
            item=item.name if position == 0 else f"{item.name}#{position + 1}",
            load_root=lambda root=root: _same(root),  # type: ignore[misc]  # bound at once, used at once
            image_names=images.names,
            load_image=images.load,
            size_of=images.size,
        )
    if position < 0:
        raise ObjectError("no-article", "no article element in the file")


def _unreadable(name: str, error: ObjectError | XmlError) -> ArticleFiles:
    """Return an article whose reading says what is wrong with its file."""

    def fail(_: str = "") -> Never:
        raise error

    return ArticleFiles(
        item=name, load_root=fail, image_names=(), load_image=fail, size_of=lambda _: 0
    )


def _same(root: Element) -> Element:
    return root


@contextmanager
def _open_xml(path: Path) -> Iterator[IO[bytes]]:
    """Open plain or gzipped XML.

    Raises:
        ObjectError: damaged gzip.
    """
    try:
        with path.open("rb") as plain:
            if path.name.lower().endswith(".gz"):
                with closing(gzip.GzipFile(fileobj=plain)) as stream:
                    yield stream  # type: ignore[misc]  # a binary stream like any other
            else:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ObjectError(
            "file-damaged", f"gzip that does not open ({error}): {path.name}"
        ) from None
    except OSError as error:
        raise UnreadableError(f"{error.strerror}: {path}") from None


@lru_cache(maxsize=64)
def _list_images(folder: Path) -> dict[str, Path]:
    with os.scandir(folder) as entries:
        return {
            entry.name: Path(entry.path)
            for entry in sorted(entries, key=lambda entry: entry.name)
            if entry.is_file() and entry.name.lower().endswith(_IMAGE_SUFFIXES)
        }
