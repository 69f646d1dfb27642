"""The gate that data of patients passes before a teacher, training or a hub sees it.

Items enter, each with its pictures and texts; a report leaves, written as

    DIR/
      privacy.jsonl   one line an item: what was found where, never the words
      privacy.html    thumbnails of what was found; it shows what is private and is not to be shared

A picture is known by its content: one that several items show, or that an earlier run saw, here or
in the folder the data came from, is not read again. What could not be looked at is never counted as
clean: a picture that does not open, or pixels without the extra `ocr`, are named and leave the
report incomplete.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medllava.errors import DataError, MedllavaError, SetupError
from medllava.images.encode import image_address, shrink
from medllava.images.load import load_image
from medllava.layout import PRIVACY_FILE, PRIVACY_PAGE_FILE
from medllava.page import render_cards, render_page, render_table, render_text
from medllava.privacy.captions import find_in_text
from medllava.privacy.findings import Finding, Kind, PrivacyMode
from medllava.privacy.pixels import INSTALL, TextFinder, has_reader, paint_over
from medllava.privacy.tags import find_in_tags
from medllava.progress import Progress
from medllava.store import JsonlWriter, iter_jsonl, sha256_of, write_text

GATE_VERSION = 2
"""Raised when more is found than before: what an older gate saw is looked at again."""
_MOST_CARDS = 200
_THUMBNAIL_PIXELS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class GateItem:
    """What belongs to one figure or record."""

    item_id: str
    images: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFindings:
    """What was found in one item."""

    item_id: str
    images: tuple[tuple[Path, tuple[Finding, ...]], ...]
    texts: tuple[Finding, ...]
    """Of all texts of the item."""
    unread: tuple[str, ...] = ()
    """Pictures that could not be opened, with the reason."""

    @property
    def all(self) -> list[Finding]:
        """Every finding, pictures first."""
        return [finding for _, found in self.images for finding in found] + list(self.texts)


@dataclass(slots=True, kw_only=True)
class GateReport:
    """What the gate saw."""

    looked_at: int = 0
    """Items."""
    num_images: int = 0
    flagged: list[ItemFindings] = field(default_factory=list)
    """Items with findings."""
    unread: list[str] = field(default_factory=list)
    pixels_seen: bool = True
    """False where the extra `ocr` is missing: nothing is known of text in pixels then."""
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether everything was looked at."""
        return not self.unread and (self.pixels_seen or not self.num_images)

    def counts(self) -> dict[str, int | float]:
        """Return the figures of a summary."""
        counts: dict[str, int | float] = {
            "items": self.looked_at,
            "images": self.num_images,
            "items_with_findings": len(self.flagged),
            "images_not_read": len(self.unread),
        }
        if not self.pixels_seen:
            counts["images_without_a_look_at_pixels"] = self.num_images
        return counts


