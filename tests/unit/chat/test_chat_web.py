"""The page's requests, over real sockets: talk, stop, limits, who is let in, what is kept."""

import asyncio
import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chat_colours import plain
from chat_page import running_page
from dicom_files import write_slice

from medllava.chat import web
from medllava.chat.config import NOTICE
from medllava.chat.session import ChatSession
from medllava.chat.sessions import MAX_IMAGES, Sessions
from medllava.errors import DataError, SetupError
from medllava.images.facts import ImageFacts
from medllava.images.load import load_image
from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling

pytest_plugins = ["chat_colours"]
OURS = {"x-medllava": "1"}


@pytest.fixture
def client(colour_model: LoadedModel) -> Iterator[httpx.Client]:
    sampling = Sampling(max_new_tokens=900)
    with (
        running_page(lambda: ChatSession(colour_model, sampling=sampling)) as page,
        httpx.Client(base_url=page.address, headers=OURS, timeout=60) as client,
    ):
        yield client


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    plain(colour).save(buffer, "PNG")
    return buffer.getvalue()


def opened(client: httpx.Client, colour: str = "") -> str:
    """Begin a conversation, with an image where a colour is named; return its path."""
    path = f"/conversations/{client.post('/conversations').json()['key']}"
    if colour:
        upload(client, path, colour)
    return path


def upload(client: httpx.Client, path: str, colour: str) -> str:
    """Upload an image, to go with the next question; return its id."""
    shown = client.post(f"{path}/images", content=png(colour)).json()
    assert (shown["width"], shown["height"]) == (40, 30)
    WAITING.setdefault(path, []).append(shown["id"])
    return shown["id"]


WAITING: dict[str, list[str]] = {}


def question(path: str, text: str) -> dict:
    return {"text": text, "images": [{"id": i} for i in WAITING.pop(path, [])]}


def ask(client: httpx.Client, path: str, text: str) -> list[dict]:
    reply = client.post(f"{path}/turns", json=question(path, text))
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def words(events: list[dict]) -> str:
    return "".join(event.get("piece", "") for event in events)


def test_the_second_turn_remembers_the_first(client: httpx.Client):
    path = opened(client, "green")
    first = ask(client, path, "Which colour?")
    assert words(first) == "It is green."
    assert len(first) > 3, "not streamed"
    assert first[-1]["done"]["finish_reason"] == "stop"
    second = ask(client, path, "Are you sure?")
    assert words(second) == "Yes, green."
    assert second[-1]["done"]["cached_tokens"] > first[-1]["done"]["input_tokens"]


def test_conversations_do_not_see_each_other(client: httpx.Client):
    one, two = opened(client, "red"), opened(client, "blue")
    assert words(ask(client, one, "Which colour?")) == "It is red."
    assert words(ask(client, two, "Which colour?")) == "It is blue."
    assert words(ask(client, one, "Are you sure?")) == "Yes, red."


def test_stop_ends_the_answer_and_the_conversation_goes_on(client: httpx.Client):
    path = opened(client, "red")
    events = []
    with client.stream("POST", f"{path}/turns", json=question(path, "Sing.")) as reply:
        for line in reply.iter_lines():
            events.append(json.loads(line))
            if len(events) == 5:
                assert client.post(f"{path}/stop").status_code == 200
    done = events[-1]["done"]
    assert done["finish_reason"] == "interrupted"
    assert 5 <= done["output_tokens"] < 800
    assert words(ask(client, path, "Which colour?"))


def test_an_answer_ends_when_the_browser_goes_away(client: httpx.Client):
    path = opened(client, "red")
    with client.stream("POST", f"{path}/turns", json=question(path, "Sing.")) as reply:
        next(reply.iter_lines())
    started = time.monotonic()
    while "still being answered" in str(ask(client, path, "Which colour?")):
        assert time.monotonic() - started < 20
        time.sleep(0.05)


def test_one_conversation_waits_for_another(client: httpx.Client):
    singing, asking = opened(client, "red"), opened(client, "blue")
    started, heard = threading.Event(), []

    def sing() -> None:
        with client.stream("POST", f"{singing}/turns", json=question(singing, "Sing.")) as reply:
            for line in reply.iter_lines():
                heard.append(json.loads(line))
                started.set()

    thread = threading.Thread(target=sing)
    thread.start()
    assert started.wait(30)
    busy = ask(client, singing, "And?")
    assert busy == [{"error": "the last question is still being answered."}]
    with client.stream("POST", f"{asking}/turns", json=question(asking, "Which colour?")) as reply:
        lines = reply.iter_lines()
        assert json.loads(next(lines)) == {"waiting": 1}
        client.post(f"{singing}/stop")
        assert words([json.loads(line) for line in lines]) == "It is blue."
    thread.join(30)
    assert heard[-1]["done"]["finish_reason"] == "interrupted"


