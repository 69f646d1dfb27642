"""The page as a person uses it, in headless Chromium: upload, ask, watch, go on, stop, leave."""

import gc
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chat_browser import CHROMIUM, Browser, running_browser
from chat_colours import COLOURS, plain
from chat_page import running_page
from dicom_files import write_slice
from PIL import Image

from medllava.chat.config import NOTICE
from medllava.chat.session import ChatSession
from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling
from medllava.records import Turn

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


class Slow:
    """A conversation that says which pictures it was shown, word by word, when it is let."""

    def __init__(self) -> None:
        self.turns, self.last_answer = (), None
        self.go_on = threading.Event()
        self.go_on.set()
        self.fail = ""

    def ask(self, text, images=(), options=None):
        keep = None if options is None else options.keep
        turns = [*self.turns[:keep], Turn(role="user", content=text)]
        colours = [name_of(image) for image in images]
        yield f"{text}: "
        assert self.go_on.wait(60)
        if self.fail:
            raise RuntimeError(self.fail)
        yield " and ".join(colours) or "no picture"
        self.turns = (*turns, Turn(role="assistant", content=" ".join(colours)))

    def restore(self, turns, images) -> None:
        self.turns = tuple(turns)

    def clear(self) -> None: ...

    def forget(self) -> None: ...