class _Pictures:
    """What is known of pictures, by their content."""

    def __init__(self) -> None:
        self.has_reader = has_reader()
        self.stamp = f"{GATE_VERSION}{'+pixels' if self.has_reader else ''}"
        """Tells what was looked for; what was looked at otherwise is looked at again."""
        self._found: dict[str, tuple[Finding, ...]] = {}
        self._digests: dict[Path, str] = {}
        self._finder: TextFinder | None = None

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content, `absent` without a file."""
        if path not in self._digests:
            self._digests[path] = sha256_of(path) if path.is_file() else "absent"
        return self._digests[path]

    def remember(self, digest: str, findings: tuple[Finding, ...]) -> None:
        """Take over what an earlier run found."""
        self._found[digest] = findings

    def find(self, path: Path) -> tuple[Finding, ...]:
        """Return what is in a picture's tags and pixels.

        Raises:
            DataError: it cannot be read.
        """
        digest = self.digest(path)
        if digest not in self._found:
            found, image = _open(path)
            if self.has_reader:
                self._finder = self._finder or TextFinder()  # a second that cached runs do not pay
                found += self._finder.find(image)
            self._found[digest] = tuple(found)
        return self._found[digest]


def look_through(
    items: Iterable[GateItem],
    output_dir: Path,
    *,
    earlier: Iterable[Path] = (),
    progress: Progress,
    total: int | None = None,
) -> GateReport:
    """Look at every item and write `privacy.jsonl` and `privacy.html`.

    A run that was killed goes on where it ended.

    Args:
        items: ids may repeat.
        output_dir: made if absent.
        earlier: folders in which a gate may have run; pictures it saw there are not read again.
        progress: told of every item.
        total: number of items, where it is known.

    Raises:
        SetupError: a file is DICOM, and pydicom is not installed.
    """
    pictures = _Pictures()
    report = GateReport(pixels_seen=pictures.has_reader)
    for folder in earlier:
        _recall(folder / PRIVACY_FILE, pictures)
    known = _recall(output_dir / PRIVACY_FILE, pictures)
    progress.start("looking for names", total=total)
    with JsonlWriter(output_dir / PRIVACY_FILE) as writer:
        for item in items:
            key = _key(item, pictures)
            found = known.get(key) or _look(item, pictures)
            if key not in known:
                writer.write(_to_json(found, key, pictures))
                known[key] = found
            _count(report, item, found)
            progress.advance()
    write_text(output_dir / PRIVACY_PAGE_FILE, _render(report))
    return report


def enforce(report: GateReport, mode: PrivacyMode, output_dir: Path, *, progress: Progress) -> None:
    """Let the run go on, or stop it.

    Args:
        report: of the gate.
        mode: STOP and MASK need everything looked at; REPORT goes on in any case.
        output_dir: where the page lies.
        progress: told what was found, in REPORT and MASK.

    Raises:
        DataError: something was found and the mode is STOP, or a picture could not be opened.
        SetupError: pixels could not be looked at, and the mode is not REPORT.
    """
    page = output_dir / PRIVACY_PAGE_FILE
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.most_common())
    if mode is not PrivacyMode.REPORT:
        if not report.pixels_seen and report.num_images:
            raise SetupError(
                f"the pixels of {report.num_images:,} pictures were not looked at for burned-in "
                f"text: it needs an extra. Run: {INSTALL}, or go on knowing that with "
                "--privacy report."
            )
        if report.unread:
            raise DataError(
                f"{len(report.unread):,} pictures could not be looked at; the first: "
                f"{report.unread[0]} Mend or remove them, or go on with --privacy report."
            )
    if report.flagged and mode is PrivacyMode.STOP:
        raise DataError(
            f"{len(report.flagged):,} of {report.looked_at:,} items may tell who a patient is "
            f"({kinds}): {page}. Look at them, then paint over what was found with "
            "generate-instructions --privacy mask, or go on as they are with --privacy report."
        )
    if not report.pixels_seen and report.num_images:
        progress.note(
            f"the pixels of {report.num_images:,} pictures were not looked at ({INSTALL})"
        )
    if report.unread:
        progress.note(f"{len(report.unread):,} pictures could not be looked at: {report.unread[0]}")
    if report.flagged:
        done = "painted over" if mode is PrivacyMode.MASK else "left as it is"
        progress.note(
            f"{len(report.flagged):,} of {report.looked_at:,} items: {kinds}; {done}: {page}"
        )


def write_masked(image: Path, findings: Sequence[Finding], target: Path) -> None:
    """Write a picture as PNG with what was found painted over, and no tag or metadata of its file.

    Raises:
        ImageError: it cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    painted = paint_over(load_image(image), list(findings))
    temporary = target.with_name(f".{target.name}.tmp")
    painted.save(temporary, "PNG")
    temporary.replace(target)


