"""LLaVA's conversation JSON, in and out.

The released LLaVA-Med files, and most visual instruction data, are one JSON array of
`{id, image, conversations: [{from, value}]}`. Reading streams the array, accepts both spellings of
the key (`conversatons` occurs in released files) and values that are numbers, and puts the image
token right: one per image, in the first user turn that had one. Records go on to training through
`sources`; `inspect_llava_json` compares a file with what its publishers counted.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from medllava.errors import DataError, RecordError
from medllava.records import (
    IMAGE_TOKEN,
    AnswerType,
    InstructionRecord,
    Modality,
    Stage,
    Turn,
)
from medllava.store import atomic_path, contained_path, iter_jsonl, sha256_of

_log = logging.getLogger(__name__)

CONVERSATION_KEYS = ("conversations", "conversatons")
"""The key of the turns; the second spelling is that of some released files."""

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_SENDERS = {"user": "human", "assistant": "gpt", "system": "system"}
_DOMAINS = {
    "chest_xray": Modality.CHEST_XRAY,
    "mri": Modality.MRI,
    "histology": Modality.HISTOPATHOLOGY,
    "gross": Modality.GROSS_PATHOLOGY,
    "ct_scan": Modality.CT,
}
"""In the order of precedence of LLaVA-Med's evaluation: the first true one counts."""
_BLOCK_CHARACTERS = 1 << 20


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


def iter_llava_json(path: Path) -> Iterator[InstructionRecord]:
    """Yield the records of a LLaVA JSON array or of JSONL with the same objects.

    Memory holds one item at a time, so the 358 MB alignment file needs no more than a small one.

    Raises:
        DataError: the file is absent or not JSON.
        RecordError: an item has no usable conversation; names the file and the item.
    """
    repaired = 0
    for number, item in iter_llava_items(path):
        record, was_repaired = parse_llava_item(item, where=f"{path}, item {number}")
        repaired += was_repaired
        yield record
    if repaired:
        _log.warning("%s: image token put right in %d records", path.name, repaired)


def parse_llava_item(
    item: Mapping[str, Any], *, where: str, stage: Stage = Stage.INSTRUCT
) -> tuple[InstructionRecord, bool]:
    """Turn one LLaVA item into a record; the flag tells whether its image token was put right.

    Raises:
        RecordError: no conversation, a turn without `from` or `value`, or an unknown sender.
    """
    raw_turns = next((item[key] for key in CONVERSATION_KEYS if key in item), None)
    if not isinstance(raw_turns, list) or not raw_turns:
        raise RecordError(f"no list under 'conversations': {where}.")
    answer_type = _answer_type(item.get("answer_type"))
    turns = [
        _parse_turn(raw, answer_type, where=f"{where}, turn {i}")
        for i, raw in enumerate(raw_turns, start=1)
    ]
    images = _images(item.get("image"), where=where)
    placed = place_image_token(turns, num_images=len(images))
    domain = item.get("domain")
    record = InstructionRecord(
        record_id=str(item.get("id", where)),
        images=images,
        turns=tuple(placed),
        stage=stage,
        modality=_modality(domain) if isinstance(domain, Mapping) else None,
    )
    return record, placed != turns


def place_image_token(turns: list[Turn], *, num_images: int) -> list[Turn]:
    """Return the turns with exactly `num_images` image tokens, moved only where they were wrong.

    Turns that already hold the right number in user turns come back unchanged. Otherwise every
    token is removed and all are put on lines of their own before the first user turn's text, so
    that a filter which drops the first question cannot leave an image unseen.
    """
    held = sum(turn.content.count(IMAGE_TOKEN) for turn in turns if turn.role == "user")
    total = sum(turn.content.count(IMAGE_TOKEN) for turn in turns)
    if held == total == num_images:
        return turns
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
    placed = []
    for i, turn in enumerate(turns):
        text = turn.content.replace(IMAGE_TOKEN, "").strip() if total else turn.content
        if i == first and num_images:
            text = "\n".join([IMAGE_TOKEN] * num_images + ([text] if text else []))
        placed.append(Turn(role=turn.role, content=text, answer_type=turn.answer_type))
    return placed


