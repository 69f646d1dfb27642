"""One hash of weights, one commit, one list of sources: what every room asks and gets alike."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import medllava
from medllava.errors import DataError
from medllava.hub.checks import check_weights, publishable_weights
from medllava.provenance import (
    UNKNOWN,
    code_commit,
    commit_of,
    describe_model,
    gguf_files,
    is_weights_of,
    package_versions,
    parse_sources,
    trace_sources,
    weights_files,
    weights_sha256,
)

SAFETENSORS = b"\x02\0\0\0\0\0\0\0{}"


def write_model(folder: Path, *, shards: int = 1, learned: bool = False) -> Path:
    """Write the files of a model folder, weights without tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        index = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names:
        (folder / name).write_bytes(SAFETENSORS + name.encode())
    if learned:
        (folder / "learned.safetensors").write_bytes(SAFETENSORS)
    return folder


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


def checkout(folder: Path, *, project: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_learned_weights_beside_the_model_change_no_hash_and_are_not_published(tmp_path, shards):
    plain = write_model(tmp_path / "plain", shards=shards)
    beside = write_model(tmp_path / "beside", shards=shards, learned=True)
    assert weights_sha256(plain) == weights_sha256(beside)
    assert len(publishable_weights(beside)) == shards
    assert "learned.safetensors" not in [file.name for file in publishable_weights(beside)]


def test_train_eval_and_push_give_one_value_for_a_sharded_folder_with_learned_weights(tmp_path):
    folder = write_model(tmp_path, shards=2, learned=True)
    recorded = weights_sha256(folder)
    (folder / "run.json").write_text(json.dumps({"stage": "instruct", "weights_sha256": recorded}))
    assert describe_model(str(folder))["weights_sha256"] == recorded
    check_weights(folder, str(recorded), trained=recorded, evaluations=())


def test_a_changed_weight_changes_the_hash_and_so_does_the_order_of_shards(tmp_path):
    one, two = (write_model(tmp_path / name, shards=2) for name in "ab")
    first, second = sorted(two.glob("*.safetensors"))
    assert weights_sha256(one) == weights_sha256(two)
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    assert weights_sha256(one) != weights_sha256(two)


def test_a_hash_is_of_the_weights_that_lie_there_and_not_of_what_the_record_says(tmp_path):
    folder = write_model(tmp_path)
    (folder / "run.json").write_text(json.dumps({"weights_sha256": "0" * 64, "recipe": "r"}))
    described = describe_model(str(folder))
    assert described["weights_sha256"] == weights_sha256(folder)
    assert described["recipe"] == "r"
    with pytest.raises(DataError, match=r"run\.json was written with weights 000000"):
        check_weights(folder, str(weights_sha256(folder)), trained="0" * 64, evaluations=())


def test_a_hash_of_an_earlier_version_that_counted_learned_weights_still_names_the_folder(tmp_path):
    folder = write_model(tmp_path, shards=2, learned=True)
    earlier = "a0a1"
    assert not is_weights_of(earlier, folder)
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    earlier = digest.hexdigest()
    assert earlier != weights_sha256(folder)
    assert is_weights_of(earlier, folder)
    (folder / "learned.safetensors").write_bytes(b"other")
    assert not is_weights_of(earlier, folder)


def test_a_stray_shard_of_an_earlier_save_is_no_weight(tmp_path):
    plain, stray = (write_model(tmp_path / name, shards=2) for name in "ab")
    (stray / "model-00003-of-00003.safetensors").write_bytes(SAFETENSORS)
    (stray / "model.safetensors").write_bytes(SAFETENSORS)
    assert weights_sha256(plain) == weights_sha256(stray)


def test_a_missing_shard_is_named_by_every_reader(tmp_path):
    folder = write_model(tmp_path, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    for reader in (weights_sha256, publishable_weights, lambda f: describe_model(str(f))):
        with pytest.raises(DataError, match=r"shard model-00002-of-00002\.safetensors"):
            reader(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}'])
def test_an_index_that_names_no_files_of_the_folder_is_an_error(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(DataError, match="no weight_map of file names"):
        weights_files(tmp_path)


def test_a_folder_without_weights_has_no_hash(tmp_path):
    assert weights_sha256(tmp_path) is None
    assert describe_model("org/name") == {"source": "org/name", "weights_sha256": None}


def test_the_commit_is_of_our_own_checkout_and_marks_changes(tmp_path):
    root = checkout(tmp_path / "ours", project="medllava")
    commit = commit_of(root)
    assert commit is not None
    assert len(commit) == 40
    (root / "pyproject.toml").write_text('[project]\nname = "medllava"\nversion = "2"\n')
    assert commit_of(root) == f"{commit}-dirty"


def test_a_repository_of_the_user_around_the_package_has_no_commit_of_ours(tmp_path):
    users = checkout(tmp_path / "users", project="study")
    assert commit_of(users) is None
    inside = users / ".venv" / "lib" / "site-packages"
    inside.mkdir(parents=True)
    assert commit_of(inside) is None


def test_a_hook_of_another_repository_does_not_lend_its_commit(tmp_path, monkeypatch):
    ours, users = (checkout(tmp_path / name, project="medllava") for name in ("ours", "users"))
    (users / "more").write_text("x")
    git(users, "add", "-A")
    git(users, "commit", "-q", "-m", "second")
    expected = commit_of(ours)
    monkeypatch.setenv("GIT_DIR", str(users / ".git"))
    assert commit_of(ours) == expected


def test_a_checkout_that_git_cannot_read_is_unknown_and_not_none(tmp_path, monkeypatch):
    root = checkout(tmp_path / "ours", project="medllava")
    shutil.rmtree(root / ".git" / "objects")
    assert commit_of(root) == UNKNOWN
    monkeypatch.setenv("PATH", "")
    assert commit_of(root) == UNKNOWN


def test_an_installed_package_inside_the_users_repository_reports_no_commit(tmp_path):
    users = checkout(tmp_path / "study", project="study")
    venv.create(users / ".venv", with_pip=False, symlinks=True)
    (packages,) = (users / ".venv/lib").glob("python*/site-packages")
    shutil.copytree(Path(medllava.__file__).parent, packages / "medllava")
    done = subprocess.run(
        [
            users / ".venv/bin/python",
            "-c",
            "from medllava.provenance import *; print(code_commit())",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=users,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.stdout.strip() == "None"
    assert code_commit() is not None  # these tests run from a checkout


def test_provenance_and_layout_need_no_torch():
    code = "import sys, medllava.provenance, medllava.layout; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_versions_name_what_computes_the_numbers():
    versions = package_versions()
    assert versions["medllava"] == medllava.__version__
    assert {"python", "torch", "transformers", "numpy", "pillow"} <= versions.keys()
    assert "flash-attn" not in versions or versions["flash-attn"]


def test_sources_that_anybody_wrote_are_read_leniently():
    (source,) = parse_sources(
        [{"name": "slides", "version": 2, "license": None, "url": "x"}, {}, 3]
    )
    assert (source.title, source.license) == ("slides 2", None)
    assert parse_sources("slides") == ()


def test_sources_that_cannot_be_read_stop_and_are_not_taken_for_none(tmp_path):
    (tmp_path / "SOURCES.json").write_text("[{")
    with pytest.raises(DataError, match=r"SOURCES\.json"):
        trace_sources(tmp_path)


def test_a_gguf_model_is_named_by_both_of_its_files(tmp_path: Path) -> None:
    for name in ("model-f32", "model-q4_1", "mmproj-f32", "mmproj-f16"):
        (tmp_path / f"{name}.gguf").write_bytes(name.encode())
    exact, small = tmp_path / "model-f32.gguf", tmp_path / "model-q4_1.gguf"
    assert gguf_files(exact) == [exact, tmp_path / "mmproj-f32.gguf"]
    assert gguf_files(small) == [small, tmp_path / "mmproj-f16.gguf"]
    before = describe_model(str(small))["weights_sha256"]
    (tmp_path / "mmproj-f16.gguf").write_bytes(b"another")
    assert describe_model(str(small))["weights_sha256"] not in (None, before)


def test_a_gguf_model_without_its_file_or_with_several_picture_parts_is_an_error(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model.gguf"
    with pytest.raises(DataError, match="no such file"):
        gguf_files(model)
    for name in ("model", "mmproj-a", "mmproj-b"):
        (tmp_path / f"{name}.gguf").write_bytes(b"")
    with pytest.raises(DataError, match=r"several picture parts.*mmproj-a\.gguf, mmproj-b\.gguf"):
        gguf_files(model)
