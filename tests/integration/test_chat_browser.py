"""The page as a person uses it, in headless Chromium: upload, ask, watch, go on, stop, leave."""

import gc
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_browser import CHROMIUM, Browser, running_browser
from chat_colours import plain
from chat_page import running_page

from medllava.chat.config import NOTICE, Sampling
from medllava.chat.session import ChatSession
from medllava.model.loaded import LoadedModel

pytest_plugins = ["chat_colours"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)")
LAST = "[...document.querySelectorAll('.assistant .text')].at(-1)?.textContent"
FOCUS = "document.activeElement.id || document.activeElement.innerText"
IDLE = "!document.querySelector('#send').hidden"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def conversations() -> list[weakref.ref]:
    """Every conversation that the page began, as long as it lives."""
    return []


@pytest.fixture(scope="module")
def address(colour_model: LoadedModel, conversations: list) -> Iterator[str]:
    def new_conversation() -> ChatSession:
        session = ChatSession(colour_model, sampling=Sampling(max_new_tokens=900))
        conversations.append(weakref.ref(session))
        return session

    with running_page(new_conversation) as page:
        yield page.address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Browser]:
    browser.resize(1000, 800)
    browser.open(address)
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


def upload(page: Browser, folder: Path, colour: str) -> None:
    plain(colour).save(folder / f"{colour}.png")
    page.choose_file("#file", folder / f"{colour}.png")
    page.wait("document.querySelector('#shelf img')?.naturalWidth === 40")


def ask(page: Browser, question: str, answer: str) -> None:
    """Type and press Enter; wait for the whole answer."""
    page.run("document.querySelector('#question').focus()")
    page.type(question)
    page.press("Enter")
    page.wait(f"{LAST} === {answer!r} && {IDLE}")


def keep_picture(page: Browser, name: str) -> None:
    """Leave a picture in the folder $SCREENSHOTS, where it is set, to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(Path(folder) / f"{name}.png")


def test_upload_ask_and_the_second_turn_remembers(page: Browser, tmp_path: Path):
    assert NOTICE in page.run("document.body.innerText")
    keep_picture(page, "welcome")
    upload(page, tmp_path, "green")
    keep_picture(page, "uploaded")
    ask(page, "Which colour?", "It is green.")
    ask(page, "Are you sure?", "Yes, green.")
    assert page.run("document.querySelectorAll('.user img').length") == 1
    assert page.run("document.querySelectorAll('#shelf img').length") == 0
    keep_picture(page, "conversation")


def test_the_answer_is_streamed_and_stops_by_button_and_by_key(page: Browser, tmp_path: Path):
    upload(page, tmp_path, "red")
    for stop in ("document.querySelector('#stop').click()", None):
        page.type("Sing.")
        page.press("Enter")
        lengths = set()
        while len(lengths) < 4:
            lengths.add(page.run(f"({LAST} ?? '').length"))
            assert len(lengths) < 4 or not page.run(IDLE), "it came in one piece"
        keep_picture(page, "streaming")
        page.run(stop) if stop else page.press("Escape")
        page.wait(f"{IDLE} && document.querySelector('#log').innerText.includes('Stopped.')")
        assert max(lengths) <= page.run(f"{LAST}.length") < 2700
        page.run("document.querySelector('#new').click()")
        upload(page, tmp_path, "red")
    ask(page, "Which colour?", "It is red.")


def test_keyboard_alone_reaches_everything(page: Browser):
    """Tab walks in reading order; an example is sent with Enter alone."""
    seen = []
    page.run("document.activeElement.blur()")
    for _ in range(6):
        page.press("Tab")
        seen.append(page.run(FOCUS))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if page.run("document.activeElement.closest('#examples') !== null"):
            break
    assert seen[0] == "new"
    page.press("Enter")
    page.wait("document.querySelector('#shelf img') && document.querySelector('#question').value")
    page.wait("document.activeElement.id === 'question'")
    page.press("Enter", shift=True)
    assert page.run("document.querySelector('#question').value.includes('\\n')")
    page.press("Enter")
    page.wait(f"({LAST} ?? '').length > 0 && {IDLE}")
    page.press("Tab")
    assert page.run(FOCUS) == "send"


def test_phone_width_shows_everything_without_scrolling_sideways(page: Browser, tmp_path: Path):
    page.resize(360, 640, is_phone=True)
    keep_picture(page, "phone-welcome")
    upload(page, tmp_path, "blue")
    ask(page, "Which colour?", "It is blue.")
    keep_picture(page, "phone")
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("document.documentElement.scrollHeight") <= 640
    boxes = page.run(
        "[...document.querySelectorAll('button:not([hidden]), textarea')]"
        ".map((e) => e.getBoundingClientRect()).filter((b) => b.width)"
        ".map((b) => [b.left, b.right, b.top, b.bottom])"
    )
    assert len(boxes) >= 4
    for left, right, top, bottom in boxes:
        assert left >= 0
        assert right <= 360
        assert top >= 0
        assert bottom <= 640
        assert bottom - top >= 43, "too small for a thumb"


def test_a_file_that_is_no_image_is_told_and_the_page_goes_on(page: Browser, tmp_path: Path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    page.choose_file("#file", tmp_path / "report.pdf")
    page.wait("document.querySelector('[role=alert]')?.innerText.includes('It is a PDF')")
    assert page.complaints.pop().startswith("Failed to load resource")  # the refusal's status, 400
    upload(page, tmp_path, "red")
    ask(page, "Which colour?", "It is red.")


@pytest.mark.parametrize("way", ["new", "leave"])
def test_uploads_go_with_their_conversation(
    page: Browser, tmp_path: Path, conversations: list, address: str, way: str
):
    upload(page, tmp_path, "red")
    ask(page, "Which colour?", "It is red.")
    assert conversations[-1]() is not None
    if way == "new":
        page.run("document.querySelector('#new').click()")
        page.wait("document.querySelectorAll('#log *').length === 0")
        assert not page.run("document.querySelector('#welcome').hidden")
    else:
        page.open(f"{address}/?again")
    give_up = time.monotonic() + 20
    while gc.collect() is not None and conversations[-1]() is not None:
        assert time.monotonic() < give_up, "the conversation is still there"
        time.sleep(0.05)
