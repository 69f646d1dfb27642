"""GGUF files are written, served by llama.cpp, asked, and kept only if they answer alike."""

import json
import os
import subprocess
import sys

import pytest
from export_models import build_small
from PIL import Image

from medllava.errors import DataError, RecipeError, SetupError
from medllava.hub.config import PushConfig
from medllava.hub.export.formats import parse_formats
from medllava.hub.export.gguf_template import llama_cpp_template
from medllava.hub.push import push
from medllava.model.load import save_model

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.timeout(240)


def export(folder, tower, *formats, language="llama"):
    save_model(build_small(tower, language=language), folder)
    return push(PushConfig(folder=folder, exports=formats))


@pytest.mark.parametrize(
    ("tower", "language"),
    [
        ("siglip", "llama"),
        ("siglip2", "llama"),
        ("siglip-last-layer", "mistral"),
        ("siglip", "qwen2"),
        ("siglip", "qwen3"),
    ],
)
def test_llama_cpp_answers_token_by_token_as_transformers(tmp_path, tower, language):
    summary = export(tmp_path, tower, "gguf-f32", language=language)
    parity = summary.details["exports"][0]["parity"]
    assert parity["same_text"] == parity["prompts"] == 12
    assert parity["same_answers"] + parity["ties"] == 12
    assert parity["same_answers"] >= 9
    assert (tmp_path / "export/model-f32.gguf").is_file()
    modelfile = (tmp_path / "export/Modelfile").read_text()
    assert modelfile == "FROM ./model-f32.gguf\nFROM ./mmproj-f32.gguf\n"


def test_fewer_bits_make_smaller_files_and_their_cost_is_written_down(tmp_path):
    summary = export(tmp_path, "siglip", "gguf-f16", "gguf", "gguf-q4_1")
    names = [made["name"] for made in summary.details["exports"]]
    assert names == ["gguf-f16", "gguf-q8_0", "gguf-q4_1"]
    sizes = [(tmp_path / f"export/model-{n.split('-')[1]}.gguf").stat().st_size for n in names]
    assert sizes == sorted(sizes, reverse=True)
    card = (tmp_path / "export/README.md").read_text()
    for made in summary.details["exports"]:
        assert f"{made['parity']['same_answers']} of 12" in card
    assert not (tmp_path / "export/.proof").exists()


def test_files_that_answer_otherwise_are_removed(tmp_path):
    with pytest.raises(DataError, match="does not answer as transformers does"):
        export(tmp_path, "clip-pad", "gguf")
    assert not list((tmp_path / "export").glob("*.gguf"))


def test_a_wrong_weight_in_the_file_is_noticed(tmp_path, monkeypatch):
    """The comparison must see what a broken writer does: rotary rows left as they are."""
    monkeypatch.setattr("medllava.hub.export.gguf_language._interleave", lambda t, _: t.float())
    with pytest.raises(DataError, match="does not answer as transformers does"):
        export(tmp_path, "siglip", "gguf-f32")


def test_a_line_break_lost_around_a_picture_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("medllava.hub.export.gguf_vocabulary.llama_cpp_template", lambda t: t)
    with pytest.raises(DataError, match=r"and 2 prompts agree in float32"):
        export(tmp_path, "siglip", "gguf-f32")


def test_dinov2_is_refused_by_name_with_the_towers_that_work(tmp_path):
    with pytest.raises(SetupError, match=r"'dinov2' vision encoder.*graph for it\. SigLIP and SigLIP 2 work"):
        export(tmp_path, "dinov2", "gguf")


def test_unknown_formats_and_missing_packages_have_their_errors(monkeypatch):
    with pytest.raises(RecipeError, match="expected one of gguf"):
        parse_formats(["onnx"])
    with pytest.raises(SetupError, match="llmcompressor"):
        parse_formats(["awq"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'medllava\[gguf\]'"):
        parse_formats(["gguf"])


def test_a_template_that_is_not_ours_is_refused():
    with pytest.raises(SetupError, match="not one of medllava's"):
        llama_cpp_template("{{ messages[0]['content'] }}")


def test_the_command_writes_files_without_a_repository_and_prints_one_object(tmp_path):
    save_model(build_small("siglip"), tmp_path / "ckpt")
    command = [sys.executable, "-m", "medllava", "push", str(tmp_path / "ckpt")]
    done = subprocess.run(
        [*command, "--export", "gguf-f32", "-o", str(tmp_path / "out"), "--json"],
        env={k: v for k, v in os.environ.items() if k != "HF_TOKEN"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["summary"]["exports"][0]["name"] == "gguf-f32"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "Modelfile",
        "README.md",
        "mmproj-f32.gguf",
        "model-f32.gguf",
        "preprocessor_config.json",
    ]


def test_chat_can_ask_the_served_file(tmp_path):
    from medllava.llm.llama_server import llama_server

    export(tmp_path / "ckpt", "siglip", "gguf-f32")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "image.png")
    files = tmp_path / "ckpt/export"
    with llama_server(files / "model-f32.gguf", vision=files / "mmproj-f32.gguf") as address:
        image = str(tmp_path / "image.png")
        options = ["--base-url", f"{address}/v1", "--prompt", "What?"]
        options += ["--ckpt", str(tmp_path / "ckpt")]
        done = subprocess.run(
            [sys.executable, "-m", "medllava", "chat", image, *options],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
