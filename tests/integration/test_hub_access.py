"""What push asks the hub before any work, and what it says about where things went."""

import json
import os
import subprocess
import sys

import pytest
from hub_folders import REPO, config, write_checkpoint
from hub_loopback import TOKEN, connected_hub

from medllava.errors import RemoteError, SetupError
from medllava.hub.push import push
from medllava.progress import SilentProgress


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("made") / "ckpt")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with connected_hub(tmp_path / "hub", monkeypatch) as hub:
        yield hub


@pytest.fixture
def no_work(monkeypatch):
    """Fail the test if a weight is hashed or a folder staged."""

    def stop(*_: object) -> None:
        raise AssertionError("work was done before the hub was asked")

    monkeypatch.setattr("medllava.hub.push.weights_sha256", stop)
    monkeypatch.setattr("medllava.hub.push.staging_folder", stop)


@pytest.mark.usefixtures("no_work")
def test_a_missing_token_is_said_before_hashing_and_staging(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("medllava.hub.upload.get_token", lambda: None)
    with pytest.raises(SetupError, match="no hub token"):
        push(config(checkpoint))
    assert hub.requests == []


@pytest.mark.usefixtures("no_work")
def test_a_token_that_only_reads_is_said_before_hashing_and_staging(hub, checkpoint):
    hub.token_role = "read"
    with pytest.raises(RemoteError, match="the token can only read"):
        push(config(checkpoint))
    assert hub.changes() == []


@pytest.mark.usefixtures("no_work")
def test_another_owners_name_is_said_first_with_a_name_that_works(hub, checkpoint):
    with pytest.raises(RemoteError, match=r"may not write to 'stranger'\. Push to tester/tiny"):
        push(config(checkpoint, repo_id="stranger/tiny"))
    assert hub.changes() == []


def test_an_organization_of_the_token_may_be_written_to(hub, checkpoint):
    assert push(config(checkpoint, repo_id="lab/tiny")).details["changed"]


def test_a_new_repository_is_private_unless_public_is_said(hub, checkpoint):
    push(config(checkpoint))
    assert (hub.root / "models" / REPO / "visibility").read_text() == "private"
    push(config(checkpoint, repo_id="tester/open", private=False))
    assert (hub.root / "models" / "tester/open" / "visibility").read_text() == "public"


class Told(SilentProgress):
    """Keeps what a step noted."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_repository_that_everyone_sees_already_is_named_before_anything_is_sent(hub, checkpoint):
    push(config(checkpoint, repo_id="tester/seen", private=False))
    hub.requests.clear()
    told = Told()
    push(config(checkpoint, repo_id="tester/seen", revision="next"), progress=told)
    (warned,) = [note for note in told.notes if "everyone will see" in note]
    assert warned.startswith("tester/seen was there before")
    told = Told()
    push(config(checkpoint, repo_id="tester/seen", private=False), progress=told)
    push(config(checkpoint, repo_id="tester/hidden"), progress=told)
    push(config(checkpoint, repo_id="tester/hidden"), progress=told)
    assert not [note for note in told.notes if "everyone will see" in note]


def test_gated_reaches_the_hub(hub, checkpoint):
    push(config(checkpoint, gated="manual"))
    sent = json.loads((hub.root / "models" / REPO / "settings").read_bytes())
    assert sent["gated"] == "manual"


@pytest.mark.parametrize(
    ("changes", "address", "hint"),
    [
        ({}, f"/{REPO}", f"medllava chat IMAGE --ckpt {REPO}"),
        ({"revision": "v2"}, f"/{REPO}/tree/v2", "--revision v2"),
        ({"create_pr": True}, f"/{REPO}/discussions/1", "--revision refs/pr/1"),
    ],
)
def test_address_and_next_command_name_the_branch_that_holds_the_model(
    hub, checkpoint, changes, address, hint
):
    for _ in range(2):  # the second push sends nothing and says the same
        summary = push(config(checkpoint, **changes))
        assert summary.details["url"] == hub.endpoint + address
        assert summary.hint is not None
        assert hint in summary.hint


def test_the_address_is_on_the_terminal(hub, checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "medllava", "push", str(checkpoint), REPO, "--no-load-check"],
        env=os.environ
        | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{hub.endpoint}/{REPO}" in done.stdout
