"""LLaVA-Med's released files: what is published about them, and how a copy compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medllava.data.dropped import Dropped
from medllava.data.layouts.stream import iter_conversations
from medllava.errors import DataError
from medllava.store import contained_path, sha256_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFile:
    """What is published about one released LLaVA-Med file."""

    sha256: str
    num_records: int
    num_pairs: int
    """User-assistant pairs over all records."""


RELEASED_FILES: Mapping[str, ReleasedFile] = {
    "llava_med_alignment_500k.json": ReleasedFile(
        sha256="007456f3d6c2091466b3fb6cd0573f61a63fd0c937e568f44113d5a1f23e8b93",
        num_records=500_000,
        num_pairs=500_000,
    ),
    "llava_med_instruct_10k.json": ReleasedFile(
        sha256="84f75c2b83404fe7dd1631212b4ad73228a0dad77bb819ab29c511a535a279c8",
        num_records=10_712,
        num_pairs=52_805,
    ),
    "llava_med_instruct_60k.json": ReleasedFile(
        sha256="cf84c82fb58e391d6cf198e2657b6fc8584a180509b8813c3604ce46f6275c19",
        num_records=60_088,
        num_pairs=171_673,
    ),
    "llava_med_instruct_60k_inline_mention.json": ReleasedFile(
        sha256="b3649f4193a51215aee4519b44d8436a4200e182d6a78a3cb78672d97bea948a",
        num_records=60_017,
        num_pairs=173_696,
    ),
}
"""Source: digests of the repository's LFS pointers; counts printed by its v1.0.0 notebooks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What a LLaVA JSON file holds, and how it compares with what was published about it."""

    num_records: int
    num_pairs: int
    sha256: str
    released_as: str | None
    """Name of the released file whose digest this is, or whose name the file bears."""
    differences: tuple[str, ...]
    """How the file differs from the published digest and counts; empty when it does not."""
    num_images: int
    """Different images that the records name."""
    missing_images: tuple[str, ...] = field(default=())
    """Those that are not in the image folder, in order of first use."""
    num_unusable: int = 0
    """Records that training would drop, counted in `num_records`."""


def inspect_llava_json(path: Path, *, image_root: Path | None = None) -> SourceReport:
    """Read a whole file, compare it with what is published, and see which images are present.

    Args:
        path: a LLaVA JSON file.
        image_root: folder of its images; None leaves presence unchecked.

    Raises:
        DataError: as `iter_conversations`.
    """
    num_records = num_pairs = num_unusable = 0
    images: dict[str, None] = {}
    for record in iter_conversations(path):
        num_records += 1
        if isinstance(record, Dropped):
            num_unusable += 1
            continue
        num_pairs += sum(turn.role == "assistant" for turn in record.turns)
        images.update(dict.fromkeys(record.images))
    sha256 = sha256_of(path)
    by_digest = {value.sha256: name for name, value in RELEASED_FILES.items()}
    name = by_digest.get(sha256, path.name if path.name in RELEASED_FILES else None)
    differences: list[str] = []
    if name is not None:
        expected = RELEASED_FILES[name]
        found = {"sha256": sha256, "num_records": num_records, "num_pairs": num_pairs}
        for key, value in found.items():
            published = getattr(expected, key)
            if value != published:
                differences.append(f"{key} is {value}, published {published}")
    missing = tuple(i for i in images if image_root and not _is_present(image_root, i))
    return SourceReport(
        num_records=num_records,
        num_pairs=num_pairs,
        sha256=sha256,
        released_as=name,
        differences=tuple(differences),
        num_images=len(images),
        num_unusable=num_unusable,
        missing_images=missing,
    )


def _is_present(root: Path, image: str) -> bool:
    try:
        return contained_path(root, image).is_file()
    except DataError:
        return False
