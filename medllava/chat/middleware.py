"""What stands before every request of the page: name of the machine, password, foreign pages.

A browser will send requests that another site wrote. Those are told apart by a header that such a
site cannot set, and by the name it called us with; a reply is never stored by the browser.
"""

import asyncio
import base64
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OUR_HEADER = b"x-medllava"
_LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_WRONG_PASSWORD_SECONDS = 1.0


class Gate:
    """ASGI middleware that lets the page's own requests through."""

    def __init__(self, app: "ASGIApp", *, password: str | None, is_local: bool) -> None:
        """Wrap `app`; see `medllava.chat.web.build_app`."""
        self._app = app
        self._password = password
        self._is_local = is_local

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._is_local and _name_of(headers.get(b"host", b"")) not in _LOCAL_NAMES:
            await _refuse(send, 421, "this page answers to the names of this machine only")
        elif not self._knows_password(headers.get(b"authorization", b"")):
            if b"authorization" in headers:
                await asyncio.sleep(_WRONG_PASSWORD_SECONDS)
            await _refuse(send, 401, "password needed")
        elif scope["method"] not in {"GET", "HEAD"} and _OUR_HEADER not in headers:
            await _refuse(send, 403, "this request did not come from the page")
        else:

            async def send_safely(message: "Message") -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *_HEADERS]
                await send(message)

            await self._app(scope, receive, send_safely)

    def _knows_password(self, authorization: bytes) -> bool:
        if self._password is None:
            return True
        scheme, _, encoded = authorization.partition(b" ")
        try:
            given = base64.b64decode(encoded, validate=True).partition(b":")[2]
        except ValueError:
            return False
        return scheme.lower() == b"basic" and hmac.compare_digest(given, self._password.encode())


def _name_of(host: bytes) -> str:
    """Return a Host header without its port."""
    text = host.decode("latin-1").lower()
    name, _, port = text.rpartition(":")
    return name if name and port.isdigit() else text


async def _refuse(send: "Send", status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="medllava", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode() + b"\n"})
