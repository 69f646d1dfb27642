"""A page to talk through: upload, conversation, stop. Nothing it sees is written to disk.

A small server of our own, because ready-made ones keep uploads in temporary files. An upload
arrives as the body of a request, becomes pixels in memory and goes with its conversation. The page
loads nothing from elsewhere. Without being asked, only this machine can reach it. Needs the extra
`web`.
"""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from PIL import Image

from medllava.chat.config import NOTICE, PASSWORD_VARIABLE, ViewConfig
from medllava.chat.conversation import Conversation
from medllava.chat.examples import EXAMPLES
from medllava.chat.exchange import open_image, open_images
from medllava.chat.middleware import Gate
from medllava.chat.occlusion import CAPTION, draw_overlay
from medllava.chat.requests import PageQuestion, parse_question, parse_view
from medllava.chat.sessions import MAX_IMAGES, Picture, Session, Sessions
from medllava.chat.transcript import parse_transcript
from medllava.errors import DataError, MedllavaError, SetupError
from medllava.images.encode import encode_image, image_address, shrink
from medllava.images.facts import describe_image

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

MAX_UPLOAD_BYTES = 64 * 2**20
_MAX_QUESTION_BYTES = 64 * 2**10
_PREVIEW_PIXELS = 640
_MAX_NAME = 200
_MAX_UPLOADS, _MAX_DECODES, _UPLOAD_SECONDS = 8, 2, 120.0
_MAX_CONNECTIONS = 1000
_SERVER_QUESTIONS = 8
_PAGE_FILES = {"style": "page.css", "script": "page.js"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a page begins with, for everyone who opens it."""

    question: str = ""
    """Stands in the input."""
    images: tuple[tuple[str, bytes], ...] = ()
    """Name and bytes of files that wait to be asked about."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """Of these files."""


def read_given(sources: Sequence[str], view: ViewConfig) -> tuple[tuple[str, bytes], ...]:
    """Read the images named on the command line, once they were seen to open.

    Raises:
        MedllavaError: see `medllava.images.load.load_image`.
    """
    given = []
    for source in sources:
        path = Path(source)
        for shown, image in open_images(source, view):
            # What came from an address or a folder is passed on as the picture that it showed.
            data = path.read_bytes() if path.is_file() else encode_image(image, "PNG")
            part = f" {shown.frame}" if path.is_dir() else ""
            given.append((f"{path.name}{part}", data))
    return tuple(given)


def serve_page(
    new_conversation: Callable[[], Conversation],
    *,
    model: str,
    host: str,
    port: int,
    announce: Callable[[str], None],
    sent_to: str | None = None,
    opening: Opening | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        new_conversation: makes an empty conversation with the shared model.
        model: its name, shown on the page.
        host: address to bind.
        port: 0 takes a free one.
        announce: told the page's address and, where others can reach it, what that means.
        sent_to: the server that answers, where it is another one; the page says so.
        opening: what the page begins with.

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
        new_conversation,
        model=model,
        sent_to=sent_to,
        password=password,
        is_local=is_local,
        opening=opening,
    )
    with _bind(host, port) as listener:
        address = f"[{host}]" if ":" in host else host
        announce(f"Open http://{address}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        if not is_local:
            if password is None:
                announce(f"Anyone who reaches {host} can use it: set ${PASSWORD_VARIABLE}.")
            announce("The connection is not encrypted: put a TLS proxy before it.")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=2,
                limit_concurrency=_MAX_CONNECTIONS,
            )
        )
        server.run(sockets=[listener])


def build_app(
    new_conversation: Callable[[], Conversation],
    *,
    model: str,
    sent_to: str | None = None,
    password: str | None = None,
    is_local: bool = True,
    opening: Opening | None = None,
) -> "ASGIApp":
    """Return the page as an ASGI application.

    Args:
        new_conversation: makes an empty conversation with the shared model.
        model: its name, shown on the page.
        sent_to: the server that answers, where it is another one; the page says so.
        password: asked for by the browser, with any user name; None asks nobody.
        is_local: answer only to the names of this machine, so that no foreign page can reach in.
        opening: what the page begins with.
    """
    from starlette.applications import Starlette  # noqa: PLC0415 - an extra
    from starlette.routing import Route  # noqa: PLC0415 - an extra

    # A server answers many at once; a model in memory has one thread.
    sessions = Sessions(new_conversation, parallel=_SERVER_QUESTIONS if sent_to else 1)
    handlers = _Handlers(sessions, model=model, sent_to=sent_to, opening=opening or Opening())
    app = Starlette(
        routes=[
            Route("/", handlers.page),
            Route("/examples/{name}.png", handlers.example),
            Route("/given/{number:int}", handlers.given),
            Route("/conversations", handlers.open, methods=["POST"]),
            Route("/conversations/{key}", handlers.close, methods=["DELETE"]),
            Route("/conversations/{key}/images", handlers.show, methods=["POST"]),
            Route("/conversations/{key}/images/{picture}", handlers.remove, methods=["DELETE"]),
            Route("/conversations/{key}/images/{picture}/view", handlers.view, methods=["POST"]),
            Route("/conversations/{key}/look", handlers.look, methods=["POST"]),
            Route("/conversations/{key}/transcript", handlers.restore, methods=["POST"]),
            Route("/conversations/{key}/turns", handlers.ask, methods=["POST"]),
            Route("/conversations/{key}/stop", handlers.stop, methods=["POST"]),
        ]
    )
    return Gate(app, password=password, is_local=is_local)


class _Handlers:
    """One method per route."""

    def __init__(
        self, sessions: Sessions, *, model: str, sent_to: str | None, opening: Opening
    ) -> None:
        self._sessions = sessions
        self._uploads = asyncio.Semaphore(_MAX_UPLOADS)
        self._decodes = asyncio.Semaphore(_MAX_DECODES)
        self._facts = {
            "model": model,
            "sentTo": sent_to,
            "notice": NOTICE,
            "question": opening.question,
            "given": [name for name, _ in opening.images],
            "view": _view_to_page(opening.view),
            "maxImages": MAX_IMAGES,
            "examples": [{"name": name, "question": text} for name, (_, text) in EXAMPLES.items()],
        }
        self._given = [data for _, data in opening.images]
        folder = resources.files("medllava.chat")
        self._template = folder.joinpath("page.html").read_text("utf-8")
        for place, name in _PAGE_FILES.items():
            text = folder.joinpath(name).read_text("utf-8")
            self._template = self._template.replace(f"{{{{{place}}}}}", text)
        self._examples = {name: encode_image(draw()) for name, (draw, _) in EXAMPLES.items()}

    async def page(self, _: "Request") -> "Response":
        from starlette.responses import HTMLResponse  # noqa: PLC0415 - an extra

        nonce = secrets.token_urlsafe(16)
        # "<" escaped, so that no name can close the script element it stands in
        encoded = json.dumps(self._facts).replace("<", "\\u003c")
        html = self._template.replace("{{nonce}}", nonce).replace("{{facts}}", encoded)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(html, headers={"content-security-policy": policy})

    async def example(self, request: "Request") -> "Response":
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        data = self._examples.get(request.path_params["name"])
        return Response(data, media_type="image/png") if data else Response(status_code=404)

    async def given(self, request: "Request") -> "Response":
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        number = request.path_params["number"]
        if number >= len(self._given):
            return Response(status_code=404)
        return Response(self._given[number], media_type="application/octet-stream")

    async def open(self, _: "Request") -> "Response":
        try:
            return _json({"key": self._sessions.open()})
        except MedllavaError as error:
            return _json({"error": str(error)}, status=503)

    async def close(self, request: "Request") -> "Response":
        self._sessions.close(request.path_params["key"])
        return _json({})

    async def stop(self, request: "Request") -> "Response":
        if session := self._sessions.find(request.path_params["key"]):
            session.stop.set()
        return _json({})

    async def show(self, request: "Request") -> "Response":
        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        if len(session.pictures) >= MAX_IMAGES:
            return _json({"error": f"a conversation holds {MAX_IMAGES} images."}, status=400)
        async with self._uploads:
            try:
                async with asyncio.timeout(_UPLOAD_SECONDS):
                    data = await _read_body(request, limit=MAX_UPLOAD_BYTES)
            except TimeoutError:
                return _json({"error": "the upload took too long. Try again."}, status=408)
            if data is None:
                return _json({"error": f"the file is over {MAX_UPLOAD_BYTES:,} bytes."}, status=413)
            try:
                image = await self._render(data, ViewConfig())
                facts = await asyncio.to_thread(describe_image, data)
                name = unquote(request.headers.get("x-medllava-name", ""))[:_MAX_NAME]
                picture = self._sessions.add(session, name=name, data=data, facts=facts)
            except MedllavaError as error:
                return _json({"error": str(error)}, status=400)
        return _json(
            {
                "id": picture.picture_id,
                "width": image.width,
                "height": image.height,
                "preview": await asyncio.to_thread(_preview, image),
                "facts": facts.to_json(),
            }
        )

    async def view(self, request: "Request") -> "Response":
        """Return one slice at one window as PNG: the very pixels a question would show."""
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        found = self._picture_of(request)
        if found is None:
            return _gone()
        try:
            view = parse_view(_object_in(await _read_body(request, limit=_MAX_QUESTION_BYTES)))
            image = await self._render(found[1].data, view)
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        return Response(await asyncio.to_thread(encode_image, image, "PNG"), media_type="image/png")

    async def remove(self, request: "Request") -> "Response":
        if found := self._picture_of(request):
            session, picture = found
            del session.pictures[picture.picture_id]
        return _json({})

    async def restore(self, request: "Request") -> "Response":
        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        async with self._uploads:
            raw = await _read_body(request, limit=MAX_UPLOAD_BYTES)
            try:
                talk = await asyncio.to_thread(parse_transcript, raw or b"")
            except MedllavaError as error:
                return _json({"error": str(error)}, status=400)
        session.conversation.restore(talk.turns, talk.images)
        return _json({"turns": talk.to_page()})

    async def ask(self, request: "Request") -> "Response":
        from starlette.responses import StreamingResponse  # noqa: PLC0415 - an extra

        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        raw = await _read_body(request, limit=_MAX_QUESTION_BYTES)
        try:
            asked = parse_question(_object_in(raw))
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        try:
            images = await self._render_all(session, asked)
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        events = self._sessions.answer(session, asked.text, images, asked.options)

        async def lines() -> AsyncIterator[str]:
            async with aclosing(events):  # the browser may go before the end
                async for event in events:
                    yield json.dumps(event) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def look(self, request: "Request") -> "Response":
        """Return the first picture of the last question with what its answer depends on tinted."""
        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        raw = await _read_body(request, limit=_MAX_QUESTION_BYTES)
        try:
            images = await self._render_all(session, parse_question(_object_in(raw)))
            parts = await self._sessions.look(session, images)
            drawn = await asyncio.to_thread(draw_overlay, images[0], parts)
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        return _json({"image": _preview(drawn), "caption": CAPTION, "parts": parts})

    async def _render_all(self, session: Session, asked: PageQuestion) -> list[Image.Image]:
        images = []
        for picture_id, view in asked.images:
            picture = session.pictures.get(picture_id)
            if picture is None:
                raise DataError("a picture of this question is gone. Add it again.")
            images.append(await self._render(picture.data, view))
        return images

    def _picture_of(self, request: "Request") -> tuple[Session, Picture] | None:
        session = self._sessions.find(request.path_params["key"])
        picture = session.pictures.get(request.path_params["picture"]) if session else None
        return (session, picture) if session and picture else None

    async def _render(self, data: bytes, view: ViewConfig) -> Image.Image:
        """Decode one view of a file, at most two at once: a small file may be a large picture."""
        async with self._decodes:
            return await asyncio.to_thread(open_image, data, view)


def _view_to_page(view: ViewConfig) -> dict[str, Any]:
    values = {
        "frame": view.frame,
        "plane": None if view.plane == "axial" else view.plane,
        "slice": view.slice_index,
        "window": view.window,
    }
    return {name: value for name, value in values.items() if value is not None}


def _preview(image: Image.Image) -> str:
    return image_address(shrink(image, _PREVIEW_PIXELS), kind="JPEG")


async def _read_body(request: "Request", *, limit: int) -> bytes | None:
    """Return the body from memory, or None if it is longer than `limit`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _object_in(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object of a body; an empty one where there is none."""
    try:
        value = json.loads(raw or b"")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(value: dict[str, Any], *, status: int = 200) -> "Response":
    from starlette.responses import JSONResponse  # noqa: PLC0415 - an extra

    return JSONResponse(value, status_code=status)


def _gone() -> "Response":
    return _json(
        {"error": "this conversation is over and its pictures are gone; begin a new one."},
        status=404,
    )


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