@pytest.mark.parametrize(
    ("request_of", "status", "reason"),
    [
        (lambda path: (f"{path}/images", b"%PDF-1.7 a report"), 400, "a PDF"),
        (lambda path: (f"{path}/images", b""), 400, "empty"),
        (lambda path: (f"{path}/images", b"x" * (web.MAX_UPLOAD_BYTES + 1)), 413, "67,108,864"),
        (lambda path: (f"{path}/turns", b"not json"), 400, "ask a question"),
        (lambda path: (f"{path}/turns", b'{"text": "  "}'), 400, "ask a question"),
        (lambda path: (f"{path}/turns", b'{"text": 7}'), 400, "ask a question"),
        (lambda path: (f"{path}/turns", b'{"text": "' + b"x" * 70_000 + b'"}'), 400, "64 KiB"),
        (lambda _: ("/conversations/guess/images", b"x"), 404, "over"),
        (lambda _: ("/conversations/guess/turns", b'{"text": "x"}'), 404, "over"),
    ],
)
def test_wrong_requests_are_told_why(client: httpx.Client, request_of, status: int, reason: str):
    path, body = request_of(opened(client))
    reply = client.post(path, content=body)
    assert reply.status_code == status
    assert reason in reply.json()["error"]


def test_a_conversation_holds_so_many_images(client: httpx.Client):
    path = opened(client)
    for _ in range(MAX_IMAGES):
        assert client.post(f"{path}/images", content=png("red")).status_code == 200
    refused = client.post(f"{path}/images", content=png("red"))
    assert refused.status_code == 400
    assert str(MAX_IMAGES) in refused.json()["error"]


def test_a_closed_conversation_is_gone(client: httpx.Client):
    path = opened(client, "red")
    assert client.delete(path).status_code == 200
    assert client.post(f"{path}/turns", json={"text": "x"}).status_code == 404


def test_nothing_is_written_to_disk(client: httpx.Client):
    """Upload, question and goodbye: the process opens no file for writing and makes none."""
    made: list[str] = []
    listening = True

    def watch(event: str, arguments: tuple) -> None:
        if not listening:
            return
        if event == "open":
            path, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "") & set("wax+"):
                made.append(str(path))
        elif event.startswith("tempfile.") or event in {"os.mkdir", "os.rename"}:
            made.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    (big := plain("red")).resize((3000, 2500)).save(buffer := io.BytesIO(), "TIFF")
    assert len(buffer.getvalue()) > 20_000_000, big
    made.clear()
    path = opened(client)
    shown = client.post(f"{path}/images", content=buffer.getvalue())
    assert shown.status_code == 200
    WAITING[path] = [shown.json()["id"]]
    assert words(ask(client, path, "Which colour?")) == "It is red."
    client.delete(path)
    listening = False
    assert made == []


def test_the_page_carries_the_notice_and_loads_nothing_from_elsewhere(client: httpx.Client):
    reply = client.get("/")
    assert NOTICE in reply.text
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", reply.text.replace("// ", ""))
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store"
    for name in ("phantom", "cells"):
        assert client.get(f"/examples/{name}.png").content.startswith(b"\x89PNG")
    assert client.get("/examples/../secrets.png").status_code == 404


def test_a_page_before_a_server_says_where_images_go(colour_model: LoadedModel):
    app = web.build_app(
        lambda: ChatSession(colour_model, sampling=Sampling()), model="m</script>", sent_to="gpu:80"
    )
    transport = httpx.ASGITransport(app=app)

    async def get() -> str:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/")).text

    text = asyncio.run(get())
    assert '"sentTo": "gpu:80"' in text
    assert "m</script>" not in text


def test_requests_that_other_sites_wrote_are_refused(client: httpx.Client):
    foreign = httpx.post(f"{client.base_url}/conversations")
    assert foreign.status_code == 403
    rebound = client.get("/", headers={"host": "attacker.example:80"})
    assert rebound.status_code == 421
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_a_password_is_asked_for_and_checked(colour_model: LoadedModel, monkeypatch):
    monkeypatch.setattr("medllava.chat.middleware._WRONG_PASSWORD_SECONDS", 0.0)
    new = lambda: ChatSession(colour_model, sampling=Sampling())  # noqa: E731 - one line
    with (
        running_page(new, password="pässword", is_local=False) as page,
        httpx.Client(base_url=page.address, headers=OURS) as client,
    ):
        assert client.get("/").status_code == 401
        assert client.get("/").headers["www-authenticate"].startswith("Basic")
        assert client.get("/", auth=("me", "wrong")).status_code == 401
        assert client.get("/", headers={"authorization": "Basic ???"}).status_code == 401
        assert client.post("/conversations").status_code == 401
        right = httpx.BasicAuth("anyone", "pässword")
        assert client.get("/", auth=right, headers={"host": "lab.example"}).status_code == 200
        assert "key" in client.post("/conversations", auth=right).json()


