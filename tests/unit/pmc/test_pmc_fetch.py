"""The step on a generated mirror: what is kept, what is left out and why, and that it goes on."""

import dataclasses
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pmc_bucket import BucketArticle, article_xml, write_mirror

from medllava.errors import DataError, RecipeError, SetupError
from medllava.pmc.config import FetchConfig, read_settings
from medllava.pmc.fetch import fetch_figures
from medllava.records import FigureRecord, Modality


def figures_of(folder: Path) -> list[dict]:
    return pq.read_table(folder / "figures.parquet").to_pylist()


def reasons_of(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "rejected.parquet").to_pylist()
    return {row["key"]: row["reason"] for row in rows}


@pytest.fixture
def config(tmp_path: Path) -> FetchConfig:
    mirror = write_mirror(tmp_path / "mirror", [BucketArticle(n) for n in range(1, 7)])
    return FetchConfig(output_dir=tmp_path / "out", inputs=(mirror,), workers=2)


def test_mirror_gives_figures_with_words_modality_and_provenance(config: FetchConfig) -> None:
    summary = fetch_figures(config)
    rows = figures_of(config.output_dir)
    assert summary.complete
    assert [row["figure_id"] for row in rows] == [
        f"PMC{a}.1/f{f}" for a in range(1, 7) for f in (1, 2)
    ]
    first = FigureRecord.from_json(rows[0], where="row 1")
    assert first.modality is Modality.CHEST_XRAY
    assert first.in_text_mentions == ("We saw it (Figure 1).",)
    assert (first.pmid, first.doi, first.license) == ("2", "10.1/1", "CC BY")
    image = config.output_dir / first.images[0]
    assert hashlib.sha256(image.read_bytes()).hexdigest() == first.sha256[0]
    with Image.open(image) as opened:
        assert opened.size == (160, 120)
    assert {row["modality"] for row in rows} == set(Modality)


def test_funnel_adds_up(config: FetchConfig) -> None:
    fetch_figures(config)
    summary = json.loads((config.output_dir / "summary.json").read_text())
    funnel = summary["funnel"]
    assert funnel[0] == {"stage": "article", "in": 6, "rejected": 0, "out": 6}
    assert funnel[-1]["out"] == summary["counts"]["kept"] == 12
    assert "CC BY" in (config.output_dir / "ATTRIBUTION.md").read_text()
    attribution = (config.output_dir / "ATTRIBUTION.md").read_text()
    assert "National Library of Medicine" in attribution
    assert f"accessed on {summary['snapshot']} from local copies" in attribution


@pytest.mark.parametrize(
    ("article", "key", "reason"),
    [
        (BucketArticle(9, is_retracted=True), "PMC9.1", "retracted"),
        (BucketArticle(9, license="CC BY-NC"), "PMC9.1", "license"),
        (BucketArticle(9, license=None), "PMC9.1", "license"),
        (BucketArticle(9, xml_license="by-nc-nd"), "PMC9.1", "license-conflict"),
        (BucketArticle(9, article_type="correction"), "PMC9.1", "notice"),
        (BucketArticle(9, caption="Too short."), "PMC9.1/f1", "caption-short"),
        (BucketArticle(9, image_size=(160, 40)), "PMC9.1/f1", "image-small"),
        (
            BucketArticle(9, caption="A CT, reproduced with permission from Smith et al."),
            "PMC9.1/f1",
            "third-party",
        ),
        (BucketArticle(9, extra={"media_urls": []}), "PMC9.1/f1", "image-missing"),
        (BucketArticle(9, extra={"pmcid": "PMC8"}), "PMC9.1", "metadata-malformed"),
    ],
)
def test_what_must_not_be_kept_is_named(
    tmp_path: Path, article: BucketArticle, key: str, reason: str
) -> None:
    mirror = write_mirror(tmp_path / "mirror", [article])
    fetch_figures(FetchConfig(output_dir=tmp_path / "out", inputs=(mirror,)))
    assert reasons_of(tmp_path / "out")[key] == reason
    assert figures_of(tmp_path / "out") == []


def test_split_file_goes_before_the_fractions(config: FetchConfig, tmp_path: Path) -> None:
    named = tmp_path / "split.csv"
    named.write_text("pmcid,split\nPMC1,test\nPMC2,exclude\nPMC3,validation\n")
    config = dataclasses.replace(
        config, split_file=named, test_fraction=0.0, validation_fraction=0.0
    )
    fetch_figures(config)
    splits = {row["pmcid"]: row["split"] for row in figures_of(config.output_dir)}
    assert splits == {
        "PMC1": "test",
        "PMC3": "validation",
        "PMC4": "train",
        "PMC5": "train",
        "PMC6": "train",
    }
    assert reasons_of(config.output_dir)["PMC2.1/f1"] == "excluded"


def test_a_wrong_line_of_a_split_file_is_named(config: FetchConfig, tmp_path: Path) -> None:
    named = tmp_path / "split.csv"
    named.write_text("pmcid,split\nPMC1,test\nPMC2,tset\n")
    with pytest.raises(DataError, match="line 3"):
        fetch_figures(dataclasses.replace(config, split_file=named))


