"""How many tokens a request will take, before anybody has counted them.

Text is counted by the model's own tokenizer where one is at hand (its folder, or the hub's cache),
otherwise by script: a Chinese character is a token or more, an English one a quarter. Pictures are
counted by the rule that the model's maker publishes.

Source: "Images and vision", OpenAI; "Vision", Anthropic; "Understand and count tokens", Google;
the processors of Qwen2-VL and Qwen3-VL in transformers.
"""

import base64
import io
import logging
import math
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

from medllava.images.limits import ImageError
from medllava.images.raster import open_raster
from medllava.llm.protocol import ChatRequest

_log = logging.getLogger(__name__)

BY_SCRIPT = "script"
"""A text whose tokenizer is not at hand is counted by the scripts of its characters."""
UNKNOWN_IMAGE_TOKENS = 1600
"""Of one picture for a model whose rule is not known; most families take less at full detail."""
_CHARACTERS_PER_TOKEN = 3.6
"""English biomedical prose in current vocabularies holds a little more; the estimate errs high."""
_DENSE_TOKENS, _OTHER_TOKENS = 1.3, 0.7
"""Tokens of a Chinese, Japanese or Korean character, and of one of another script."""
_DENSE = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_TOKENS_PER_MESSAGE = 6

ImageRule = Callable[[int, int], int]
"""Width and height in pixels to tokens."""


def estimate_tokens(request: ChatRequest, model: str = "") -> int:
    """Estimate the input tokens of a request.

    Args:
        request: its texts and pictures.
        model: name as the server knows it, for the tokenizer and the rule for pictures.
    """
    rule = _rule_of(model)
    count, _ = _counter_of(model)
    tokens = 0.0
    for message in request.messages:
        tokens += count(message.content)
        for image in message.images:
            tokens += rule(*_size(image)) if rule else UNKNOWN_IMAGE_TOKENS
    return round(tokens) + _TOKENS_PER_MESSAGE * len(request.messages)


def text_counted_by(model: str) -> str:
    """Say what counts the text of requests to a model: its own tokenizer, or the script."""
    return _counter_of(model)[1]


@lru_cache(maxsize=512)
def estimate_text(text: str) -> float:
    """Estimate the tokens of a text by the scripts it is written in."""
    if text.isascii():
        return len(text) / _CHARACTERS_PER_TOKEN
    dense = len(_DENSE.findall(text))
    plain = sum(map(str.isascii, text))
    other = len(text) - dense - plain
    return plain / _CHARACTERS_PER_TOKEN + dense * _DENSE_TOKENS + other * _OTHER_TOKENS


@cache
def _counter_of(model: str) -> tuple[Callable[[str], float], str]:
    """Return what counts a text, and how to call it."""
    path = _tokenizer_file(model)
    if path is None:
        return estimate_text, f"{BY_SCRIPT}: no tokenizer of this model is at hand"
    from tokenizers import Tokenizer  # noqa: PLC0415 - only where a tokenizer is at hand

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises its bare base class
        _log.warning("cannot read %s (%s): tokens are estimated by script.", path, error)
        return estimate_text, f"{BY_SCRIPT}: {path} cannot be read ({error})"

    @lru_cache(maxsize=512)
    def count(text: str) -> float:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count, f"tokenizer: {path}"


def _tokenizer_file(model: str) -> Path | None:
    """Return the tokenizer of a model folder or of the hub's cache; nothing is downloaded."""
    name = model.removeprefix("local:")
    beside = Path(name) / "tokenizer.json"
    if name and beside.is_file():
        return beside
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except ValueError:
        return None  # no repository has such a name
    return Path(found) if isinstance(found, str) else None


@cache
def _rule_of(model: str) -> ImageRule | None:
    name = model.lower().rpartition("/")[2]
    return next((rule for pattern, rule in _IMAGE_RULES if re.search(pattern, name)), None)


def _tiles(base: int, each: int) -> ImageRule:
    """Pictures are fitted into 2,048 pixels, their short side into 768, and cut into 512s."""

    def rule(width: int, height: int) -> int:
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (scale * min(width, height)))
        columns, rows = (math.ceil(side * scale / 512) for side in (width, height))
        return base + each * columns * rows

    return rule


def _patches(factor: float, *, most: int = 1536) -> ImageRule:
    """Pictures are cut into 32s, at most so many."""

    def rule(width: int, height: int) -> int:
        patches = math.ceil(width / 32) * math.ceil(height / 32)
        return math.ceil(min(most, patches) * factor)

    return rule


def _area(pixels_per_token: float, *, most: int) -> ImageRule:
    def rule(width: int, height: int) -> int:
        return min(most, math.ceil(width * height / pixels_per_token))

    return rule


def _gemini(width: int, height: int) -> int:
    if max(width, height) <= 384:
        return 258
    return 258 * math.ceil(width / 768) * math.ceil(height / 768)


_IMAGE_RULES: tuple[tuple[str, ImageRule], ...] = (
    (r"gpt-4o-mini", _tiles(2833, 5667)),
    (r"gpt-(?:4\.1|5)-nano", _patches(2.46)),
    (r"gpt-(?:4\.1|5(?:\.\d)?)-mini", _patches(1.62)),
    (r"o4-mini", _patches(1.72)),
    (r"gpt-4o|gpt-4\.[15]|gpt-4-", _tiles(85, 170)),
    (r"gpt-5", _tiles(70, 140)),
    (r"^o[13]", _tiles(75, 150)),
    (r"claude", _area(750, most=1600)),
    (r"gemini", _gemini),
    (r"qwen3.*vl", _area(32 * 32, most=16384)),
    (r"qwen2.*vl", _area(28 * 28, most=16384)),
    (r"medgemma|gemma-?3", lambda _width, _height: 256),
    (r"llava-med|llava-v?1\.5", lambda _width, _height: 576),
)
"""By the end of a model's name; the first that fits."""


@lru_cache(maxsize=4096)
def _size(image: str) -> tuple[int, int]:
    """Return the pixels of a picture from its head; of one that cannot be read, a large one's."""
    try:
        if image.startswith("data:"):
            source = io.BytesIO(base64.b64decode(image.partition(",")[2]))
            with open_raster(source, "image") as opened:
                return opened.size
        with Path(image).open("rb") as handle, open_raster(handle, image) as opened:
            return opened.size
    except (OSError, ValueError, ImageError):
        return 2048, 2048
