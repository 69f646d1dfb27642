"""The chat page on loopback, served as `medllava chat --web` does, for tests that talk to it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from medllava.chat.conversation import Conversation
from medllava.chat.web import build_app


@dataclass
class Page:
    address: str


@contextmanager
def running_page(
    new_conversation: Callable[[], Conversation],
    *,
    password: str | None = None,
    is_local: bool = True,
) -> Iterator[Page]:
    app = build_app(new_conversation, model="colours", password=password, is_local=is_local)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Page(address=f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
