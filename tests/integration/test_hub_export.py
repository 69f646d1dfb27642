"""GGUF files are written, served by llama.cpp, asked, and kept only if they answer alike."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_models import build_small, compare_ids
from PIL import Image
from safetensors.torch import load_file, save_file

from medllava.data.random_records import write_random_records
from medllava.errors import DataError, RecipeError, SetupError
from medllava.hub.config import PushConfig
from medllava.hub.export.formats import parse_formats
from medllava.hub.export.gguf_template import llama_cpp_template
from medllava.hub.push import push
from medllava.model.load import load_model, save_model
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

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


def test_every_engine_is_given_the_token_ids_of_training():
    same = compare_ids(build_small("siglip"), count=10)
    assert same == {"transformers": 10, "llama.cpp": 10}


def test_dinov2_is_refused_by_name_with_the_towers_that_work(tmp_path):
    with pytest.raises(
        SetupError, match=r"'dinov2' vision encoder.*graph for it\. SigLIP and SigLIP 2 work"
    ):
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


def test_chat_starts_the_server_of_a_file_itself(tmp_path):
    export(tmp_path / "ckpt", "siglip", "gguf-f32")
    # The same noise in every run: at other pictures the random model ends within a character, and
    # llama.cpp keeps back the bytes of one that is not whole.
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    said = {}
    for source in (tmp_path / "ckpt", tmp_path / "ckpt/export/model-f32.gguf"):
        options = ["--prompt", "What?", "--max-new-tokens", "8", "--ckpt", str(source)]
        done = subprocess.run(
            [sys.executable, "-m", "medllava", "chat", str(tmp_path / "image.png"), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said[source.suffix] = done.stdout
    # The picture is padded by the saved processor: llama.cpp's own bars have another color.
    assert said[".gguf"] == said[""]


def test_eval_asks_a_file_as_it_asks_the_checkpoint(tmp_path):
    from medllava.eval.config import EvalConfig, parse_backend
    from medllava.eval.run import evaluate_task

    export(tmp_path / "ckpt", "siglip", "gguf-f32")
    file = tmp_path / "ckpt/export/model-f32.gguf"
    lines = []
    # Untrained weights part at ties on four of ten pictures (the server keeps its cache in 16
    # bits); on these seeds they do not.
    for number in (0, 1, 4, 5, 6, 7):
        noise = np.random.default_rng(number).normal(128, 90, (30, 40 + 7 * (number % 6)))
        gray = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        gray.convert("RGB").save(tmp_path / f"{number}.png")
        lines.append(
            {"id": f"q{number}", "image": f"{number}.png", "question": "What?", "answer": "no"}
        )
    task = tmp_path / "questions.jsonl"
    task.write_text("".join(json.dumps(line | {"answer_type": "open"}) + "\n" for line in lines))
    texts, reports = {}, {}
    for source in (str(tmp_path / "ckpt"), str(file)):
        kind, _ = parse_backend("transformers", checkpoint=source)
        out = tmp_path / f"eval-{kind.value}"
        evaluate_task(
            EvalConfig(task=str(task), checkpoint=source, backend=kind, output_dir=out, draws=100)
        )
        texts[kind] = [json.loads(line)["text"] for line in (out / "predictions.jsonl").open()]
        reports[kind] = json.loads((out / "report.json").read_text())
    ours, theirs = texts.values()
    assert len(ours) == 6
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 5
    model = reports[kind]["model"]
    assert model["source"] == str(file)
    assert model["weights_sha256"] not in (None, reports["transformers"]["model"]["weights_sha256"])
    assert reports[kind]["decoding"]["backend"] == "llama.cpp"


@pytest.fixture(scope="module")
def adapted_run(tmp_path_factory):
    """A finished stage 2 with an adapter, on a finished stage 1."""
    folder = tmp_path_factory.mktemp("adapted")
    data = write_random_records(folder / "data", count=8)
    for stage, init in (("1", "parts"), ("2", str(folder / "1"))):
        overrides = ["checkpoint.every_steps=9", "stage.instruct.adapter=lora"]
        overrides += ["stage.instruct.lora_rank=4", "stage.instruct.learning_rate=0.05"]
        train_stage(
            resolve_config(
                "debug",
                stage=stage,
                data=str(data),
                init=init,
                output_dir=folder / stage,
                max_steps=4,
                overrides=overrides,
            )
        )
    return folder


def test_an_adapter_leaves_alone_and_answers_on_its_model_as_the_checkpoint(adapted_run, tmp_path):
    config = PushConfig(folder=adapted_run / "2", exports=("adapter",), output_dir=tmp_path)
    parity = push(config).details["exports"][0]["parity"]
    assert parity["same_text"] == parity["same_answers"] == parity["prompts"] == 12
    names = sorted(p.name for p in (tmp_path / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    named = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "1"  # no folder of this machine
    weights = load_model(str(adapted_run / "2"), device="cpu").model.state_dict()
    found = load_model(f"{tmp_path}/adapter+{adapted_run}/1", device="cpu").model.state_dict()
    assert all((found[name] - tensor).abs().max() < 1e-6 for name, tensor in weights.items())
    base = load_model(str(adapted_run / "1"), device="cpu").model.state_dict()
    assert any((base[name] - tensor).abs().max() > 1e-3 for name, tensor in weights.items())
    assert "adapter+MODEL" in (tmp_path / "README.md").read_text()


def test_an_adapter_is_staged_beside_the_model_without_a_path_of_this_machine(
    adapted_run, tmp_path
):
    config = PushConfig(
        folder=adapted_run / "2",
        repo_id="tester/tiny",
        exports=("adapter",),
        output_dir=tmp_path / "push",
        dry_run=True,
        load_check=False,
    )
    push(config)
    staged = tmp_path / "push/export/adapter"
    assert (staged / "adapter_model.safetensors").is_file()
    assert str(adapted_run) not in (staged / "adapter_config.json").read_text()
    assert "adapter+MODEL" in (tmp_path / "push/README.md").read_text()


def test_an_adapter_that_is_not_the_checkpoints_is_refused(adapted_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapted_run / "2", run)
    weights = run / "adapter/adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: 3 * tensor for name, tensor in tensors.items()}, weights)
    with pytest.raises(DataError, match="does not answer as the checkpoint does"):
        push(PushConfig(folder=run, exports=("adapter",)))
    assert not (run / "export/adapter").exists()


def test_a_run_without_an_adapter_or_without_its_model_says_so(adapted_run, tmp_path):
    with pytest.raises(DataError, match=r'no adapter/.*adapter = "lora"'):
        push(PushConfig(folder=adapted_run / "1", exports=("adapter",)))
    run = tmp_path / "run"
    shutil.copytree(adapted_run / "2", run)
    file = run / "adapter/adapter_config.json"
    gone = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}
    file.write_text(json.dumps(gone))
    with pytest.raises(SetupError, match="cannot be compared with the checkpoint"):
        push(PushConfig(folder=run, exports=("adapter",)))
    assert not (run / "export/adapter").exists()


def test_8_bit_floats_are_a_checkpoint_that_loads_and_answers(tmp_path):
    pytest.importorskip("compressed_tensors", reason="an extra: medllava[fp8]")
    summary = export(tmp_path, "siglip", "fp8")
    parity = summary.details["exports"][0]["parity"]
    assert parity["same_text"] == parity["prompts"] == 12
    stored = load_file(tmp_path / "export/fp8/model.safetensors")
    eight = {name for name, tensor in stored.items() if tensor.dtype is torch.float8_e4m3fn}
    assert eight
    assert all("language_model." in name and name.endswith("proj.weight") for name in eight)
    assert all(name.replace("weight", "weight_scale") in stored for name in eight)
    config = json.loads((tmp_path / "export/fp8/config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


def test_8_bit_floats_with_a_wrong_scale_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("compressed_tensors", reason="an extra: medllava[fp8]")
    monkeypatch.setattr("medllava.hub.export.fp8._largest_float8", lambda: 4 * 448.0)
    with pytest.raises(DataError, match="read back are not the checkpoint's"):
        export(tmp_path, "siglip", "fp8")
    assert not (tmp_path / "export/fp8").exists()
