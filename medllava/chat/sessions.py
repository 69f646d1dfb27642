"""The conversations of a page, in memory only: made, used by one question at a time, forgotten.

A room that nobody used for half an hour is dropped with its images. The model answers one room at a
time, and only the rooms used last keep their key-value cache.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from medllava.chat.conversation import Conversation
from medllava.errors import DataError, MedllavaError

MAX_IMAGES = 8
"""Of one conversation."""

_MAX_ROOMS = 64
_MAX_CACHES = 4
_IDLE_SECONDS = 30 * 60


class Room:
    """One conversation and what is going on in it."""

    def __init__(self, conversation: Conversation) -> None:
        """Begin with an empty conversation."""
        self.conversation = conversation
        self.num_images = 0
        self.stop = threading.Event()
        """Set: the running answer ends after the piece it is at."""
        self.busy = threading.Lock()
        """Held while a question is being answered."""
        self.last_used = time.monotonic()


class Rooms:
    """All conversations of one page."""

    def __init__(
        self,
        new_conversation: Callable[[], Conversation],
        *,
        max_rooms: int = _MAX_ROOMS,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        """Begin with no room.

        Args:
            new_conversation: makes an empty conversation with the shared model.
            max_rooms: more are refused.
            idle_seconds: a room unused for longer is dropped.
        """
        self._new_conversation = new_conversation
        self._max_rooms = max_rooms
        self._idle_seconds = idle_seconds
        self._rooms: dict[str, Room] = {}
        self._changing = threading.Lock()
        self._answering = threading.Lock()

    def open(self) -> str:
        """Make a room and return its key, which cannot be guessed.

        Raises:
            DataError: all rooms are taken.
        """
        with self._changing:
            self._drop_idle()
            if len(self._rooms) >= self._max_rooms:
                raise DataError("all conversations are taken. Try again later.")
            key = secrets.token_urlsafe(24)
            self._rooms[key] = Room(self._new_conversation())
        return key

    def find(self, key: str) -> Room | None:
        """Return the room of that key, if it is still there."""
        with self._changing:
            self._drop_idle()
            room = self._rooms.get(key)
        if room is not None:
            room.last_used = time.monotonic()
        return room

    def close(self, key: str) -> None:
        """Drop a room; its turns, images and cache are gone."""
        with self._changing:
            room = self._rooms.pop(key, None)
        if room is not None:
            room.stop.set()

    def answer(self, room: Room, question: str) -> Iterator[dict[str, Any]]:
        """Answer a question, yielding events as JSON objects.

        Events: `{"waiting": true}` while another room is being answered, `{"piece": text}`, at the
        end `{"done": facts}` or `{"error": message}`.
        """
        if not room.busy.acquire(blocking=False):
            yield {"error": "the last question is still being answered."}
            return
        try:
            room.stop.clear()
            if not self._answering.acquire(blocking=False):
                yield {"waiting": True}
                while not self._answering.acquire(timeout=0.2):
                    if room.stop.is_set():
                        yield {"done": {"finish_reason": "interrupted"}}
                        return
            try:
                yield from self._answer(room, question)
            finally:
                self._answering.release()
        finally:
            room.last_used = time.monotonic()
            room.busy.release()
            self._free_caches()

    def _answer(self, room: Room, question: str) -> Iterator[dict[str, Any]]:
        pieces = room.conversation.ask(question)
        try:
            for piece in pieces:
                yield {"piece": piece}
                if room.stop.is_set():
                    break
        except MedllavaError as error:
            yield {"error": str(error)}
            return
        finally:
            pieces.close()
        facts = room.conversation.last_answer
        yield {"done": facts.to_json() if facts else {}}

    def _drop_idle(self) -> None:
        oldest = time.monotonic() - self._idle_seconds
        for key, room in list(self._rooms.items()):
            if room.last_used < oldest and not room.busy.locked():
                del self._rooms[key]

    def _free_caches(self) -> None:
        with self._changing:
            by_use = sorted(self._rooms.values(), key=lambda room: room.last_used, reverse=True)
        for room in by_use[_MAX_CACHES:]:
            if room.busy.acquire(blocking=False):
                room.conversation.forget()
                room.busy.release()
