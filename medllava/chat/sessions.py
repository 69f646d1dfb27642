"""The conversations of a page, in memory only, and the line in which their questions wait.

The model answers one question at a time, on a thread of its own, in the order they came; everyone
who waits is told their place. Where room is short, the conversation that was idle longest goes.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medllava.chat.config import Options
from medllava.chat.conversation import Conversation
from medllava.errors import DataError, MedllavaError
from medllava.images.facts import ImageFacts
from medllava.images.series import Series

MAX_IMAGES = 8
"""Of one conversation."""

_MAX_SESSIONS = 256
_MAX_BYTES = 2 * 2**30
_MAX_CACHES = 4
_IDLE_SECONDS = 30 * 60
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A file that was uploaded; which slice and window of it is shown comes with the question."""

    picture_id: str
    name: str
    data: bytes | Series[bytes]
    """A file, or the files of a DICOM series."""
    facts: ImageFacts

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self.data.num_bytes if isinstance(self.data, Series) else len(self.data)


class Session:
    """One conversation and what is going on in it."""

    def __init__(self, conversation: Conversation) -> None:
        """Begin with an empty conversation."""
        self.conversation = conversation
        self.pictures: dict[str, Picture] = {}
        self.stop = threading.Event()
        """Set: the running answer ends after the piece it is at."""
        self.is_busy = False
        """A question waits or is being answered."""
        self.last_used = time.monotonic()

    @property
    def num_bytes(self) -> int:
        """What its files take."""
        return sum(picture.num_bytes for picture in self.pictures.values())


