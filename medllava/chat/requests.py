"""What the page sends, checked: a question with pictures and settings, a view of a picture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from medllava.chat.config import Options, ViewConfig
from medllava.errors import DataError
from medllava.model.sampling import Sampling

if TYPE_CHECKING:
    from starlette.requests import Request

_PLANES = ("axial", "coronal", "sagittal")
_MAX_NEW_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuestion:
    """A question as the page asks it."""

    text: str
    images: tuple[tuple[str, ViewConfig], ...] = ()
    """Id of an upload, and what of it is on the screen."""
    options: Options


async def read_body(request: "Request", *, limit: int) -> bytes | None:
    """Return the body from memory, or None if it is longer than `limit`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def parse_files(raw: bytes) -> list[bytes]:
    """Read the files of a folder: a line of JSON with their sizes, then all of them in a row.

    Raises:
        DataError: it is no such body.
    """
    line, _, rest = raw.partition(b"\n")
    try:
        sizes = [int(size) for size in json.loads(line)]
    except (ValueError, TypeError, OverflowError):
        sizes = []
    if not sizes or min(sizes) < 0 or sum(sizes) != len(rest):
        raise DataError("the folder did not arrive whole. Add it again.")
    ends = list(accumulate(sizes))
    return [rest[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def parse_object(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object of a body; an empty one where there is none."""
    try:
        value = json.loads(raw or b"")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_question(value: Mapping[str, Any]) -> PageQuestion:
    """Read a question.

    Raises:
        DataError: it is empty or too long, or a setting is out of its range.
    """
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError("ask a question of at most 64 KiB.")
    images = value.get("images") or []
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise DataError("images are a list of ids with their views.")
    keep = value.get("keep")
    system = value.get("system")
    return PageQuestion(
        text=text.strip(),
        images=tuple((str(one.get("id")), parse_view(one.get("view") or {})) for one in images),
        options=Options(
            keep=None if keep is None else int(_number(keep, "keep", low=0, high=10_000)),
            sampling=_sampling(value.get("sampling")),
            system=system.strip() or None if isinstance(system, str) else None,
        ),
    )


def parse_view(value: Mapping[str, Any]) -> ViewConfig:
    """Read which slice, frame and window of a picture is meant.

    Raises:
        DataError: a value is of the wrong kind.
    """
    plane = value.get("plane") or "axial"
    if plane not in _PLANES:
        raise DataError(f"no plane {plane!r}; it is one of {', '.join(_PLANES)}.")
    window = value.get("window")
    if window is not None and not (isinstance(window, list) and len(window) == 2):
        raise DataError("a window is a center and a width.")
    return ViewConfig(
        frame=_index(value.get("frame"), "frame"),
        plane=plane,
        slice_index=_index(value.get("slice"), "slice"),
        window=None
        if window is None
        else (
            _number(window[0], "the window's center", low=-1e9, high=1e9),
            _number(window[1], "the window's width", low=1e-9, high=1e9),
        ),
    )


def _sampling(value: object) -> Sampling | None:
    if not isinstance(value, dict):
        return None
    known = {
        "max_new_tokens": (1, _MAX_NEW_TOKENS, int),
        "temperature": (0, 10, float),
        "top_p": (0.01, 1, float),
        "top_k": (0, 1_000_000, int),
        "repetition_penalty": (0.1, 10, float),
        "seed": (0, 2**31, int),
    }
    given = {
        name: kind(_number(value[name], name, low=low, high=high))
        for name, (low, high, kind) in known.items()
        if value.get(name) is not None
    }
    return Sampling(**given)


def _index(value: object, name: str) -> int | None:
    return None if value is None else int(_number(value, name, low=0, high=1_000_000))


def _number(value: object, name: str, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise DataError(f"{name} is a number from {low:g} to {high:g}.")
    return value
