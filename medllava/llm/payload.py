"""A `ChatRequest` as the JSON body that OpenAI-compatible servers read, and its fingerprint.

Images become `data:` addresses inside the request, so a server needs neither our files nor a
network.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.images.encode import image_address
from medllava.llm.protocol import ChatRequest, Message
from medllava.store import sha256_of


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