class Sessions:
    """All conversations of one page; used from the page's event loop only."""

    def __init__(
        self,
        new_conversation: Callable[[], Conversation],
        *,
        max_sessions: int = _MAX_SESSIONS,
        max_bytes: int = _MAX_BYTES,
        idle_seconds: float = _IDLE_SECONDS,
        parallel: int = 1,
    ) -> None:
        """Begin with none.

        Args:
            new_conversation: makes an empty conversation with the shared model.
            max_sessions: for one more, the one that was idle longest goes.
            max_bytes: of all uploaded files together; the same holds.
            idle_seconds: a conversation unused for longer is dropped.
            parallel: questions answered at once; a model in memory takes one.
        """
        self._new_conversation = new_conversation
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._sessions: dict[str, Session] = {}
        self._line = _Line(parallel)

    def open(self) -> str:
        """Make a session and return its key, which cannot be guessed.

        Raises:
            DataError: all are in the middle of an answer.
        """
        self._drop_idle()
        while len(self._sessions) >= self._max_sessions:
            self._drop_longest_idle()
        key = secrets.token_urlsafe(24)
        self._sessions[key] = Session(self._new_conversation())
        return key

    def find(self, key: str) -> Session | None:
        """Return the session of that key, if it is still there."""
        self._drop_idle()
        session = self._sessions.get(key)
        if session is not None:
            session.last_used = time.monotonic()
        return session

    def close(self, key: str) -> None:
        """Drop a session; its turns, images and cache are gone."""
        session = self._sessions.pop(key, None)
        if session is not None:
            session.stop.set()

    def add(
        self, session: Session, *, name: str, data: bytes | Series[bytes], facts: ImageFacts
    ) -> Picture:
        """Keep an uploaded file or series with its session and return it with its new id.

        Raises:
            DataError: the session has enough, or there is no room for the file.
        """
        if len(session.pictures) >= MAX_IMAGES:
            raise DataError(f"a conversation holds {MAX_IMAGES} images. Remove one, or start over.")
        picture = Picture(picture_id=secrets.token_urlsafe(9), name=name, data=data, facts=facts)
        while (
            sum(one.num_bytes for one in self._sessions.values()) + picture.num_bytes
            > self._max_bytes
        ):
            self._drop_longest_idle(but=session)
        session.pictures[picture.picture_id] = picture
        return picture

    async def answer(
        self,
        session: Session,
        question: str,
        images: Sequence[Image.Image] = (),
        options: Options | None = None,
    ) -> AsyncGenerator[dict[str, Any]]:
        """Answer a question, yielding events as JSON objects.

        Events: `{"waiting": place}` while others are before it, `{"piece": text}`, at the end
        `{"done": facts}` or `{"error": message}`. Leaving early ends the answer.
        """
        if session.is_busy:
            yield {"error": "the last question is still being answered."}
            return
        session.is_busy = True
        session.stop.clear()
        ticket = self._line.enter()
        is_started = False
        try:
            async for place in self._line.places(ticket):
                if session.stop.is_set():
                    yield {"done": {"finish_reason": "interrupted"}}
                    return
                yield {"waiting": place}
            events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
            is_started = True
            self._start(session, ticket, events, question, images, options or Options())
            while (event := await events.get()) is not None:
                yield event
        finally:
            if is_started:
                session.stop.set()  # harmless at the end; before it, whoever asked has gone
            else:
                self._leave(session, ticket)

    async def look(self, session: Session, images: Sequence[Image.Image]) -> list[list[float]]:
        """Return which parts of a picture the last answer depends on, when it is one's turn.

        Raises:
            DataError: an answer is under way, or see `Conversation.look`.
        """
        if session.is_busy:
            raise DataError("the last question is still being answered.")
        session.is_busy = True
        ticket = self._line.enter()
        try:
            async for _ in self._line.places(ticket):
                pass
            look = self._line.threads.submit(session.conversation.look, images)
            return await asyncio.shield(asyncio.wrap_future(look))
        finally:
            self._leave(session, ticket)

    def _start(
        self,
        session: Session,
        ticket: "_Ticket",
        events: "asyncio.Queue[dict[str, Any] | None]",
        question: str,
        images: Sequence[Image.Image],
        options: Options,
    ) -> None:
        """Answer on the model's thread; the place in the line is free when that has ended."""
        loop = asyncio.get_running_loop()

        def send(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def end(_: Future[None]) -> None:
            # Before the stream ends: who has heard the whole answer may ask again at once.
            loop.call_soon_threadsafe(self._leave, session, ticket)
            send(None)

        work = self._line.threads.submit(_answer, session, question, images, options, send)
        work.add_done_callback(end)

    def _leave(self, session: Session, ticket: "_Ticket") -> None:
        session.is_busy = False
        session.last_used = time.monotonic()
        self._line.leave(ticket)
        self._free_caches()

    def _drop_idle(self) -> None:
        oldest = time.monotonic() - self._idle_seconds
        for key, session in list(self._sessions.items()):
            if session.last_used < oldest and not session.is_busy:
                del self._sessions[key]

    def _drop_longest_idle(self, but: Session | None = None) -> None:
        idle = [
            (session.last_used, key)
            for key, session in self._sessions.items()
            if not session.is_busy and session is not but
        ]
        if not idle:
            raise DataError("all conversations are taken. Try again later.")
        self.close(min(idle)[1])

    def _free_caches(self) -> None:
        by_use = sorted(self._sessions.values(), key=lambda one: one.last_used, reverse=True)
        for session in by_use[_MAX_CACHES:]:
            if not session.is_busy:
                session.conversation.forget()


def _answer(
    session: Session,
    question: str,
    images: Sequence[Image.Image],
    options: Options,
    send: Callable[[dict[str, Any]], None],
) -> None:
    """Send an answer piece by piece; whatever goes wrong is told in words."""
    try:
        pieces = session.conversation.ask(question, images, options)
        try:
            for piece in pieces:
                send({"piece": piece})
                if session.stop.is_set():
                    break
        finally:
            pieces.close()
    except MedllavaError as error:
        send({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - the model is others' code; the page must hear of it
        _log.exception("the model failed")
        send({"error": _words_for(error)})
    else:
        facts = session.conversation.last_answer
        send({"done": facts.to_json() if facts else {}})


def _words_for(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        return "the model ran out of memory. Start over with fewer or smaller images."
    first = next(iter(str(error).splitlines()), "")
    return f"the model failed ({kind}: {first[:200]}). Ask again, or start over."


class _Ticket:
    """A place in the line."""

    def __init__(self) -> None:
        self.moved = asyncio.Event()


class _Line:
    """Who waits, in the order they came; the first `parallel` of it are being answered."""

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self._tickets: list[_Ticket] = []
        self.threads = ThreadPoolExecutor(parallel, thread_name_prefix="model")

    def enter(self) -> _Ticket:
        ticket = _Ticket()
        self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: _Ticket) -> None:
        self._tickets.remove(ticket)
        for other in self._tickets:
            other.moved.set()

    async def places(self, ticket: _Ticket) -> AsyncIterator[int]:
        """Yield how many are before it, whenever that changed, until it is its turn."""
        told = None
        while (place := self._tickets.index(ticket) - self._parallel + 1) > 0:
            if place != told:
                yield place
                told = place
            ticket.moved.clear()
            try:
                await asyncio.wait_for(ticket.moved.wait(), _POLL_SECONDS)
            except TimeoutError:  # look whether the person has pressed Stop
                yield place
