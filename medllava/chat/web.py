"""A page to talk through: upload, conversation, stop. Nothing it sees is written to disk.

A small server of our own, because ready-made ones keep uploads in temporary files. An upload
arrives as the body of a request, becomes pixels in memory and goes with its conversation. The page
loads nothing from elsewhere. Without being asked, only this machine can reach it. Needs the extra
`web`.
"""

import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from importlib import resources
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from medllava.chat.config import NOTICE, PASSWORD_VARIABLE
from medllava.chat.conversation import Conversation
from medllava.chat.examples import EXAMPLES
from medllava.chat.middleware import Gate
from medllava.chat.sessions import MAX_IMAGES, Rooms
from medllava.errors import MedllavaError, SetupError
from medllava.images.encode import encode_image, image_address, shrink
from medllava.images.load import load_image

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

MAX_UPLOAD_BYTES = 64 * 2**20
_MAX_QUESTION_BYTES = 64 * 2**10
_PREVIEW_PIXELS = 640


def serve_page(
    new_conversation: Callable[[], Conversation],
    *,
    model: str,
    host: str,
    port: int,
    announce: Callable[[str], None],
    sent_to: str | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        new_conversation: makes an empty conversation with the shared model.
        model: its name, shown on the page.
        host: address to bind.
        port: 0 takes a free one.
        announce: told the page's address and, where others can reach it, what that means.
        sent_to: the server that answers, where it is another one; the page says so.

    Raises:
        SetupError: the extra is not installed, or the address cannot be bound.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError:
        raise SetupError("the page needs an extra. Run: pip install 'medllava[web]'") from None
    password = os.environ.get(PASSWORD_VARIABLE) or None
    is_local = _is_loopback(host)
    app = build_app(
        new_conversation, model=model, sent_to=sent_to, password=password, is_local=is_local
    )
    with _bind(host, port) as listener:
        address = f"[{host}]" if ":" in host else host
        announce(f"Open http://{address}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        if not is_local:
            if password is None:
                announce(f"Anyone who reaches {host} can use it: set ${PASSWORD_VARIABLE}.")
            announce("The connection is not encrypted: put a TLS proxy before it.")
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        )
        server.run(sockets=[listener])


def build_app(
    new_conversation: Callable[[], Conversation],
    *,
    model: str,
    sent_to: str | None = None,
    password: str | None = None,
    is_local: bool = True,
) -> "ASGIApp":
    """Return the page as an ASGI application.

    Args:
        new_conversation: makes an empty conversation with the shared model.
        model: its name, shown on the page.
        sent_to: the server that answers, where it is another one; the page says so.
        password: asked for by the browser, with any user name; None asks nobody.
        is_local: answer only to the names of this machine, so that no foreign page can reach in.
    """
    from starlette.applications import Starlette  # noqa: PLC0415 - an extra
    from starlette.routing import Route  # noqa: PLC0415 - an extra

    handlers = _Handlers(Rooms(new_conversation), model=model, sent_to=sent_to)
    app = Starlette(
        routes=[
            Route("/", handlers.page),
            Route("/examples/{name}.png", handlers.example),
            Route("/conversations", handlers.open, methods=["POST"]),
            Route("/conversations/{key}", handlers.close, methods=["DELETE"]),
            Route("/conversations/{key}/images", handlers.show, methods=["POST"]),
            Route("/conversations/{key}/turns", handlers.ask, methods=["POST"]),
            Route("/conversations/{key}/stop", handlers.stop, methods=["POST"]),
        ]
    )
    return Gate(app, password=password, is_local=is_local)


class _Handlers:
    """One method per route."""

    def __init__(self, rooms: Rooms, *, model: str, sent_to: str | None) -> None:
        self._rooms = rooms
        self._facts = {
            "model": model,
            "sentTo": sent_to,
            "notice": NOTICE,
            "examples": [{"name": name, "question": text} for name, (_, text) in EXAMPLES.items()],
        }
        self._template = resources.files("medllava.chat").joinpath("page.html").read_text("utf-8")
        self._examples = {name: encode_image(draw()) for name, (draw, _) in EXAMPLES.items()}

    async def page(self, _: "Request") -> "Response":
        from starlette.responses import HTMLResponse  # noqa: PLC0415 - an extra

        nonce = secrets.token_urlsafe(16)
        # "<" escaped, so that no name can close the script element it stands in
        encoded = json.dumps(self._facts).replace("<", "\\u003c")
        html = self._template.replace("{{nonce}}", nonce).replace("{{facts}}", encoded)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(html, headers={"content-security-policy": policy})

    async def example(self, request: "Request") -> "Response":
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        data = self._examples.get(request.path_params["name"])
        return Response(data, media_type="image/png") if data else Response(status_code=404)

    async def open(self, _: "Request") -> "Response":
        try:
            return _json({"key": self._rooms.open()})
        except MedllavaError as error:
            return _json({"error": str(error)}, status=503)

    async def close(self, request: "Request") -> "Response":
        self._rooms.close(request.path_params["key"])
        return _json({})

    async def stop(self, request: "Request") -> "Response":
        if room := self._rooms.find(request.path_params["key"]):
            room.stop.set()
        return _json({})

    async def show(self, request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool  # noqa: PLC0415 - an extra

        room = self._rooms.find(request.path_params["key"])
        if room is None:
            return _gone()
        if room.num_images >= MAX_IMAGES:
            return _json({"error": f"a conversation holds {MAX_IMAGES} images."}, status=400)
        data = await _read_body(request, limit=MAX_UPLOAD_BYTES)
        if data is None:
            return _json({"error": f"the file is over {MAX_UPLOAD_BYTES:,} bytes."}, status=413)
        try:
            image = await run_in_threadpool(load_image, data)
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        room.conversation.show(image)
        room.num_images += 1
        size = image.size
        preview = image_address(shrink(image, _PREVIEW_PIXELS), kind="JPEG")
        return _json({"width": size[0], "height": size[1], "preview": preview})

    async def ask(self, request: "Request") -> "Response":
        from starlette.responses import StreamingResponse  # noqa: PLC0415 - an extra

        room = self._rooms.find(request.path_params["key"])
        if room is None:
            return _gone()
        raw = await _read_body(request, limit=_MAX_QUESTION_BYTES)
        question = _question_in(raw)
        if question is None:
            return _json({"error": "ask a question of at most 64 KiB."}, status=400)
        events = self._rooms.answer(room, question)

        async def lines() -> AsyncIterator[str]:
            from starlette.concurrency import iterate_in_threadpool  # noqa: PLC0415 - an extra

            is_finished = False
            try:
                async for event in iterate_in_threadpool(events):
                    yield json.dumps(event) + "\n"
                is_finished = True
            finally:
                if not is_finished:  # the browser has gone
                    room.stop.set()

        return StreamingResponse(lines(), media_type="application/x-ndjson")


async def _read_body(request: "Request", *, limit: int) -> bytes | None:
    """Return the body from memory, or None if it is longer than `limit`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _question_in(raw: bytes | None) -> str | None:
    try:
        value = json.loads(raw or b"")
    except ValueError:
        return None
    text = value.get("text") if isinstance(value, dict) else None
    return text.strip() or None if isinstance(text, str) else None


def _json(value: dict[str, Any], *, status: int = 200) -> "Response":
    from starlette.responses import JSONResponse  # noqa: PLC0415 - an extra

    return JSONResponse(value, status_code=status)


def _gone() -> "Response":
    return _json({"error": "this conversation is over; begin a new one."}, status=404)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SetupError(
            f"cannot serve at {host}, port {port} ({error.strerror}). Choose another --port."
        ) from None
    return listener
