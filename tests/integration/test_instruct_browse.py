"""The page to look through records, as a person uses it from disk in headless Chromium."""

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_browser import CHROMIUM, Browser, running_browser
from PIL import Image

from medllava.data.sources import iter_instruction_records
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import FigureRecord, Modality, Stage
from medllava.store import iter_jsonl

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)")
PLACE = "document.querySelector('#place').textContent"
ANSWER = "document.querySelector('.assistant').textContent"


@pytest.fixture
def config(tmp_path: Path) -> GenerateConfig:
    figures = tmp_path / "figures"
    (figures / "images").mkdir(parents=True)
    rows = []
    for number, plane in enumerate(("axial", "sagittal", "coronal")):
        Image.new("L", (40, 30), 80 * number).save(figures / f"images/{number}.png")
        record = FigureRecord(
            figure_id=f"PMC{number}.1/f1",
            pmcid=f"PMC{number}",
            version=1,
            label="Figure 1",
            caption=f"{plane} MRI of the brain <script>document.title='gone'</script>",
            images=(f"images/{number}.png",),
            modality=Modality.MRI,
            license="CC BY",
        )
        rows.append(record.to_json())
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    return GenerateConfig(figures=figures, output_dir=tmp_path / "out", stage=Stage.ALIGN)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    profile = tmp_path / "profile"
    profile.mkdir()
    with running_browser(profile) as browser:
        yield browser


def key(browser: Browser, name: str) -> None:
    browser.run(
        f"document.body.dispatchEvent(new KeyboardEvent('keydown', "
        f"{{key: {name!r}, bubbles: true, cancelable: true}}))"
    )


def test_records_are_struck_saved_left_out_and_taken_back(
    config: GenerateConfig, browser: Browser, tmp_path: Path
) -> None:
    out = config.output_dir
    generate_instructions(config)
    before = [record.record_id for record in iter_instruction_records(out)]
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.call("Page.navigate", url=(out / "browse.html").as_uri())
    browser.wait("document.querySelector('#place')?.textContent")
    assert browser.run(PLACE) == "1 of 3, 0 struck"
    assert browser.run("document.title") == "Look through the records"
    browser.wait("document.querySelector('#pictures img').naturalWidth === 40")
    key(browser, "j")
    assert browser.run(PLACE) == "2 of 3, 0 struck"
    key(browser, "x")
    assert browser.run(PLACE) == "2 of 3, 1 struck, not saved"
    gone = browser.run("document.querySelector('#facts').textContent").split(" ")[0]
    assert gone in before
    browser.run(
        "document.querySelector('#words').value = 'coronal'; "
        "document.querySelector('#words').oninput()"
    )
    assert browser.run(PLACE).startswith("1 of 1")
    assert "coronal" in browser.run(ANSWER)
    key(browser, "s")
    deadline = time.monotonic() + 20
    while not (downloads / "struck.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (downloads / "struck.jsonl").rename(out / "struck.jsonl")
    assert [row for _, row in iter_jsonl(out / "struck.jsonl")] == [{"record_id": gone}]
    generate_instructions(config)
    assert [record.record_id for record in iter_instruction_records(out)] == [
        record_id for record_id in before if record_id != gone
    ]
    browser.call("Page.reload")
    browser.wait(f"{PLACE} === '1 of 2, 1 struck'")
    browser.run("document.querySelector('#earlier li button').click()")
    assert browser.run(PLACE) == "1 of 2, 0 struck, not saved"
    assert browser.complaints == []