def to_llava_item(record: InstructionRecord) -> dict[str, Any]:
    """Return the record as one item of a LLaVA JSON array.

    A single image is a string, several are a list, none leaves the key out. LLaVA-Med's five
    domain flags are written where the modality is known.
    """
    item: dict[str, Any] = {"id": record.record_id}
    if record.images:
        item["image"] = record.images[0] if len(record.images) == 1 else list(record.images)
    if record.modality is not None:
        item["domain"] = {name: record.modality is value for name, value in _DOMAINS.items()}
    types = {turn.answer_type for turn in record.turns if turn.answer_type is not None}
    if len(types) == 1:
        item["answer_type"] = types.pop().value.upper()
    item["conversations"] = [
        {"from": _SENDERS.get(turn.role, turn.role), "value": turn.content} for turn in record.turns
    ]
    return item


def write_llava_json(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write records as a LLaVA JSON array, one item a line; return how many."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.write("[")
        for count, record in enumerate(records, start=1):
            handle.write(",\n" if count > 1 else "\n")
            handle.write(json.dumps(to_llava_item(record), ensure_ascii=False))
        handle.write("\n]\n")
    return count


def is_llava_item(item: Mapping[str, Any]) -> bool:
    """Tell LLaVA's objects from ours."""
    return any(key in item for key in CONVERSATION_KEYS)


def inspect_llava_json(path: Path, *, image_root: Path | None = None) -> SourceReport:
    """Read a whole file, compare it with what is published, and see which images are present.

    Args:
        path: a LLaVA JSON file.
        image_root: folder of its images; None leaves presence unchecked.

    Raises:
        DataError: as `iter_llava_json`.
    """
    num_records = num_pairs = 0
    images: dict[str, None] = {}
    for record in iter_llava_json(path):
        num_records += 1
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
        missing_images=missing,
    )


def _is_present(root: Path, image: str) -> bool:
    try:
        return contained_path(root, image).is_file()
    except DataError:
        return False


def _parse_turn(raw: Any, answer_type: AnswerType | None, *, where: str) -> Turn:  # noqa: ANN401 - JSON is any
    if not isinstance(raw, Mapping) or "value" not in raw:
        raise RecordError(f"a turn needs 'from' and 'value': {where}.")
    role = _ROLES.get(str(raw.get("from", "")).lower())
    if role is None:
        raise RecordError(f"sender {raw.get('from')!r} is not human, gpt or system: {where}.")
    return Turn(
        role=role,
        content=str(raw["value"]),
        answer_type=answer_type if role == "assistant" else None,
    )


def _answer_type(value: Any) -> AnswerType | None:  # noqa: ANN401 - JSON is any
    text = str(value).lower()
    return AnswerType(text) if text in list(AnswerType) else None


def _images(value: Any, *, where: str) -> tuple[str, ...]:  # noqa: ANN401 - JSON is any
    if value is None or value == "":
        return ()
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise RecordError(f"'image' must be a file name or a list of them: {where}.")
    return tuple(names)


def _modality(domain: Mapping[str, Any]) -> Modality | None:
    return next((m for name, m in _DOMAINS.items() if domain.get(name)), None)


def iter_llava_items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, object) of a JSON array, or of JSONL, holding one item in memory.

    Raises:
        DataError: the file is absent or not JSON.
        RecordError: an item is not an object; names file and item.
    """
    try:
        handle = path.open(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}. Check the path.") from None
    with handle:
        head = handle.read(_BLOCK_CHARACTERS)
        if head.lstrip()[:1] != "[":
            yield from iter_jsonl(path)
            return
        blocks = chain([head.lstrip()[1:]], iter(lambda: handle.read(_BLOCK_CHARACTERS), ""))
        yield from _iter_array(blocks, path)


def _iter_array(blocks: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, object) from the text behind an array's opening bracket."""
    decoder = json.JSONDecoder()
    text, number = "", 0
    for block in chain(blocks, [""]):
        text, position = text + block, 0
        while True:
            position = _skip(text, position, " \t\r\n,")
            if text[position : position + 1] == "]":
                return
            try:
                item, position = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                # An item may end in the next block; only without one is the file itself broken.
                if block:
                    break
                raise DataError(f"not valid JSON ({error}): {path}, item {number + 1}.") from None
            number += 1
            if not isinstance(item, dict):
                raise RecordError(f"expected a JSON object: {path}, item {number}.")
            yield number, item
        text = text[position:]


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