def test_idle_conversations_are_dropped_and_a_full_house_drops_the_longest_idle(
    colour_model: LoadedModel,
):
    sessions = Sessions(
        lambda: ChatSession(colour_model, sampling=Sampling()), max_sessions=2, idle_seconds=0.4
    )
    first, second = sessions.open(), sessions.open()
    sessions.find(second).is_busy = True
    third = sessions.open()
    assert sessions.find(first) is None
    sessions.find(third).is_busy = True
    with pytest.raises(DataError, match="all conversations are taken"):
        sessions.open()
    sessions.find(third).is_busy = False
    time.sleep(0.45)
    assert sessions.find(third) is None
    assert sessions.find(second), "it is in the middle of an answer"


def test_uploads_are_bounded_together_and_the_longest_idle_go_first(colour_model: LoadedModel):
    sessions = Sessions(lambda: ChatSession(colour_model, sampling=Sampling()), max_bytes=100)
    facts = ImageFacts(kind="raster")
    keys = [sessions.open() for _ in range(3)]
    for key in keys:
        sessions.add(sessions.find(key), name="x", data=b"x" * 40, facts=facts)
    assert [sessions.find(key) is None for key in keys] == [True, False, False]
    sessions.find(keys[1]).is_busy = True
    with pytest.raises(DataError, match="taken"):
        sessions.add(sessions.find(keys[2]), name="x", data=b"x" * 40, facts=facts)


def listen(sessions: Sessions, key: str, text: str) -> list[dict]:
    async def gather() -> list[dict]:
        return [event async for event in sessions.answer(sessions.find(key), text)]

    return asyncio.run(gather())


def test_only_the_newest_conversations_keep_their_cache(colour_model: LoadedModel):
    sessions = Sessions(lambda: ChatSession(colour_model, sampling=Sampling(max_new_tokens=4)))
    keys = [sessions.open() for _ in range(5)]
    for key in keys:
        listen(sessions, key, "Which colour?")
    assert sessions.find(keys[0]).conversation._cached == []
    assert sessions.find(keys[4]).conversation._cached
    *_, last = listen(sessions, keys[0], "Are you sure?")
    assert last["done"]["cached_tokens"] == 0
    assert last["done"]["input_tokens"] > 30


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab", False)],
)
def test_loopback_is_told_from_the_rest(host: str, is_local: bool):
    assert web._is_loopback(host) is is_local


def test_a_taken_port_is_a_set_up_error():
    with web._bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=r"cannot serve .* Choose another --port"):
            web._bind("127.0.0.1", port)


def folder_body(files: list[bytes]) -> bytes:
    return json.dumps([len(data) for data in files]).encode() + b"\n" + b"".join(files)


def test_a_folder_arrives_as_one_series_in_order(client: httpx.Client, tmp_path: Path):
    """Heights say the order, names do not; what is no DICOM is left; bad folders are told."""
    for number, value in enumerate((900, -900, 0)):
        write_slice(
            tmp_path / f"{number}.dcm",
            series="1.2", patient="P", height=(2, 0, 1)[number], number=number, hounsfield=value,
        )  # fmt: skip
    files = [(tmp_path / f"{n}.dcm").read_bytes() for n in range(3)]
    path, head = opened(client), {"x-medllava-folder": "1", "x-medllava-name": "ct"}
    body = folder_body([*files, b"notes"])
    shown = client.post(f"{path}/images", content=body, headers=head).json()
    assert shown["facts"]["num_frames"] == 3
    pixels = []
    for frame in range(3):
        view = {"frame": frame, "window": [0, 2000]}
        reply = client.post(f"{path}/images/{shown['id']}/view", json=view)
        pixels.append(load_image(reply.content).getpixel((4, 4))[0])
    assert pixels == sorted(pixels)
    assert len(set(pixels)) == 3
    assert (
        client.post(
            f"{path}/turns",
            json={"text": "What?", "images": [{"id": shown["id"], "view": {"frame": 1}}]},
        ).text.count('"error"')
        == 0
    )
    for bad, words in [
        (body[:-1], "did not arrive whole"),
        (b"[Infinity]\n", "did not arrive whole"),
        (folder_body([b"notes"]), "not an image"),
        (folder_body([files[0][:200]]), "holds no picture"),
    ]:
        reply = client.post(f"{path}/images", content=bad, headers=head)
        assert reply.status_code == 400
        assert words in reply.json()["error"]