def test_latest_version_only_unless_asked(tmp_path: Path) -> None:
    articles = [BucketArticle(5, version=1), BucketArticle(5, version=2)]
    mirror = write_mirror(tmp_path / "mirror", articles)
    fetch_figures(FetchConfig(output_dir=tmp_path / "latest", inputs=(mirror,)))
    assert {row["version"] for row in figures_of(tmp_path / "latest")} == {2}


def test_other_settings_in_the_same_folder_are_refused(config: FetchConfig) -> None:
    fetch_figures(config)
    with pytest.raises(DataError, match="min_pixels"):
        fetch_figures(dataclasses.replace(config, min_pixels=300))


def test_shards_give_the_same_folder_as_one_run(config: FetchConfig, tmp_path: Path) -> None:
    fetch_figures(config)
    sharded = dataclasses.replace(config, output_dir=tmp_path / "sharded", num_shards=3)
    for index in (2, 0):
        summary = fetch_figures(dataclasses.replace(sharded, shard_index=index))
        assert summary.counts["shards_left"] > 0
    fetch_figures(dataclasses.replace(sharded, shard_index=1))
    for name in ("figures.parquet", "rejected.parquet", "ATTRIBUTION.md"):
        assert (tmp_path / "sharded" / name).read_bytes() == (config.output_dir / name).read_bytes()


FIXTURES = Path(__file__).parents[2] / "fixtures" / "pmc"


def test_page_named_xml_is_a_rejected_row_and_nothing_kept_is_said(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(FIXTURES / "html_page.xml", source)
    summary = fetch_figures(FetchConfig(output_dir=tmp_path / "out", inputs=(source,)))
    assert reasons_of(tmp_path / "out") == {"0/html_page.xml": "no-article"}
    assert summary.counts["kept"] == 0
    assert "no-article" in summary.details["nothing_kept"]
    assert summary.hint is None


def test_nothing_kept_names_what_helps(config: FetchConfig, tmp_path: Path) -> None:
    summary = fetch_figures(dataclasses.replace(config, min_pixels=5000))
    assert "filter.min_pixels" in summary.details["nothing_kept"]


def test_missing_split_file_is_said_before_any_reading(config: FetchConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split file"):
        fetch_figures(dataclasses.replace(config, split_file=tmp_path / "none.csv"))
    assert not config.output_dir.exists()


def test_folder_that_cannot_be_written_is_a_set_up_error(
    config: FetchConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError, match="cannot be written"):
        fetch_figures(dataclasses.replace(config, output_dir=tmp_path / "file" / "out"))


def test_temporary_files_of_killed_runs_are_swept(config: FetchConfig) -> None:
    work = config.output_dir / ".fetch"
    work.mkdir(parents=True)
    left = [work / ".listing.sqlite.abc.tmp", config.output_dir / ".scratch.xyz"]
    left.append(config.output_dir / ".figures.parquet.q.tmp")
    for path in left:
        path.write_text("torn")
    fetch_figures(config)
    assert not any(path.exists() for path in left)


def test_language_of_the_caption_is_a_filter(config: FetchConfig) -> None:
    summary = fetch_figures(dataclasses.replace(config, languages=("es",)))
    assert summary.counts["kept"] == 0
    assert set(reasons_of(config.output_dir).values()) == {"language"}


def test_rarer_settings_come_from_a_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[filter]\nmin_pixels = 224\n[split]\ntest_fraction = 0.1\n")
    values = read_settings(file, ["filter.min_pixels=50", "output.webdataset=true"])
    assert values == {"min_pixels": 50, "test_fraction": 0.1, "webdataset": True}
    for override, named in (("filter.min_pixel=1", "min_pixels"), ("filtr.x=1", "filter")):
        with pytest.raises(RecipeError, match=named):
            read_settings(None, [override])


def test_processes_make_the_same_folder_and_go_on(tmp_path: Path) -> None:
    """Files of two processes, after a kill of everything, equal those of threads; none is left."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 241):
        article = BucketArticle(number, num_figures=1)
        (folder / f"{number:03d}.xml").write_text(article_xml(article))
    command = [sys.executable, "-m", "medllava", "fetch-pmc", "--input", str(folder), "--workers"]
    rest = ["--set", "filter.captions_only=true", "-o"]
    threads, processes = tmp_path / "threads", tmp_path / "processes"
    subprocess.run([*command, "1", *rest, str(threads)], check=True, capture_output=True)
    run = subprocess.Popen(
        [*command, "2", *rest, str(processes)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    database = processes / ".fetch" / "shards" / "00000-of-00001" / "outcomes.sqlite"
    wait_until(lambda: database.exists() and count_done(database) > 5)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.wait()
    assert len(children) >= 2
    wait_until(lambda: not any(is_reading(int(child)) for child in children))
    subprocess.run([*command, "2", *rest, str(processes)], check=True, capture_output=True)
    for name in ("figures.parquet", "rejected.parquet"):
        assert (threads / name).read_bytes() == (processes / name).read_bytes()


def count_done(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as base:
        try:
            return int(base.execute("SELECT COUNT(*) FROM done").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


def is_reading(process: int) -> bool:
    """Whether a process is alive; one that nobody waits for any more is not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
