"""What a connection says for a while decides nothing about an article."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pmc_bucket import BucketArticle
from pmc_server import OUTAGES, LoopbackArchive
from test_pmc_bucket import NUM_ARTICLES, content_of, make_config, make_objects, rows_of

from medllava.errors import RemoteError
from medllava.pmc.fetch import fetch_figures


@pytest.fixture
def archive() -> Iterator[LoopbackArchive]:
    articles = [BucketArticle(n) for n in range(1, NUM_ARTICLES + 1)]
    with LoopbackArchive(make_objects(articles)).running() as running:
        yield running


@pytest.mark.parametrize("answer", OUTAGES)
def test_no_answer_of_a_bad_hour_is_a_verdict(
    archive: LoopbackArchive, tmp_path: Path, answer: str
) -> None:
    fetch_figures(make_config(archive, tmp_path / "calm"))
    config = make_config(archive, tmp_path / "rough")
    keys = ("metadata/PMC2.1.json", "PMC3.1/PMC3.1.xml", "PMC4.1/a4-g001.png")
    archive.faults = {key: [answer] * 6 for key in keys}
    first = fetch_figures(config)
    assert (first.complete, first.counts) == (False, {"articles_left": 3})
    assert set(first.details["open_articles"]) == {"PMC2.1", "PMC3.1", "PMC4.1"}
    archive.faults = {}
    assert fetch_figures(config).complete
    assert content_of(tmp_path / "rough") == content_of(tmp_path / "calm")


def test_many_faults_and_kills_change_no_byte(archive: LoopbackArchive, tmp_path: Path) -> None:
    fetch_figures(make_config(archive, tmp_path / "calm"))
    archive.asked = 0
    archive.outage_after = dict.fromkeys(range(5, 100, 20), 8)
    settings = (
        "transfer.retry_seconds=0.01",
        "transfer.timeout_seconds=1",
        "split.test_fraction=0.2",
    )
    command = [
        *(sys.executable, "-m", "medllava", "fetch-pmc", "-o", str(tmp_path / "rough")),
        *("--base-url", archive.url, "--workers", "4", "--json"),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    code = None
    for attempt in range(20):
        archive.kill_after = 7 if attempt in (0, 2, 4) else None
        with subprocess.Popen(command, stdout=subprocess.PIPE) as archive.victim:
            code = archive.victim.wait(timeout=120)
        assert code in {0, 5, 6, -9}
        if code == 0:
            break
    assert code == 0
    assert set(archive.misanswered) == set(OUTAGES)
    assert content_of(tmp_path / "rough") == content_of(tmp_path / "calm")
    assert not list((tmp_path / "rough").rglob("*.tmp"))
    assert not list((tmp_path / "rough").rglob(".*.tmp"))


def test_service_that_fails_for_most_ends_the_run_with_nothing_decided(
    tmp_path: Path,
) -> None:
    articles = [BucketArticle(n) for n in range(1, 61)]
    with LoopbackArchive(make_objects(articles)).running() as archive:
        config = make_config(archive, tmp_path / "out")
        archive.outage_after = {10: 100_000}
        with pytest.raises(RemoteError, match="no usable answer"):
            fetch_figures(config)
        assert sum(archive.misanswered.values()) < 300, "it stops asking"
        archive.outage = 0
        assert fetch_figures(config).counts["kept"] == 120


def test_everything_gone_is_not_believed(archive: LoopbackArchive, tmp_path: Path) -> None:
    config = make_config(archive, tmp_path / "out")
    objects = archive.objects
    archive.objects = {k: v for k, v in objects.items() if k.startswith("inventory")}
    with pytest.raises(RemoteError, match="Nothing was decided"):
        fetch_figures(config)
    archive.objects = objects
    assert fetch_figures(config).counts["kept"] == 2 * NUM_ARTICLES


def test_gone_while_the_rest_is_there_is_final(archive: LoopbackArchive, tmp_path: Path) -> None:
    del archive.objects["metadata/PMC3.1.json"], archive.objects["PMC4.1/a4-g001.png"]
    summary = fetch_figures(make_config(archive, tmp_path / "out"))
    assert summary.complete
    reasons = {row["key"]: row["reason"] for row in rows_of(tmp_path / "out", "rejected")}
    assert reasons == {"PMC3.1": "object-missing", "PMC4.1/f1": "object-missing"}


def test_refresh_asks_again_for_what_was_missing(archive: LoopbackArchive, tmp_path: Path) -> None:
    config = make_config(archive, tmp_path / "out")
    image = archive.objects.pop("PMC4.1/a4-g001.png")
    assert fetch_figures(config).counts["kept"] == 2 * NUM_ARTICLES - 1
    archive.objects["PMC4.1/a4-g001.png"] = image
    summary = fetch_figures(dataclasses.replace(config, refresh=True))
    assert summary.details["refresh"] == {"asked-again": 1}
    assert summary.counts["kept"] == 2 * NUM_ARTICLES


def test_rejected_are_read_again_when_asked_for(archive: LoopbackArchive, tmp_path: Path) -> None:
    config = make_config(archive, tmp_path / "out")
    image = archive.objects.pop("PMC4.1/a4-g001.png")
    fetch_figures(config)
    archive.objects["PMC4.1/a4-g001.png"] = image
    archive.served.clear()
    summary = fetch_figures(dataclasses.replace(config, retry_rejected="object-missing"))
    assert summary.counts["kept"] == 2 * NUM_ARTICLES
    assert {key.partition(".")[0] for key in archive.served if key.startswith("PMC")} == {"PMC4"}


def test_wrong_reason_names_those_that_there_are(archive: LoopbackArchive, tmp_path: Path) -> None:
    del archive.objects["PMC4.1/a4-g001.png"]
    command = [
        *(sys.executable, "-m", "medllava", "fetch-pmc", "-o", str(tmp_path / "out")),
        *("--base-url", archive.url, "--json"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        [*command, "--retry-rejected", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert "object-missing" in json.loads(done.stdout)["error"]["message"]
