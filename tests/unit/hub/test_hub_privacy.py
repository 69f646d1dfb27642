"""Paths and secrets of a machine stay on it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medllava.hub.privacy import find_private, find_secret, hide_paths


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ("/home/alice/runs/stage 2", "stage 2"),
        ("/scratch/proj/x.json", "x.json"),
        ("~/data/figures", "figures"),
        ("C:\\Users\\alice\\ckpt", "ckpt"),
        (
            "medllava eval vqarad --ckpt /home/alice/c -o /tmp/out",
            "medllava eval vqarad --ckpt c -o out",
        ),
        ("https://example.org/home/alice", "https://example.org/home/alice"),
        ("org/model", "org/model"),
        ("a/b /c", "a/b /c"),
        ({"/root/x/y": ["/mnt/d/e", 3, None]}, {"y": ["e", 3, None]}),
    ],
)
def test_only_the_last_component_of_a_machine_path_is_kept(value, hidden):
    assert hide_paths(value) == hidden


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_hiding_twice_is_hiding_once(value):
    once = hide_paths(value)
    assert hide_paths(once) == once


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x hf_" + "a1" * 17, "a Hugging Face token"),
        ("key=sk-proj-" + "b" * 30, "an API key"),
        ("ghp_" + "c" * 36, "a GitHub token"),
        ("AKIA" + "D" * 16, "an AWS key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("hf_hub and sk-learn and AKIA", None),
    ],
)
def test_secrets_are_seen_by_their_shape(text, kind):
    assert find_secret(text) == kind


def test_findings_name_the_file_and_never_the_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("CLINIC_TOKEN", "not-shaped-like-any-key")
    (tmp_path / "a.md").write_text("our not-shaped-like-any-key here")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c.json").write_text('{"p": "/scratch/alice/x"}')
    (tmp_path / "fine.json").write_text('{"p": "x", "url": "https://x.org/home/y/z"}')
    found = {finding.file: finding.what for finding in find_private(tmp_path)}
    assert found == {
        "a.md": "a secret from this environment",
        "b/c.json": "the path /scratch/alice/x",
    }


def test_vocabularies_may_hold_words_that_look_like_paths(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"vocab": ["/home/x"]}')
    assert list(find_private(tmp_path)) == []
    (tmp_path / "tokenizer.json").write_text(f'{{"dir": "{tmp_path}/x"}}')
    assert [f.file for f in find_private(tmp_path, roots=(tmp_path,))] == ["tokenizer.json"]


def test_metadata_of_weights_is_searched(tmp_path):
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "model.safetensors", metadata={"from": "/home/alice/base"})
    assert [f.what for f in find_private(tmp_path)] == ["the path /home/alice/base"]


def test_home_itself_is_private(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/export/people/alice"))
    (tmp_path / "a.txt").write_text("in /export/people/alice/x")
    assert [f.what for f in find_private(tmp_path)] == ["the path /export/people/alice"]
