"""Push against a hub on loopback: pushed, interrupted, resumed, pushed again, refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_folders import REPO, config, files, write_checkpoint, write_report
from hub_loopback import TOKEN, Fault, connected_hub
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.errors import DataError, RemoteError, SetupError
from medllava.hub.push import push
from medllava.provenance import weights_sha256


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("made") / "ckpt")


@pytest.fixture
def checkpoint(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "ckpt")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with connected_hub(tmp_path / "hub", monkeypatch) as hub:
        yield hub


def test_repository_holds_exactly_the_dry_run_folder(hub, checkpoint, tmp_path):
    push(config(checkpoint, dry_run=True, output_dir=tmp_path / "dry"))
    assert hub.requests == []
    push(config(checkpoint))
    assert files(hub.branch(REPO)) == files(tmp_path / "dry")


def test_pushing_again_sends_nothing(hub, checkpoint):
    first = push(config(checkpoint))
    before = files(hub.branch(REPO))
    hub.requests.clear()
    second = push(config(checkpoint))
    assert first.details["changed"]
    assert not second.details["changed"]
    assert second.details["commit"] == first.details["commit"]
    assert files(hub.branch(REPO)) == before
    assert hub.count("PUT", "") == hub.count("POST", "commit") == 0


def test_changed_weights_replace_the_old_ones_and_stale_reports_go(hub, checkpoint, tmp_path):
    write_report(checkpoint / "eval" / "old", weights=weights_sha256(checkpoint))
    push(config(checkpoint))
    assert (hub.branch(REPO) / "eval/old/report.json").is_file()
    shutil.rmtree(checkpoint / "eval")
    push(config(checkpoint))
    assert not (hub.branch(REPO) / "eval/old/report.json").exists()
    assert (hub.branch(REPO) / "model.safetensors").is_file()


def test_private_and_branch_options_reach_the_hub(hub, checkpoint):
    push(config(checkpoint, private=True, revision="v2"))
    assert (hub.root / "models" / REPO / "visibility").read_text() == "private"
    assert files(hub.branch(REPO)) == {}
    assert (hub.branch(REPO, "v2") / "model.safetensors").is_file()


def test_pull_request_is_opened_once(hub, checkpoint):
    first = push(config(checkpoint, create_pr=True))
    second = push(config(checkpoint, create_pr=True))
    assert first.details["url"].endswith("/discussions/1")
    assert not second.details["changed"]
    assert (hub.branch(REPO, "refs/pr/1") / "README.md").is_file()
    assert files(hub.branch(REPO)) == {}


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault("POST", "repos/create", 401), "hf auth login"),
        (Fault("POST", "preupload", 403), "write permission"),
        (Fault("GET", "/tree/", 404), "no such repository"),
        (Fault("PUT", "lfs-store", 413), "smaller shards"),
        (Fault("POST", "/commit/", 413), "smaller shards"),
        (Fault("POST", "preupload", 429), "Too many requests"),
        (Fault("POST", "objects/batch", 500), "run the same command again"),
        (Fault("PUT", "lfs-store", 503), "run the same command again"),
        (Fault("POST", "/commit/", 502), "run the same command again"),
        (Fault("PUT", "lfs-store", 0), "run the same command again"),
    ],
    ids=lambda value: f"{value.path}-{value.status}" if isinstance(value, Fault) else "",
)
def test_refusals_say_what_to_do_and_a_later_push_ends_the_work(hub, checkpoint, fault, advice):
    hub.faults.append(fault)
    with pytest.raises(RemoteError, match=advice) as raised:
        push(config(checkpoint))
    message = str(raised.value)
    assert "\n" not in message
    assert TOKEN not in message
    if fault.status:
        assert f"HTTP {fault.status}" in message
    hub.faults.clear()
    assert push(config(checkpoint)).details["changed"]
    assert (hub.branch(REPO) / "model.safetensors").is_file()


def test_passing_server_errors_are_retried(hub, checkpoint):
    hub.faults += [Fault("PUT", "lfs-store", 500, 2), Fault("POST", "preupload", 503, 1)]
    assert push(config(checkpoint)).details["changed"]


def test_wrong_token_is_named_as_such(hub, checkpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(RemoteError, match=r"HTTP 401.*hf auth login"):
        push(config(checkpoint))


def test_no_token_and_no_network_are_set_up_errors(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("medllava.hub.upload.get_token", lambda: None)
    with pytest.raises(SetupError, match="hf auth login"):
        push(config(checkpoint))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match="HF_HUB_OFFLINE"):
        push(config(checkpoint))
    assert hub.requests == []


def test_killed_upload_goes_on_where_it_stopped(hub, checkpoint, tmp_path):
    """Two weight shards: killed while the second is on its way, only the second is sent again."""
    shard(checkpoint)
    hub.hold_put = threading.Event()
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [
        sys.executable,
        "-m",
        "medllava",
        "push",
        str(checkpoint),
        REPO,
        "--no-load-check",
        "-vv",
    ]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert hub.put_started.wait(60)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert hub.count("POST", "/commit/") == 0
    sent = [path.name for path in (hub.root / "lfs").iterdir()]
    assert len(sent) == 1
    hub.hold_put = None
    hub.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.count("PUT", "lfs-store") == 1
    assert hub.count("PUT", sent[0]) == 0
    assert weights_sha256(hub.branch(REPO)) == weights_sha256(checkpoint)
    assert TOKEN not in done.stdout + done.stderr
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_pipeline_answers_from_what_the_hub_holds(hub, checkpoint, tmp_path):
    summary = push(config(checkpoint, load_check=True))
    assert isinstance(summary.details["answer"], str)
    from PIL import Image
    from transformers import pipeline

    Image.new("RGB", (40, 30), "white").save(tmp_path / "image.png")
    ask = pipeline("image-text-to-text", model=str(hub.branch(REPO)))
    content = [
        {"type": "image", "path": str(tmp_path / "image.png")},
        {"type": "text", "text": "What kind of image is this?"},
    ]
    answers = ask(text=[{"role": "user", "content": content}], max_new_tokens=4, do_sample=False)
    assert answers[0]["generated_text"][-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 20), "not a safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "run.json").unlink(), "no run.json"),
        (lambda folder: edit(folder / "config.json", model_type="llava_mistral"), "llava_mistral"),
        (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (lambda folder: (folder / "LICENSE").write_bytes(b"\x80\x04pickled"), "a pickle"),
        (lambda folder: (folder / "NOTICE").write_text(TOKEN), "a Hugging Face token"),
        (lambda folder: (folder / "NOTICE").write_text("see /home/alice/x"), "/home/alice/x"),
        (lambda folder: edit(folder / "config.json", image_token_index=7), "fresh process"),
        (lambda folder: drop_tensor(folder), "do not match"),
        (lambda folder: edit(folder / "run.json", weights_sha256="0" * 64), "weights 00000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_not_be_published_stops_before_anything_is_sent(hub, checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(DataError, match=message) as raised:
        push(config(checkpoint, load_check=message in {"fresh process", "do not match"}))
    assert TOKEN not in str(raised.value)
    assert hub.changes() == []
    assert not (checkpoint / "push").exists()


def test_report_of_other_weights_stops_the_push(hub, checkpoint, tmp_path):
    write_report(tmp_path / "scores", weights="0" * 64)
    with pytest.raises(DataError, match="made with weights 000000000000") as raised:
        push(config(checkpoint, reports=(tmp_path / "scores",)))
    assert str(tmp_path / "scores") in str(raised.value)
    assert hub.changes() == []


def test_unknown_base_license_stops_until_the_risk_is_named(hub, tmp_path, checkpoint):
    edit_recipe(checkpoint, source="someone/closed", license="unknown")
    with pytest.raises(DataError, match="--accept-license-risk base-license-unknown"):
        push(config(checkpoint))
    assert hub.changes() == []
    with pytest.raises(DataError, match="is no risk of this push"):
        push(config(checkpoint, accepted_risks=("base-no-redistribution",)))
    push(config(checkpoint, accepted_risks=("base-license-unknown",)))
    card = (hub.branch(REPO) / "README.md").read_text()
    assert "Risk accepted by the publisher, `base-license-unknown`" in card


def test_folder_that_push_did_not_make_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="was not made by push"):
        push(config(checkpoint, dry_run=True, output_dir=tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_command_prints_one_json_object_and_hides_paths(checkpoint, tmp_path):
    arguments = ["push", str(checkpoint), REPO, "--dry-run", "--no-load-check", "--json"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["summary"]["ledger"]["hub_license"] == "cc-by-4.0"
    published = b"".join(files(tmp_path / "out").values())
    assert b"alice" not in published
    assert "checkpoints/step-1/optimizer.pt" not in files(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["not a name!"], 7), ([REPO, "--create-pr", "--revision", "v2"], 7), ([], 2)],
)
def test_wrong_options_have_their_exit_codes(checkpoint, arguments, code):
    assert CliRunner().invoke(app, ["push", str(checkpoint), *arguments]).exit_code == code


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_recipe(checkpoint: Path, **changes) -> None:
    values = json.loads((checkpoint / "recipe.json").read_text())
    values["model"]["vision_encoder"] |= changes
    (checkpoint / "recipe.json").write_text(json.dumps(values))
    run = json.loads((checkpoint / "run.json").read_text())
    run["parts"].pop("vision_encoder")
    run["init"]["run"]["parts"].pop("vision_encoder")
    (checkpoint / "run.json").write_text(json.dumps(run))


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "run.json", weights_sha256=weights_sha256(folder))


def shard(checkpoint: Path) -> None:
    """Save the weights again in two files, the run's record with them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, checkpoint / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in halves.items() for key in keys}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    edit(checkpoint / "run.json", weights_sha256=weights_sha256(checkpoint))
