"""Headless Firefox, driven over Marionette, its own wire: no driver and no package stands between.

Speaks as `chat_browser.Browser` does, as far as the tests of several browsers need it.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
_SECONDS = 120.0
_KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004"}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of WebDriver's element references
_PREFERENCES = {
    "marionette.port": 0,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.auto": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.startup.page": 0,
}


class Firefox:
    """One tab."""

    def __init__(self, port: int) -> None:
        self._wire = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self._unread, self._number = b"", 0
        self._receive()
        self.call("WebDriver:NewSession")

    def call(self, command: str, **parameters: Any) -> Any:
        self._number += 1
        data = json.dumps([0, self._number, command, parameters]).encode()
        self._wire.sendall(f"{len(data)}:".encode() + data)
        _, _, error, result = self._receive()
        assert error is None, f"{command}: {error}"
        return result

    def open(self, address: str) -> None:
        self.call("WebDriver:Navigate", url=address)
        self.wait("document.readyState === 'complete' && !!document.querySelector('#form')")

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        return self.call("WebDriver:ExecuteScript", script=f"return ({script})", args=[])["value"]

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        give_up = time.monotonic() + _SECONDS
        while not self.run(f"!!({condition})"):
            told = self.run("document.body.innerText") if time.monotonic() > give_up else ""
            assert not told, f"never: {condition}\n{told}"
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        self._send_keys(selector, str(path))

    def type(self, text: str) -> None:
        self._send_keys(":focus", text)

    def press(self, key: str) -> None:
        self._send_keys(":focus", _KEYS[key])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(
            base64.b64decode(self.call("WebDriver:TakeScreenshot", full=False)["value"])
        )

    def close(self) -> None:
        self._wire.close()

    def _send_keys(self, selector: str, text: str) -> None:
        found = self.call("WebDriver:FindElement", using="css selector", value=selector)["value"]
        self.call("WebDriver:ElementSendKeys", id=found[_ELEMENT], text=text)

    def _receive(self) -> Any:
        while b":" not in self._unread:
            self._unread += self._read()
        size, _, self._unread = self._unread.partition(b":")
        while len(self._unread) < int(size):
            self._unread += self._read()
        data, self._unread = self._unread[: int(size)], self._unread[int(size) :]
        return json.loads(data)

    def _read(self) -> bytes:
        data = self._wire.recv(1 << 20)
        assert data, "the browser ended"
        return data


@contextmanager
def running_firefox(folder: Path) -> Iterator[Firefox]:
    """Start Firefox with its profile in `folder`; it names its port in a file there."""
    assert FIREFOX is not None
    profile = folder / "firefox"
    profile.mkdir(parents=True)
    lines = [f'user_pref("{k}", {json.dumps(v)});' for k, v in _PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "MOZ_HEADLESS": "1"}
    with subprocess.Popen(
        [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(profile)],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "firefox.log").open("wb"),
        env=os.environ | home,
    ) as process:
        try:
            port, give_up = profile / "MarionetteActivePort", time.monotonic() + _SECONDS
            while not (port.exists() and port.read_text().strip()):
                assert process.poll() is None, (folder / "firefox.log").read_text()
                assert time.monotonic() < give_up, "Firefox does not start"
                time.sleep(0.1)
            firefox = Firefox(int(port.read_text()))
            yield firefox
            firefox.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
