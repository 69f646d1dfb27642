"""The page in several browsers at once, and as a screen reader would find it."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chat_browser import CHROMIUM, Browser, running_browser
from chat_colours import COLOURS, plain
from chat_page import running_page
from firefox_browser import FIREFOX, Firefox, running_firefox

from medllava.chat.session import ChatSession
from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling

pytest_plugins = ["chat_colours"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)")
AXE = Path(os.environ.get("MEDLLAVA_AXE", "axe.min.js"))
LAST = "[...document.querySelectorAll('.assistant .text')].at(-1)?.textContent"
IDLE = "!document.querySelector('#send').hidden"
QUESTIONS = ("Which colour?", "Are you sure?", "Which colour?")


@pytest.fixture(scope="module")
def address(colour_model: LoadedModel) -> Iterator[str]:
    sampling = Sampling(max_new_tokens=60)
    with running_page(lambda: ChatSession(colour_model, sampling=sampling)) as page:
        yield page.address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def upload(browser: Browser | Firefox, folder: Path, colour: str) -> None:
    path = folder / f"{colour}.png"
    plain(colour).save(path)
    browser.choose_file("#file", path)
    browser.wait("document.querySelector('#shelf img')?.naturalWidth === 40")


def ask(browser: Browser | Firefox, question: str, number: int) -> str:
    """Type, press Enter, and return the answer once it is whole."""
    browser.run("document.querySelector('#question').focus()")
    browser.type(question)
    browser.press("Enter")
    browser.wait(f"document.querySelectorAll('.assistant').length === {number} && {IDLE}")
    return str(browser.run(LAST))


@pytest.mark.slow
def test_three_browsers_at_once_are_each_answered_about_their_own_picture(
    address: str, chromium: Browser, colour_model: LoadedModel, tmp_path: Path
):
    """Two Chromiums and a Firefox (or a third Chromium), each a process with its own profile."""
    with ExitStack() as stack:
        browsers: list[Browser | Firefox] = [chromium]
        browsers.append(stack.enter_context(running_browser(tmp_path)))
        (tmp_path / "third").mkdir()
        start: Any = running_firefox if FIREFOX else running_browser
        browsers.append(stack.enter_context(start(tmp_path / "third")))
        answers: dict[str, list[str]] = {}
        ready = threading.Barrier(len(browsers))

        def person(browser: Browser | Firefox, colour: str) -> None:
            browser.open(address)
            upload(browser, tmp_path, colour)
            ready.wait(120)
            answers[colour] = [ask(browser, q, n) for n, q in enumerate(QUESTIONS, start=1)]

        people = [
            threading.Thread(target=person, args=pair)
            for pair in zip(browsers, COLOURS, strict=True)
        ]
        for one in people:
            one.start()
        for one in people:
            one.join(280)
    for colour in COLOURS:
        session, images = (
            ChatSession(colour_model, sampling=Sampling(max_new_tokens=60)),
            [plain(colour)],
        )
        alone = []
        for question in QUESTIONS:
            alone.append("".join(session.ask(question, images)).strip())
            images = []
        # A page shows a line break as an element, which is no text.
        assert ["".join(text.split()) for text in answers[colour]] == [
            "".join(text.split()) for text in alone
        ]
        assert alone[:2] == [f"It is {colour}.", f"Yes, {colour}."]


@pytest.mark.skipif(FIREFOX is None, reason="needs firefox (apt install firefox-esr)")
def test_firefox_shows_uploads_answers_and_failures(address: str, tmp_path: Path):
    with running_firefox(tmp_path) as firefox:
        firefox.open(address)
        upload(firefox, tmp_path, "green")
        firefox.run("document.querySelector('#shelf .stage').click()")
        firefox.wait("document.querySelector('#shelf figure.wide')")
        assert ask(firefox, "Which colour?", 1) == "It is green."
        (tmp_path / "bad.png").write_bytes(b"%PDF-1.7")
        firefox.choose_file("#file", tmp_path / "bad.png")
        firefox.wait("document.querySelector('[role=alert]')?.innerText.includes('It is a PDF')")
        assert ask(firefox, "Are you sure?", 2) == "Yes, green."
        if folder := os.environ.get("SCREENSHOTS"):
            firefox.screenshot(Path(folder) / "firefox.png")


def findings(browser: Browser) -> list[str]:
    """What axe finds against the page as it stands, all of its rules."""
    if not browser.run("typeof axe === 'object'"):
        browser.run(f"(() => {{ {AXE.read_text()}\n }})() || 0")
    found = browser.run(
        "axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations.flatMap("
        "(v) => v.nodes.map((n) => `${v.id}: ${n.target} ${n.failureSummary}`)))"
    )
    return [str(text) for text in found]


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core's axe.min.js, named by $MEDLLAVA_AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(
    address: str, chromium: Browser, tmp_path: Path, width: int, scheme: str
):
    """In every state that a person meets: begun, uploaded, opened, answered, failed, over."""
    page = chromium
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    page.resize(width, 800, is_phone=width < 500)
    page.open(f"{address}/?{width}{scheme}")
    found = {"begun": findings(page)}
    upload(page, tmp_path, "red")
    found["uploaded"] = findings(page)
    page.run("document.querySelector('#shelf .stage').click()")
    page.wait("document.querySelector('#shelf figure.wide')")
    found["opened"] = findings(page)
    ask(page, "Which colour?", 1)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found["answered"] = findings(page)
    page.run("drawMarkdown(turns.at(-1).words, '# A\\n\\n- b\\n\\n```\\ncode\\n```')")
    (tmp_path / "bad.png").write_bytes(b"%PDF-1.7")
    page.choose_file("#file", tmp_path / "bad.png")
    page.wait("document.querySelector('[role=alert]')")
    found["failed"] = findings(page)
    page.run("end()")
    found["over"] = findings(page)
    page.call("Emulation.setEmulatedMedia", features=[])
    assert {state: one for state, one in found.items() if one} == {}