def name_of(image: Image.Image) -> str:
    pixel = image.getpixel((image.width // 2, image.height // 2))
    return min(
        COLOURS, key=lambda c: sum(abs(a - b) for a, b in zip(COLOURS[c], pixel, strict=True))
    )


@pytest.fixture
def slow(browser: Browser) -> Iterator[tuple[Browser, list[Slow]]]:
    made: list[Slow] = []

    def new() -> Slow:
        made.append(Slow())
        return made[-1]

    browser.resize(1280, 800)
    with running_page(new) as page:
        browser.open(page.address)
        browser.complaints.clear()
        yield browser, made


def send(page: Browser, text: str) -> None:
    page.run("document.querySelector('#question').focus()")
    page.type(text)
    page.press("Enter")


def choose(page: Browser, folder: Path, colour: str) -> None:
    plain(colour).save(folder / f"{colour}.png")
    page.choose_file("#file", folder / f"{colour}.png")


def test_a_picture_added_while_an_answer_streams_goes_with_the_next_question(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    page, made = slow
    upload(page, tmp_path, "red")
    made[0].go_on.clear()
    send(page, "one")
    page.wait(f"{LAST} === 'one: '")
    choose(page, tmp_path, "blue")
    page.wait("document.querySelector('#shelf img')?.naturalWidth === 40")
    made[0].go_on.set()
    page.wait(f"{LAST} === 'one: red' && {IDLE}")
    assert page.run("document.querySelectorAll('#shelf img').length") == 1
    ask(page, "two", "two: blue")
    ask(page, "three", "three: no picture")
    assert page.run(
        "[...document.querySelectorAll('.user')].map((e) => e.querySelectorAll('img').length)"
    ) == [1, 1, 0]


def hold_uploads(page: Browser) -> None:
    """Let an upload take a while, so that what is pressed meanwhile comes before its end."""
    page.run(
        "(() => { const real = window.fetch; window.fetch = (path, options) => "
        "path.endsWith('/images') ? new Promise((r) => setTimeout(r, 700)).then(() => "
        "real(path, options)) : real(path, options); })()"
    )


def test_enter_before_an_upload_ends_waits_for_it(slow: tuple[Browser, list[Slow]], tmp_path: Path):
    page, _ = slow
    hold_uploads(page)
    choose(page, tmp_path, "green")
    send(page, "what")
    page.wait("document.querySelector('#log').innerText.includes('Waiting for the upload')")
    page.wait(f"{LAST} === 'what: green' && {IDLE}")


def test_an_upload_that_fails_keeps_the_question(slow: tuple[Browser, list[Slow]], tmp_path: Path):
    page, _ = slow
    hold_uploads(page)
    (tmp_path / "bad.png").write_bytes(b"%PDF-1.7")
    page.choose_file("#file", tmp_path / "bad.png")
    send(page, "what is this")
    page.wait("document.querySelector('[role=alert]')?.innerText.includes('It is a PDF')")
    page.wait(f"document.querySelector('#question').value === 'what is this' && {IDLE}")
    assert page.run("document.querySelectorAll('.assistant').length") == 0


def test_a_model_that_fails_is_told_in_words_and_the_question_and_picture_stay(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    page, made = slow
    upload(page, tmp_path, "red")
    made[0].fail = "the cable came loose"
    send(page, "one")
    page.wait("document.querySelector('[role=alert]')?.innerText.includes('cable came loose')")
    page.wait("document.querySelector('#question').value === 'one'")
    assert page.run("document.querySelectorAll('#shelf img').length") == 1
    made[0].fail = ""
    page.press("Enter")
    page.wait(f"{LAST} === 'one: red' && {IDLE}")


def test_a_restarted_server_locks_the_log_and_nothing_is_answered_under_it(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    page, made = slow
    upload(page, tmp_path, "red")
    ask(page, "one", "one: red")
    page.run("call(`/conversations/${key}`, { method: 'DELETE' }).then(() => 1)")
    send(page, "two")
    page.wait("document.querySelector('[role=alert]')?.innerText.includes('pictures are gone')")
    page.wait("document.querySelector('#question').value === 'two'")
    assert page.run("document.querySelector('#send').disabled")
    page.press("Enter")
    keep_picture(page, "over")
    assert page.run("document.querySelectorAll('.assistant').length") == 1
    assert len(made) == 1, "no conversation was begun under the old pictures"
    page.run("document.querySelector('#new').click()")
    page.run("document.querySelector('#question').value = ''")
    upload(page, tmp_path, "blue")
    ask(page, "again", "again: blue")


def test_a_server_that_has_gone_is_said_in_words(browser: Browser, tmp_path: Path):
    with running_page(Slow) as page:
        browser.open(page.address)
        upload(browser, tmp_path, "red")
    send(browser, "one")
    browser.wait("document.querySelector('[role=alert]')?.innerText.includes('cannot be reached')")
    browser.wait("document.querySelector('#question').value === 'one'")
    browser.complaints.clear()


def test_answers_are_edited_retried_deleted_and_saved(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    page, made = slow
    upload(page, tmp_path, "red")
    ask(page, "one", "one: red")
    ask(page, "two", "two: no picture")
    press = (
        "[...document.querySelectorAll('{}')].at({}).querySelectorAll('.more button')[{}].click()"
    )
    page.run(press.format(".user", 0, 1))  # edit the first question
    page.run("document.querySelector('#question').value = ''")
    ask(page, "uno", "uno: red")
    assert page.run("document.querySelectorAll('.turn').length") == 2
    assert len(made[0].turns) == 2
    page.run(press.format(".assistant", 0, 1))  # ask it again
    page.wait(f"{LAST} === 'uno: red' && {IDLE} && turns.length === 2")
    said = page.run("transcript()")
    assert [turn["content"] for turn in said["turns"]] == ["uno", "uno: red"]
    (tmp_path / "talk.json").write_text(json.dumps(said))
    page.choose_file("#saved", tmp_path / "talk.json")
    page.wait("document.querySelectorAll('.user img').length === 1 && turns.length === 2")
    assert [turn.role for turn in made[-1].turns] == ["user", "assistant"]
    page.run(press.format(".user", 0, 0))
    ask(page, "more", "more: no picture")
    assert len(made[-1].turns) == 4
    page.run("document.querySelectorAll('.user')[1].querySelectorAll('.more button')[2].click()")
    assert page.run("turns.length") == 2
    ask(page, "instead", "instead: no picture")
    assert len(made[-1].turns) == 4


def test_words_of_a_model_are_drawn_and_never_obeyed(slow: tuple[Browser, list[Slow]]):
    page, _ = slow
    page.run(
        "drawMarkdown(document.querySelector('#log'), '# Head\\n\\n**bold** <img src=x "
        "onerror=alert(1)>\\n\\n- a\\n- `b`\\n\\n```js\\n<script>\\n```')"
    )
    log = "document.querySelector('#log')"
    assert page.run(f"{log}.querySelectorAll('img, script').length") == 0
    assert "<img src=x onerror=alert(1)>" in page.run(f"{log}.innerText")
    assert page.run(f"[...{log}.children].map((e) => e.localName)") == ["h3", "p", "ul", "pre"]
    assert page.run(f"{log}.querySelector('strong').textContent") == "bold"


def test_the_slice_and_window_on_the_screen_are_what_the_model_is_shown(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    """A volume whose slices are red, green and blue; the wheel and the keys go through them."""
    nibabel = pytest.importorskip("nibabel")
    page, _ = slow
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    volume = np.zeros((6, 6, 3), dtype=rgb)
    for index, colour in enumerate(COLOURS.values()):
        for channel, value in zip("RGB", colour, strict=True):
            volume[:, :, index][channel] = value
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii")
    page.choose_file("#file", tmp_path / "scan.nii")
    page.wait("document.querySelector('#shelf .stage img')?.naturalWidth > 0")
    page.run("document.querySelector('#shelf .stage').click()")
    page.run("document.querySelector('#shelf .stage').focus()")
    page.run(
        "document.querySelector('#shelf .stage').dispatchEvent(new KeyboardEvent('keydown', "
        "{ key: 'ArrowUp', bubbles: true }))"
    )
    page.wait(
        "document.querySelector('#shelf .note').textContent === 'slice 2' && !shelf[0].isDrawing"
    )
    keep_picture(page, "viewer")
    ask(page, "top", "top: blue")
    assert "slice 2" in page.run("document.querySelector('.user').innerText")
    assert page.run("transcript()")["turns"][0]["images"][0]["view"] == {"slice": 2}


def test_what_the_last_answer_depends_on_is_tinted_with_a_sentence_on_what_it_shows(
    page: Browser, tmp_path: Path
):
    upload(page, tmp_path, "red")
    ask(page, "Which colour?", "It is red.")
    press = "[...document.querySelectorAll('.assistant .more button')]"
    page.run(f"{press}.find((b) => b.textContent === 'Where does it look?').click()")
    page.wait("document.querySelector('.assistant .overlay')?.naturalWidth > 0")
    assert "not whether it is right" in page.run("document.querySelector('.assistant').innerText")
    keep_picture(page, "overlay")
    ask(page, "Are you sure?", "Yes, red.")


@pytest.mark.parametrize("width", [390, 1280])
def test_dark_pages_fit_their_width(page: Browser, tmp_path: Path, width: int):
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    page.resize(width, 800, is_phone=width < 500)
    upload(page, tmp_path, "red")
    ask(page, "Which colour?", "It is red.")
    page.run("document.querySelector('#menu').open = true")
    keep_picture(page, f"dark-{width}")
    assert page.run("document.documentElement.scrollWidth") <= width
    box = page.run(
        "(() => { const b = document.querySelector('#menu > div').getBoundingClientRect()"
        "; return [b.left, b.right]; })()"
    )
    assert box[0] >= 0
    assert box[1] <= width
    page.run("document.querySelector('#menu').open = false")
    page.call("Emulation.setEmulatedMedia", features=[])


def test_a_folder_is_a_series_whose_slices_go_by_the_wheel(
    slow: tuple[Browser, list[Slow]], tmp_path: Path
):
    """Slices whose file names lie about their order; what is on the screen is what is asked."""
    pytest.importorskip("pydicom")
    page, _ = slow
    folder = tmp_path / "ct"
    for number, name in enumerate("cab"):
        write_slice(
            folder / f"{name}.dcm",
            series="1.2", patient="P", height=5.0 * number, number=number, hounsfield=0,
        )  # fmt: skip
    (folder / "notes.txt").write_text("not a picture")
    page.choose_file("#files", folder)
    page.wait("document.querySelector('#shelf .stage img')?.naturalWidth === 8")
    assert page.run("[shelf[0].name, shelf[0].facts.num_frames, shelf[0].facts.is_ct]") == [
        "ct", 3, True,
    ]  # fmt: skip
    assert "tags may tell who" in page.run("document.querySelector('#shelf').innerText")
    page.run("document.querySelector('#shelf .stage').click()")
    page.run(
        "document.querySelector('#shelf .stage').dispatchEvent(new WheelEvent('wheel', "
        "{ deltaY: 1, bubbles: true, cancelable: true }))"
    )
    page.wait(
        "document.querySelector('#shelf .note').textContent === 'frame 2' && !shelf[0].isDrawing"
    )
    keep_picture(page, "series")
    send(page, "what")
    page.wait(f"({LAST} ?? '').startsWith('what: ') && {IDLE}")
    assert "frame 2" in page.run("document.querySelector('.user').innerText")
