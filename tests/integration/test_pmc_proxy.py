"""Through a proxy with a password, and from a mirror with one, as RFC 9112 3.2.2 wants it."""

import base64
import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from loopback import Handler, serving
from pmc_bucket import BucketArticle
from pmc_server import LoopbackArchive
from test_pmc_bucket import make_config, make_objects

from medllava.errors import RemoteError
from medllava.pmc.fetch import fetch_figures

PASSWORD = base64.b64encode(b"user:p w").decode()


class Gate:
    """Forwards requests in absolute form; wants a password."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hosts: set[str] = set()
        self.refused = 0
        self.port = 0


@pytest.fixture
def gate() -> Iterator[Gate]:
    state = Gate()

    class Proxy(Handler):
        def get(self) -> None:
            state.lines.append(self.path)
            state.hosts.add(self.headers["Host"])
            name = "Proxy-Authorization" if "://" in self.path else "Authorization"
            status, body = 407, b"password please"
            if self.headers.get(name) == f"Basic {PASSWORD}":
                parts = urlsplit(self.path)
                origin = http.client.HTTPConnection(str(parts.netloc or archive_host()))
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                origin.request("GET", path)
                answer = origin.getresponse()
                status, body = answer.status, answer.read()
                origin.close()
            else:
                state.refused += 1
            self.reply(status, body)

    def archive_host() -> str:
        return state.archive  # type: ignore[attr-defined,no-any-return]

    with serving(Proxy) as address:
        state.port = int(address.rpartition(":")[2])
        yield state


@pytest.fixture
def archive() -> Iterator[LoopbackArchive]:
    with LoopbackArchive(make_objects([BucketArticle(n) for n in (1, 2)])).running() as running:
        yield running


def test_proxy_gets_the_whole_address_the_mirrors_host_and_the_password(
    archive: LoopbackArchive, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:p%20w@127.0.0.1:{gate.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert fetch_figures(make_config(archive, tmp_path / "out")).counts["kept"] == 4
    assert gate.refused == 0
    assert all(line.startswith(f"{archive.url}/") for line in gate.lines)
    assert gate.hosts == {archive.url.removeprefix("http://")}


def test_proxy_that_refuses_decides_nothing(
    archive: LoopbackArchive, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{gate.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RemoteError, match="407"):
        fetch_figures(make_config(archive, tmp_path / "out"))
    monkeypatch.delenv("http_proxy")
    assert fetch_figures(make_config(archive, tmp_path / "out")).counts["kept"] == 4


def test_mirror_with_a_password_is_read_and_the_password_is_written_nowhere(
    archive: LoopbackArchive, gate: Gate, tmp_path: Path
) -> None:
    gate.archive = archive.url.removeprefix("http://")  # type: ignore[attr-defined]
    url = f"http://user:p%20w@127.0.0.1:{gate.port}"
    config = make_config(archive, tmp_path / "out", base_url=url)
    assert fetch_figures(config).counts["kept"] == 4
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"p%20w" not in path.read_bytes(), path