def _open(path: Path) -> tuple[list[Finding], Image.Image]:
    """Return what is in a file's tags, and its picture.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return find_in_tags(path), load_image(path)
    except MedllavaError:
        raise
    except OSError as error:
        raise DataError(f"cannot read ({error}): {path}.") from None
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on damaged files
        raise DataError(f"damaged ({type(error).__name__}): {path}.") from None


def _look(item: GateItem, pictures: _Pictures) -> ItemFindings:
    images, unread = [], []
    for path in item.images:
        try:
            images.append((path, pictures.find(path)))
        except DataError as error:
            unread.append(str(error))
    texts = tuple(
        finding
        for number, text in enumerate(item.texts)
        for finding in find_in_text(text, where="caption" if number == 0 else f"text {number}")
    )
    return ItemFindings(
        item_id=item.item_id, images=tuple(images), texts=texts, unread=tuple(unread)
    )


def _key(item: GateItem, pictures: _Pictures) -> str:
    """Return a digest of everything that decides what is found."""
    digest = hashlib.sha256(f"{pictures.stamp} {item.item_id}".encode())
    for path in item.images:
        digest.update(f"\n{path} {pictures.digest(path)}".encode())
    digest.update(json.dumps(item.texts).encode())
    return digest.hexdigest()


def _count(report: GateReport, item: GateItem, found: ItemFindings) -> None:
    report.looked_at += 1
    report.num_images += len(item.images)
    report.unread += found.unread
    if found.all:
        report.flagged.append(found)
        report.kinds.update({finding.kind.value for finding in found.all})


def _to_json(found: ItemFindings, key: str, pictures: _Pictures) -> dict[str, Any]:
    return {
        "key": key,
        "gate": pictures.stamp,
        "id": found.item_id,
        "images": [
            {
                "path": str(path),
                "sha256": pictures.digest(path),
                "findings": [_finding_json(f) for f in findings],
            }
            for path, findings in found.images
        ],
        "texts": [_finding_json(finding) for finding in found.texts],
        "unread": list(found.unread),
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "where": finding.where,
        "box": finding.box,
        "span": finding.span,
    }


def _recall(path: Path, pictures: _Pictures) -> dict[str, ItemFindings]:
    """Return what an earlier run saw, by key; what it could not open is tried again."""
    known: dict[str, ItemFindings] = {}
    if not path.is_file():
        return known
    for _, line in iter_jsonl(path, allow_torn_tail=True):
        if line.get("gate") != pictures.stamp:
            continue
        found = ItemFindings(
            item_id=line["id"],
            images=tuple(
                (Path(image["path"]), tuple(map(_finding, image["findings"])))
                for image in line["images"]
            ),
            texts=tuple(map(_finding, line["texts"])),
        )
        for image, (_, findings) in zip(line["images"], found.images, strict=True):
            pictures.remember(image["sha256"], findings)
        if not line["unread"]:
            known[line["key"]] = found
    return known


def _finding(values: dict[str, Any]) -> Finding:
    return Finding(
        kind=Kind(values["kind"]),
        where=values["where"],
        box=tuple(values["box"]) if values["box"] else None,
        span=tuple(values["span"]) if values["span"] else None,
    )


def _render(report: GateReport) -> str:
    warning = "This page shows what may tell who a patient is. Keep it where the pictures are kept."
    missing = (
        ""
        if report.pixels_seen or not report.num_images
        else f"Pixels were NOT looked at for burned-in text: {INSTALL}."
    )
    sections = [
        ("What was looked at", render_table(["", "count"], list(report.counts().items()))),
        ("Found, by kind", render_table(["kind", "items"], report.kinds.most_common())),
        ("Items", render_text(warning) + render_cards(_cards(report.flagged[:_MOST_CARDS]))),
    ]
    if missing:
        sections.insert(0, ("Not looked at", render_text(missing)))
    if report.unread:
        rows = [(line,) for line in report.unread[:_MOST_CARDS]]
        sections.append(("Pictures that could not be opened", render_table(["what"], rows)))
    return render_page("Privacy", subtitle=warning, sections=sections)


def _cards(flagged: Sequence[ItemFindings]) -> Iterator[tuple[str | None, list[str]]]:
    for item in flagged:
        lines = [f"{f.kind.value}: {f.where}" for f in item.texts]
        for path, findings in item.images:
            if findings:
                told = [f"{f.kind.value}: {f.where}" for f in findings]
                yield _thumbnail(path), [item.item_id, path.name, *told]
        if lines:
            yield None, [item.item_id, *lines]


def _thumbnail(path: Path) -> str | None:
    try:
        return image_address(shrink(load_image(path), _THUMBNAIL_PIXELS), kind="JPEG")
    except DataError:  # it is gone since an earlier run looked at it
        return None
