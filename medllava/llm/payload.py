"""A `ChatRequest` as the JSON body that OpenAI-compatible servers read, and its fingerprint.

Images become `data:` addresses inside the request, so a server needs neither our files nor a
network.
"""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from medllava.errors import DataError
from medllava.llm.protocol import ChatRequest, Message
from medllava.store import sha256_of

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


def build_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return messages in the server's form; plain strings where there is no image.

    Raises:
        DataError: an image cannot be read.
    """
    built: list[dict[str, Any]] = []
    for message in messages:
        content: str | list[dict[str, Any]] = message.content
        if message.images:
            content = [
                {"type": "image_url", "image_url": {"url": image_address(image)}}
                for image in message.images
            ]
            content.append({"type": "text", "text": message.content})
        built.append({"role": message.role, "content": content})
    return built


def image_address(image: str) -> str:
    """Return an image as a `data:` address; formats that servers do not read become PNG.

    Args:
        image: a local path, or a `data:` address, which is returned as it is.

    Raises:
        DataError: the file is absent or is no image.
    """
    if image.startswith("data:"):
        return image
    try:
        data = Path(image).read_bytes()
        kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), None)
        if kind is None:
            data, kind = _as_png(data), "image/png"
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"not a usable image ({error}): {image}. Check the path.") from None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read_image(image: str) -> Image.Image:
    """Return an image as RGB pixels.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if image.startswith("data:"):
            data = base64.b64decode(image.partition(",")[2])
        else:
            data = Path(image).read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"not a usable image ({error}): {image:.80}. Check the path.") from None


def request_key(model: str, request: ChatRequest) -> str:
    """Return a fingerprint of a request: its id, and everything that decides the answer.

    Images count by their bytes, not by their paths, so a folder may move.

    Raises:
        DataError: an image cannot be read.
    """
    settings = (
        model,
        request.request_id,
        request.max_new_tokens,
        request.temperature,
        request.seed,
        request.response_schema,
    )
    parts = [json.dumps(settings, sort_keys=True)]
    if request.extra:
        parts.append(json.dumps(request.extra, sort_keys=True))
    for message in request.messages:
        images = [_image_hash(image) for image in message.images]
        # Lengths keep one message from running into the next.
        parts += (message.role, str(len(message.content)), *images, message.content)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _image_hash(image: str) -> str:
    if image.startswith("data:"):
        return hashlib.sha256(image.encode()).hexdigest()
    try:
        return sha256_of(Path(image))
    except OSError as error:
        raise DataError(f"cannot read an image ({error}): {image}. Check the path.") from None


def _as_png(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        out = io.BytesIO()
        image.convert("RGB").save(out, "PNG")
        return out.getvalue()
