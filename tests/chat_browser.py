"""Headless Chromium, driven over its DevTools pipe: no driver and no package stands between."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # CI runs as root; the only page it sees is ours
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
)
_SECONDS = 120.0


class PageError(AssertionError):
    """What the page answered with: a script that failed, or a document that is being left."""


class Browser:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._unread, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        """Errors of scripts and of the page's security policy."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && !!document.querySelector('#form')")

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; a page that still loads is not there yet."""
        give_up = time.monotonic() + _SECONDS
        error: PageError | None = None
        while True:
            try:
                if self.run(f"!!({condition})"):
                    return
            except PageError as answered:
                error = answered
            if time.monotonic() > give_up:
                raise AssertionError(f"never: {condition}\n{self.run(_BODY)}") from error
            time.sleep(0.02)

    def choose_file(self, selector: str, path: Path) -> None:
        """Do what the file dialogue does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        code, text = _KEYS[key]
        common = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        down = {"text": text} if text else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **down
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.complaints.append(values["entry"]["text"])

    def _receive(self) -> dict[str, Any]:
        give_up = time.monotonic() + _SECONDS
        while b"\0" not in self._unread:
            assert time.monotonic() < give_up, "the browser does not answer"
            if select.select([self._from], [], [], 0.5)[0]:
                data = os.read(self._from, 1 << 20)
                assert data, "the browser ended"
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\0")
        return json.loads(line)


_BODY = "document.body.innerText"
_KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
}


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium with its profile in `folder`; it reads commands on 3 and answers on 4."""
    assert CHROMIUM is not None
    read_commands, to_browser = os.pipe()
    from_browser, write_answers = os.pipe()
    os.set_inheritable(read_commands, True)
    os.set_inheritable(write_answers, True)
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    redirect = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
    with subprocess.Popen(
        ["/bin/bash", "-c", redirect, "chromium", *command],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=(folder / "chromium.log").open("wb"),
        env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    ) as process:
        os.close(read_commands)
        os.close(write_answers)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(to_browser)
            os.close(from_browser)
