"""fetch-pmc against the bucket on loopback: faults, kills, selections, refresh."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pmc_bucket import BucketArticle, article_objects, inventory_objects
from pmc_server import LoopbackArchive

from medllava.errors import DataError, RemoteError
from medllava.pmc.config import FetchConfig
from medllava.pmc.fetch import fetch_figures

os.environ.setdefault(
    "PYTHONPATH", str(Path(__file__).parents[2])
)  # for the processes started here
NUM_ARTICLES = 10
KILLS_AFTER = (2, 5, 9, 6)
OUTPUTS = ("figures.parquet", "rejected.parquet", "ATTRIBUTION.md", "report.html")


def make_objects(articles: list[BucketArticle], date: str = "2026-09-01") -> dict[str, bytes]:
    objects: dict[str, bytes] = {}
    for article in articles:
        objects |= article_objects(article)
    return objects | inventory_objects(objects, date)


@pytest.fixture
def articles() -> list[BucketArticle]:
    kept = [BucketArticle(n) for n in range(1, NUM_ARTICLES + 1)]
    return [*kept, BucketArticle(50, is_retracted=True), BucketArticle(51, license="TDM")]


@pytest.fixture
def archive(articles: list[BucketArticle]) -> Iterator[LoopbackArchive]:
    with LoopbackArchive(make_objects(articles)).running() as running:
        yield running


def make_config(archive: LoopbackArchive, folder: Path, **changes: object) -> FetchConfig:
    config = FetchConfig(
        output_dir=folder,
        base_url=archive.url,
        entrez_url=archive.url,
        converter_url=f"{archive.url}/idconv/",
        workers=4,
        retry_seconds=0.01,
        timeout_seconds=0.5,
        test_fraction=0.2,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def content_of(folder: Path) -> dict[str, str]:
    """Everything a run hands over, by digest; its own state left out."""
    paths = [folder / name for name in OUTPUTS] + sorted((folder / "images").rglob("*.*"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def rows_of(folder: Path, name: str = "figures") -> list[dict]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_everything_of_the_inventory_is_fetched_once(
    archive: LoopbackArchive, tmp_path: Path
) -> None:
    summary = fetch_figures(make_config(archive, tmp_path / "out"))
    assert summary.counts["kept"] == 2 * NUM_ARTICLES
    assert {row["snapshot"] for row in rows_of(tmp_path / "out")} == {"2026-09-01"}
    assert max(archive.served.values()) == 1
    reasons = {row["key"]: row["reason"] for row in rows_of(tmp_path / "out", "rejected")}
    assert reasons == {"PMC50.1": "retracted", "PMC51.1": "license"}
    assert not archive.served["PMC50.1/PMC50.1.xml"], "decided from the metadata alone"


def test_faults_change_nothing_in_the_output(archive: LoopbackArchive, tmp_path: Path) -> None:
    fetch_figures(make_config(archive, tmp_path / "calm"))
    archive.add_faults()
    summary = fetch_figures(make_config(archive, tmp_path / "rough"))
    assert summary.complete
    assert not any(archive.faults[key] for key in archive.served), "every fault was met"
    assert content_of(tmp_path / "rough") == content_of(tmp_path / "calm")


def test_kill_at_any_moment_gives_the_same_folder(archive: LoopbackArchive, tmp_path: Path) -> None:
    fetch_figures(make_config(archive, tmp_path / "calm"))
    archive.served.clear()
    command = [
        *(sys.executable, "-m", "medllava", "fetch-pmc", "-o", str(tmp_path / "killed")),
        *("--base-url", archive.url, "--workers", "4", "--json"),
        *("--set", "split.test_fraction=0.2"),
    ]
    # In the middle of an object each time: the inventory, then metadata, XML and images.
    for kill_after in KILLS_AFTER:
        archive.kill_after = kill_after
        with subprocess.Popen(command, stdout=subprocess.PIPE) as archive.victim:
            assert archive.victim.wait(timeout=120) == -signal.SIGKILL
    archive.kill_after = None
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "ok"
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "calm")
    # What was on its way when the process died has to come again: one object per worker and kill.
    repeated = sum(count - 1 for key, count in archive.served.items() if key.startswith("PMC"))
    assert repeated <= 4 * len(KILLS_AFTER)


def test_byte_limit_stops_and_the_next_run_goes_on(
    archive: LoopbackArchive, tmp_path: Path
) -> None:
    config = make_config(archive, tmp_path / "out", max_bytes=60_000, workers=1)
    first = fetch_figures(config)
    assert not first.complete
    assert first.counts["articles_left"] > 0
    fetch_figures(make_config(archive, tmp_path / "calm"))
    summary = fetch_figures(dataclasses.replace(config, max_bytes=None))
    assert summary.complete
    assert content_of(tmp_path / "out") == content_of(tmp_path / "calm")


def test_what_stays_away_leaves_the_run_incomplete(
    archive: LoopbackArchive, tmp_path: Path
) -> None:
    archive.faults["PMC3.1/PMC3.1.xml"] = ["503"] * 6
    config = make_config(archive, tmp_path / "out")
    first = fetch_figures(config)
    assert (first.complete, first.counts) == (False, {"articles_left": 1})
    assert first.details["open"] == {"no-answer": 1}
    assert fetch_figures(config).counts["kept"] == 2 * NUM_ARTICLES


def test_md5_that_never_fits_is_a_named_rejection(archive: LoopbackArchive, tmp_path: Path) -> None:
    archive.objects["PMC3.1/a3-g001.png"] = b"something else"
    config = make_config(archive, tmp_path / "out")
    first = fetch_figures(config)
    assert not first.complete
    assert first.details["open"] == {"checksum": 1}
    assert "PMC3.1" in first.details["open_articles"]
    fetch_figures(dataclasses.replace(config, give_up_after=2))
    reasons = {row["key"]: row["reason"] for row in rows_of(tmp_path / "out", "rejected")}
    assert reasons["PMC3.1/f1"] == "checksum"


def test_dead_service_ends_the_run(tmp_path: Path) -> None:
    archive = LoopbackArchive({})
    archive.url = "http://127.0.0.1:9"
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1"):
        fetch_figures(make_config(archive, tmp_path / "out"))


def test_ids_of_all_kinds_are_resolved_and_misses_named(
    archive: LoopbackArchive, tmp_path: Path
) -> None:
    archive.converter = {"30000001": "PMC2", "10.1000/xyz": "PMC3"}
    ids = tmp_path / "ids.txt"
    ids.write_text("PMC1\n30000001 # a PMID\nhttps://doi.org/10.1000/xyz\n39999999\nPMC77\nsmith\n")
    fetch_figures(make_config(archive, tmp_path / "out", ids=ids))
    assert {row["pmcid"] for row in rows_of(tmp_path / "out")} == {"PMC1", "PMC2", "PMC3"}
    reasons = {row["key"]: row["reason"] for row in rows_of(tmp_path / "out", "rejected")}
    assert reasons == {"39999999": "not-in-pmc", "PMC77": "not-in-bucket", "smith": "bad-id"}


def test_query_halves_dates_below_the_cap(
    archive: LoopbackArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medllava.pmc.entrez.MAX_IDS", 4)
    monkeypatch.setattr("medllava.pmc.transport.Pacer.wait", lambda self: None)
    archive.search_dates = {f"20{10 + n}/01/05": [n] for n in range(1, NUM_ARTICLES + 1)}
    fetch_figures(make_config(archive, tmp_path / "out", query="glioma"))
    assert len({row["pmcid"] for row in rows_of(tmp_path / "out")}) == NUM_ARTICLES
    assert "(cc0_license[filter] OR cc_by_license[filter])" in archive.searches[0]
    assert len(archive.searches) > 3


def test_sample_is_seeded(archive: LoopbackArchive, tmp_path: Path) -> None:
    names = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        fetch_figures(make_config(archive, tmp_path / folder, sample=4, seed=seed))
        names.append({row["pmcid"] for row in rows_of(tmp_path / folder)})
    assert names[0] == names[1] != names[2]


def test_llava_med_list_reports_every_line(archive: LoopbackArchive, tmp_path: Path) -> None:
    lines = [
        ("PMC1", "a1-g002.jpg"),
        ("PMC51", "a51-g001.jpg"),
        ("PMC99", "x.jpg"),
        ("PMC2", "y.jpg"),
    ]
    urls = tmp_path / "urls.jsonl"
    urls.write_text(
        "".join(
            json.dumps(
                {
                    "pair_id": f"{n}_F1",
                    "pmc_tar_url": f"https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/3f/46/{pmcid}.tar.gz",
                    "image_file_path": f"{pmcid}/{name}",
                }
            )
            + "\n"
            for n, (pmcid, name) in enumerate(lines)
        )
    )
    summary = fetch_figures(make_config(archive, tmp_path / "out", image_urls=urls))
    assert summary.details["image_list"] == {"hits": 1, "misses": 3}
    report = [json.loads(line) for line in (tmp_path / "out" / "image-list.jsonl").open()]
    assert [line["reason"] for line in report] == [
        None,
        "license",
        "not-in-bucket",
        "no-figure-names-it",
    ]
    assert report[0]["figure_id"] == "PMC1.1/f2"
    assert [row["figure_id"] for row in rows_of(tmp_path / "out")] == ["PMC1.1/f2"]


def test_refresh_drops_what_was_retracted_or_removed(
    archive: LoopbackArchive, articles: list[BucketArticle], tmp_path: Path
) -> None:
    config = make_config(archive, tmp_path / "out")
    fetch_figures(config)
    gone = {path.name for path in (tmp_path / "out" / "images").rglob("PMC[13].1_*")}
    later = [a for a in articles if a.number not in (1, 2)]
    later[0] = BucketArticle(3, is_retracted=True)
    later += [BucketArticle(2, version=2), BucketArticle(60)]
    archive.objects = make_objects(later, "2026-10-01")
    archive.served.clear()
    summary = fetch_figures(dataclasses.replace(config, refresh=True))
    assert summary.details["refresh"] == {"removed": 1, "superseded": 1, "changed": 1}
    assert summary.details["snapshot"] == "2026-10-01"
    assert summary.details["reasons"]["retracted"] == 2
    keys = {row["figure_id"].partition("/")[0] for row in rows_of(tmp_path / "out")}
    assert keys == {"PMC2.2", "PMC60.1", *(f"PMC{n}.1" for n in range(4, NUM_ARTICLES + 1))}
    left = {path.name for path in (tmp_path / "out" / "images").rglob("*.*")}
    assert gone
    assert not gone & left
    assert not archive.served["PMC4.1/PMC4.1.xml"], "unchanged articles are not fetched again"


def test_dry_run_estimates_and_writes_nothing(archive: LoopbackArchive, tmp_path: Path) -> None:
    summary = fetch_figures(make_config(archive, tmp_path / "out", dry_run=True))
    assert summary.counts["articles"] == NUM_ARTICLES + 2
    assert summary.counts["figures"] == 2 * (NUM_ARTICLES + 1)  # a retraction is seen in a real run
    sizes = [len(d) for k, d in archive.objects.items() if k.startswith("PMC") and "json" not in k]
    assert 0.5 * sum(sizes) < summary.counts["bytes"] <= sum(sizes)
    assert summary.details["licenses"] == {"CC BY": NUM_ARTICLES + 1, "TDM": 1}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address",
    ["https://ftp.ncbi.nlm.nih.gov/pub/pmc", "https://www.ncbi.nlm.nih.gov/pmc/utils/oa/oa.fcgi"],
)
def test_dead_addresses_name_their_replacement(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match=r"shut down in August 2026.*bucket"):
        fetch_figures(FetchConfig(output_dir=tmp_path / "out", base_url=address))


def test_webdataset_shards_hold_every_image_with_its_record(
    archive: LoopbackArchive, tmp_path: Path
) -> None:
    import tarfile

    fetch_figures(make_config(archive, tmp_path / "out", webdataset=True))
    with tarfile.open(tmp_path / "out" / "webdataset" / "00000.tar") as shard:
        names = shard.getnames()
    assert len(names) == 4 * NUM_ARTICLES
    assert {name.rpartition(".")[2] for name in names} == {"png", "json"}


@pytest.mark.slow
def test_local_executor_gives_the_same_folder(archive: LoopbackArchive, tmp_path: Path) -> None:
    fetch_figures(make_config(archive, tmp_path / "one"))
    config = make_config(
        archive, tmp_path / "many", num_shards=2, executor="local", executor_options=("workers=2",)
    )
    assert fetch_figures(config).complete
    assert content_of(tmp_path / "many") == content_of(tmp_path / "one")


def test_real_articles_from_a_loopback_bucket(pmc_samples: Path, tmp_path: Path) -> None:
    bucket = pmc_samples / "s3-cloud-2026" / "derived-bucket"
    objects = {
        path.relative_to(bucket).as_posix(): path.read_bytes()
        for path in bucket.rglob("*")
        if path.is_file()
    }
    with LoopbackArchive(objects).running() as archive:
        fetch_figures(make_config(archive, tmp_path / "calm"))
        archive.add_faults()
        fetch_figures(make_config(archive, tmp_path / "rough"))
    assert len(rows_of(tmp_path / "calm")) == 12
    assert content_of(tmp_path / "rough") == content_of(tmp_path / "calm")


def test_ctrl_c_does_not_wait_for_requests_that_hang(archive: LoopbackArchive, tmp_path: Path):
    """The bucket lists its articles and then never answers again: four threads wait for it."""
    archive.hang_seconds = 60
    archive.faults = {key: ["hang"] * 9 for key in archive.objects if key.startswith("PMC")}
    ids = tmp_path / "ids"
    ids.write_text("".join(f"PMC{number}\n" for number in range(1, NUM_ARTICLES + 1)))
    command = [sys.executable, "-m", "medllava", "fetch-pmc", "-o", str(tmp_path / "figures")]
    with subprocess.Popen(
        [*command, "--base-url", archive.url, "--ids", str(ids), "-j", "4", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            give_up = time.monotonic() + 120
            while archive.asked < 8 and process.poll() is None:  # four metadata, then four XML
                assert time.monotonic() < give_up
                time.sleep(0.02)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, talk = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, talk
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert time.monotonic() - started < 15, "it waited for the server"
