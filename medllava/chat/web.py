"""A page to talk through: upload, conversation, stop. Nothing it sees is written to disk.

A small server of our own, because ready-made ones keep uploads in temporary files. An upload
arrives as the body of a request, becomes pixels in memory and goes with its conversation. The page
loads nothing from elsewhere. Without being asked, only this machine can reach it. Needs the extra
`web`.
"""

import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from medllava.chat.config import PASSWORD_VARIABLE, ViewConfig
from medllava.chat.conversation import Conversation
from medllava.chat.exchange import open_images
from medllava.chat.handlers import MAX_UPLOAD_BYTES, Handlers, Opening
from medllava.chat.middleware import Gate
from medllava.chat.sessions import Sessions
from medllava.errors import SetupError
from medllava.images.encode import encode_image

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["MAX_UPLOAD_BYTES", "Opening", "build_app", "read_given", "serve_page"]

_MAX_CONNECTIONS = 1000
_SERVER_QUESTIONS = 8


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
    handlers = Handlers(sessions, model=model, sent_to=sent_to, opening=opening or Opening())
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
