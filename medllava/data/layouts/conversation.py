"""One item of a conversation file to an `InstructionRecord`, in any layout that circulates.

LLaVA's (`image`, `conversations`, `from`/`value`), the one of LLaMA-Factory and ms-swift (`images`,
`messages`, `role`/`content`), lists of content parts, a `system` field, and our own lines: told
apart item by item, by their keys. An item that cannot be used raises `UnusableRecordError` with the
reason; nothing is guessed, and a value that is not text never becomes words to learn.
"""

import math
from collections.abc import Mapping
from typing import Any

from medllava.data.dropped import DropReason, UnusableRecordError
from medllava.data.layouts.turns import Repair, tidy_turns
from medllava.errors import RecordError
from medllava.records import (
    IMAGE_TOKEN,
    AnswerType,
    InstructionRecord,
    Modality,
    Split,
    Stage,
    Turn,
)

CONVERSATION_KEYS = ("conversations", "conversatons", "messages", "conversation")
"""The keys of the turns; the second spelling is that of some released files."""
DOMAINS = {
    "chest_xray": Modality.CHEST_XRAY,
    "mri": Modality.MRI,
    "histology": Modality.HISTOPATHOLOGY,
    "gross": Modality.GROSS_PATHOLOGY,
    "ct_scan": Modality.CT,
}
"""In the order of precedence of LLaVA-Med's evaluation: the first true one counts."""
REPAIRS = "repairs"
"""Key of `provenance`: what was put right in a record when it was read."""
_OURS = frozenset({"record_id", "turns"})
_IMAGE_KEYS = ("image", "images")
_PLAIN: Mapping[str, type] = {"teacher": str, "license": str, "figure_id": str, "provenance": dict}
_CHOICES: Mapping[str, type[Split] | type[Modality] | type[Stage]] = {
    "split": Split,
    "modality": Modality,
    "stage": Stage,
}
_EXTRA = frozenset({"domain", *_PLAIN, *_CHOICES})
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}
_IMAGE_PARTS = frozenset({"image", "image_url", "input_image"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_PATH_KEYS = ("path", "file_name", "filename", "url", "image")
_IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif")
_IMAGE_SUFFIXES += (".tiff", ".avif", ".dcm", ".nii", ".nii.gz")
_REMOTE = ("http://", "https://", "data:", "s3://", "gs://", "base64")


def is_llava_item(item: Mapping[str, Any]) -> bool:
    """Tell conversations of others from our records."""
    return any(key in item for key in CONVERSATION_KEYS)


def is_record_item(item: Mapping[str, Any]) -> bool:
    """Tell our records by their keys."""
    return not _OURS.isdisjoint(item)


def read_item(item: Any, *, default_id: str) -> InstructionRecord:  # noqa: ANN401 - JSON is any
    """Turn one item of a file into a record; `provenance` lists what was put right in it.

    Args:
        item: a JSON value.
        default_id: of an item that has none.

    Raises:
        UnusableRecordError: it cannot be used; names the reason.
    """
    if isinstance(item, dict):
        for key in CONVERSATION_KEYS:
            if key in item:
                return _parse(item, item[key], default_id=default_id)
    if not isinstance(item, dict) or not is_record_item(item):
        keys = ", ".join(list(item)[:6]) if isinstance(item, dict) else type(item).__name__
        raise UnusableRecordError(DropReason.NO_CONVERSATION, f"it has {keys}")
    try:
        record = InstructionRecord.from_json(item, where=default_id)
    except RecordError as error:
        raise UnusableRecordError(DropReason.SCHEMA, str(error)) from None
    turns = list(record.turns)
    tidy, repairs = tidy_turns(turns, num_images=len(record.images))
    return _repaired(record, tidy, repairs) if repairs else record


def item_id(item: Any, *, default: str) -> str:  # noqa: ANN401 - JSON is any
    """Return an item's own id as text; the default where it has none that could be one."""
    value = item.get("record_id", item.get("id")) if isinstance(item, dict) else None
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return default
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def parse_llava_item(
    item: Mapping[str, Any], *, where: str, stage: Stage = Stage.INSTRUCT
) -> tuple[InstructionRecord, bool]:
    """Turn one conversation into a record; the flag tells whether anything was put right.

    Raises:
        UnusableRecordError: no conversation, a turn without text, or an unknown sender.
    """
    raw_turns = next((item[key] for key in CONVERSATION_KEYS if key in item), None)
    try:
        record = _parse(item, raw_turns, default_id=where, stage=stage)
    except UnusableRecordError as error:
        raise error.at(where) from None
    return record, REPAIRS in record.provenance


def _parse(
    item: Mapping[str, Any],
    raw_turns: Any,  # noqa: ANN401 - JSON is any
    *,
    default_id: str,
    stage: Stage = Stage.INSTRUCT,
) -> InstructionRecord:
    if not isinstance(raw_turns, list) or not raw_turns:
        raise UnusableRecordError(DropReason.NO_CONVERSATION)
    answer_type = _answer_type(item.get("answer_type"))
    inline: list[str] = []
    turns: list[Turn] = []
    system = item.get("system")
    if system not in (None, ""):
        turns.append(Turn(role="system", content=_text(system, [], "the system field")))
    for number, raw in enumerate(raw_turns, start=1):
        turn = _turn(raw, answer_type, inline, number)
        # An empty system turn says nothing, and one like the field's is the same one.
        if turn.role == "system" and (turns == [turn] or not turn.content.strip()):
            continue
        turns.append(turn)
    images = _images(item, inline)
    turns, repairs = tidy_turns(turns, num_images=len(images))
    extra = {} if _EXTRA.isdisjoint(item) else _extra_fields(item)
    if "stage" not in extra:
        extra["stage"] = stage
    record = InstructionRecord(
        record_id=item_id(item, default=default_id), images=images, turns=tuple(turns), **extra
    )
    return _repaired(record, turns, repairs) if repairs else record


def _repaired(
    record: InstructionRecord, turns: list[Turn], repairs: list[Repair]
) -> InstructionRecord:
    values = {name: getattr(record, name) for name in record.__slots__}
    values["turns"] = tuple(turns)
    values["provenance"] = {**record.provenance, REPAIRS: [repair.value for repair in repairs]}
    return InstructionRecord(**values)


def _turn(raw: Any, answer_type: AnswerType | None, inline: list[str], number: int) -> Turn:  # noqa: ANN401 - JSON is any
    if not isinstance(raw, dict):
        raise UnusableRecordError(DropReason.NOT_TEXT, f"turn {number} is no object")
    sender = raw["from"] if "from" in raw else raw.get("role")
    role = _ROLES.get(sender if type(sender) is str else "") or _role(sender, number)
    text = raw["value"] if "value" in raw else raw.get("content")
    if type(text) is not str:
        text = _text(text, inline, f"turn {number}")
    if role != "assistant":
        return Turn(role=role, content=text)
    if "answer_type" in raw:
        answer_type = _answer_type(raw["answer_type"])
    return Turn(role=role, content=text, answer_type=answer_type)


def _role(sender: Any, number: int) -> str:  # noqa: ANN401 - JSON is any
    """Return the role of a sender that is written in capitals or with blanks.

    Raises:
        UnusableRecordError: it is none of ours.
    """
    role = _ROLES.get(str(sender).strip().lower())
    if role is None:
        raise UnusableRecordError(DropReason.UNKNOWN_SPEAKER, f"turn {number}: {sender!r:.40}")
    return role


def _text(value: Any, inline: list[str], what: str) -> str:  # noqa: ANN401 - JSON is any
    """Return the words of a turn; pictures in a list of parts become tokens, their names go out."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)  # counts occur as answers in released files
    if not isinstance(value, list):
        shown = "null" if value is None else type(value).__name__
        raise UnusableRecordError(DropReason.NOT_TEXT, f"{what} is {shown}")
    pieces = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            pieces.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            pieces.append(part["text"])
        elif kind in _IMAGE_PARTS:
            pieces.append(IMAGE_TOKEN)
            inline += _part_image(part)
        else:
            raise UnusableRecordError(DropReason.NOT_TEXT, f"{what} has a part {kind!r:.40}")
    return "\n".join(pieces)


def _part_image(part: Mapping[str, Any]) -> list[str]:
    """Return the file a part of a turn names, if it names one."""
    keys = ("image", "image_url", "path", "url")
    named = next((part[key] for key in keys if part.get(key)), None)
    return [] if named is None else image_names(named)


def _images(item: Mapping[str, Any], inline: list[str]) -> tuple[str, ...]:
    """Return the images of an item: of its field, or of the parts of its turns.

    Raises:
        UnusableRecordError: two places name different ones, or a name is none.
    """
    if "images" not in item and not inline:
        return tuple(image_names(item.get("image")))
    listed = [names for key in _IMAGE_KEYS if (names := image_names(item.get(key)))]
    if inline:
        listed.append(inline)
    if len(listed) > 1 and any(names != listed[0] for names in listed):
        raise UnusableRecordError(DropReason.IMAGE_FIELD, "two places name different images")
    return tuple(listed[0]) if listed else ()


def image_names(value: Any) -> list[str]:  # noqa: ANN401 - JSON is any
    """Return file names from what stands in an image field.

    Raises:
        UnusableRecordError: it names no file here.
    """
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [name for entry in value for name in _single(entry)]
    return _single(value)


def _single(value: Any) -> list[str]:  # noqa: ANN401 - JSON is any
    if isinstance(value, dict):
        value = next((value[key] for key in _PATH_KEYS if value.get(key)), value)
    if not isinstance(value, str) or not value.strip():
        shown = "bytes without a name" if isinstance(value, dict) else f"{value!r:.40}"
        raise UnusableRecordError(DropReason.IMAGE_FIELD, shown)
    if value.startswith(_REMOTE):
        raise UnusableRecordError(DropReason.IMAGE_FIELD, f"not a file here: {value:.40}")
    if "," in value:
        pieces = [piece.strip() for piece in value.split(",")]
        if all(piece.lower().endswith(_IMAGE_SUFFIXES) for piece in pieces):
            return pieces
    return [value.encode("utf-8", "replace").decode()]


def _extra_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what our own export writes beside the conversation; others' values are passed over."""
    found: dict[str, Any] = {}
    for name in _EXTRA.intersection(item):
        value = item[name]
        if name == "domain" and isinstance(value, dict) and "modality" not in item:
            flags = (m for flag, m in DOMAINS.items() if value.get(flag))
            found["modality"] = next(flags, None)
        elif isinstance(value, _PLAIN.get(name, ())):
            found[name] = value
        elif name in _CHOICES and isinstance(value, str):
            kind = _CHOICES[name]
            if value.lower() in list(kind):
                found[name] = kind(value.lower())
    return found


def _answer_type(value: Any) -> AnswerType | None:  # noqa: ANN401 - JSON is any
    if not isinstance(value, str):
        return None
    text = value.lower()
    return AnswerType(text) if text in list(AnswerType) else None
