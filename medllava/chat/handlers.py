"""What the page asks for, one method per route: upload, view, question, overlay, transcript.

Bodies are read and checked by `requests`, conversations live in `sessions`; every refusal is a JSON
object with words that the page shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from PIL import Image

from medllava.chat.config import NOTICE, ViewConfig
from medllava.chat.examples import EXAMPLES
from medllava.chat.exchange import open_image
from medllava.chat.occlusion import CAPTION, draw_overlay
from medllava.chat.page_text import fill_page, read_template
from medllava.chat.privacy import PrivacyWatch, Told
from medllava.chat.requests import (
    PageQuestion,
    parse_files,
    parse_object,
    parse_question,
    parse_view,
    read_body,
)
from medllava.chat.sessions import MAX_IMAGES, Picture, Session, Sessions
from medllava.chat.transcript import parse_transcript
from medllava.errors import DataError, MedllavaError
from medllava.images.encode import encode_image, image_address, shrink
from medllava.images.facts import describe_image
from medllava.images.load import gather_series
from medllava.images.series import Series

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_UPLOAD_BYTES = 64 * 2**20
_MAX_SERIES_BYTES = 512 * 2**20
_MAX_QUESTION_BYTES = 64 * 2**10
_PREVIEW_PIXELS = 640
_MAX_NAME = 200
_MAX_UPLOADS, _MAX_DECODES, _UPLOAD_SECONDS = 8, 2, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a page begins with, for everyone who opens it."""

    question: str = ""
    """Stands in the input."""
    images: tuple[tuple[str, bytes], ...] = ()
    """Name and bytes of files that wait to be asked about."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """Of these files."""


class Handlers:
    """One method per route."""

    def __init__(
        self, sessions: Sessions, *, model: str, sent_to: str | None, opening: Opening
    ) -> None:
        """Hold what the page is told; see `medllava.chat.web.build_app`."""
        self._sessions = sessions
        self._uploads = asyncio.Semaphore(_MAX_UPLOADS)
        self._decodes = asyncio.Semaphore(_MAX_DECODES)
        self._watch = PrivacyWatch(sent_to)
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
        self._template = read_template()
        self._examples = {name: encode_image(draw()) for name, (draw, _) in EXAMPLES.items()}

    async def page(self, _: "Request") -> "Response":
        """Return the page itself."""
        from starlette.responses import HTMLResponse  # noqa: PLC0415 - an extra

        html, policy = fill_page(self._template, self._facts)
        return HTMLResponse(html, headers={"content-security-policy": policy})

    async def example(self, request: "Request") -> "Response":
        """Return an example's picture."""
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        data = self._examples.get(request.path_params["name"])
        return Response(data, media_type="image/png") if data else Response(status_code=404)

    async def given(self, request: "Request") -> "Response":
        """Return a file that was named on the command line."""
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        number = request.path_params["number"]
        if number >= len(self._given):
            return Response(status_code=404)
        return Response(self._given[number], media_type="application/octet-stream")

    async def open(self, _: "Request") -> "Response":
        """Begin a conversation; the reply has its key."""
        try:
            return _json({"key": self._sessions.open()})
        except MedllavaError as error:
            return _json({"error": str(error)}, status=503)

    async def close(self, request: "Request") -> "Response":
        """Drop a conversation and all its pictures."""
        self._sessions.close(request.path_params["key"])
        return _json({})

    async def stop(self, request: "Request") -> "Response":
        """End the answer that is running, if one is."""
        if session := self._sessions.find(request.path_params["key"]):
            session.stop.set()
        return _json({})

    async def show(self, request: "Request") -> "Response":
        """Keep an uploaded picture, or the folder of a series.

        The reply has its id, a preview, what can be chosen and what is warned of.
        """
        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        if len(session.pictures) >= MAX_IMAGES:
            return _json({"error": f"a conversation holds {MAX_IMAGES} images."}, status=400)
        is_folder = "x-medllava-folder" in request.headers
        limit = _MAX_SERIES_BYTES if is_folder else MAX_UPLOAD_BYTES
        async with self._uploads:
            try:
                async with asyncio.timeout(_UPLOAD_SECONDS):
                    raw = await read_body(request, limit=limit)
            except TimeoutError:
                return _json({"error": "the upload took too long. Try again."}, status=408)
            if raw is None:
                return _json({"error": f"the file is over {limit:,} bytes."}, status=413)
            try:
                data = await asyncio.to_thread(_gather, raw) if is_folder else raw
                image = await self._render(data, ViewConfig())
                facts = await asyncio.to_thread(describe_image, data)
                told = await self._watch_over(data, image)
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
                "warnings": [{"text": one.text, "isUrgent": one.is_urgent} for one in told],
            }
        )

    async def view(self, request: "Request") -> "Response":
        """Return one slice at one window as PNG: the very pixels a question would show."""
        from starlette.responses import Response  # noqa: PLC0415 - an extra

        found = self._picture_of(request)
        if found is None:
            return _gone()
        try:
            view = parse_view(parse_object(await read_body(request, limit=_MAX_QUESTION_BYTES)))
            image = await self._render(found[1].data, view)
        except MedllavaError as error:
            return _json({"error": str(error)}, status=400)
        return Response(await asyncio.to_thread(encode_image, image, "PNG"), media_type="image/png")

    async def remove(self, request: "Request") -> "Response":
        """Drop a picture that was not asked about."""
        if found := self._picture_of(request):
            session, picture = found
            del session.pictures[picture.picture_id]
        return _json({})

    async def restore(self, request: "Request") -> "Response":
        """Begin with a saved conversation; the reply has its turns to draw."""
        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        async with self._uploads:
            raw = await read_body(request, limit=MAX_UPLOAD_BYTES)
            try:
                talk = await asyncio.to_thread(parse_transcript, raw or b"")
            except MedllavaError as error:
                return _json({"error": str(error)}, status=400)
        session.conversation.restore(talk.turns, talk.images)
        return _json({"turns": talk.to_page()})

    async def ask(self, request: "Request") -> "Response":
        """Stream the answer to a question as lines of JSON; see `Sessions.answer`."""
        from starlette.responses import StreamingResponse  # noqa: PLC0415 - an extra

        session = self._sessions.find(request.path_params["key"])
        if session is None:
            return _gone()
        raw = await read_body(request, limit=_MAX_QUESTION_BYTES)
        try:
            asked = parse_question(parse_object(raw))
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
        raw = await read_body(request, limit=_MAX_QUESTION_BYTES)
        try:
            images = await self._render_all(session, parse_question(parse_object(raw)))
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

    async def _watch_over(self, data: bytes | Series[bytes], image: Image.Image) -> list[Told]:
        async with self._decodes:
            return await asyncio.to_thread(self._watch.look, data, [image])

    async def _render(self, data: bytes | Series[bytes], view: ViewConfig) -> Image.Image:
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


def _gather(raw: bytes) -> Series[bytes]:
    return gather_series(parse_files(raw))


def _preview(image: Image.Image) -> str:
    return image_address(shrink(image, _PREVIEW_PIXELS), kind="JPEG")


def _json(value: dict[str, Any], *, status: int = 200) -> "Response":
    from starlette.responses import JSONResponse  # noqa: PLC0415 - an extra

    return JSONResponse(value, status_code=status)


def _gone() -> "Response":
    return _json(
        {"error": "this conversation is over and its pictures are gone; begin a new one."},
        status=404,
    )
