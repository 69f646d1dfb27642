"""Push the way `huggingface_hub` does by itself: large files through Xet storage."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_folders import REPO, config, files, write_checkpoint
from hub_loopback import TOKEN, Fault, connected_hub

from medllava.errors import RemoteError
from medllava.hub.push import push

pytest.importorskip("hf_xet", reason="needs hf_xet, which huggingface_hub installs where it can")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "ckpt")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with connected_hub(tmp_path / "hub", monkeypatch, xet=True) as hub:
        yield hub


def test_repository_holds_the_dry_run_folder_and_again_sends_nothing(hub, checkpoint, tmp_path):
    push(config(checkpoint, dry_run=True, output_dir=tmp_path / "dry"))
    assert hub.requests == []
    assert push(config(checkpoint)).details["changed"]
    assert files(hub.branch(REPO)) == files(tmp_path / "dry")
    assert hub.count("POST", "/cas/v1/xorbs") >= 1
    assert hub.count("PUT", "") == hub.count("POST", "objects/batch") == 0
    hub.requests.clear()
    assert not push(config(checkpoint)).details["changed"]
    assert hub.count("POST", "/cas/") == hub.count("POST", "/commit/") == 0


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault("GET", "xet-write-token", 403), "write permission|run the same command again"),
        (Fault("POST", "/cas/v1/xorbs", 413), "run the same command again"),
        (Fault("POST", "/commit/", 502), "run the same command again"),
    ],
    ids=["token", "xorb", "commit"],
)
def test_refusals_are_one_sentence_and_a_later_push_ends_the_work(hub, checkpoint, fault, advice):
    hub.faults.append(fault)
    with pytest.raises(RemoteError, match=advice) as raised:
        push(config(checkpoint))
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)
    hub.faults.clear()
    assert push(config(checkpoint)).details["changed"]
    assert (hub.branch(REPO) / "model.safetensors").is_file()


def test_killed_upload_goes_on(hub, checkpoint, tmp_path):
    """Killed after the chunks were sent and before the files were declared."""
    hub.faults.append(Fault("POST", "/cas/v1/shards", 503))
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "medllava", "push", str(checkpoint), REPO, "--no-load-check"]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as run:
        assert hub.put_started.wait(200)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert hub.count("POST", "/commit/") == 0
    hub.faults.clear()
    assert push(config(checkpoint)).details["changed"]
    sent = (hub.branch(REPO) / "model.safetensors").read_bytes()
    assert sent == (checkpoint / "model.safetensors").read_bytes()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]
