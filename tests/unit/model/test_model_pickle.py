"""Pickled weights are never opened; the converter is the way round."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_factory import HIDDEN, WIDTH, old_layout, tiny_clip, tiny_mistral, write_checkpoint
from safetensors.torch import load_file
from torch import nn

from medllava.errors import SetupError
from medllava.model.load import load_model
from medllava.model.parts import load_language_model, load_vision_encoder
from medllava.model.to_safetensors import convert_to_safetensors
from medllava.recipe import LanguageModelConfig, VisionEncoderConfig

REFUSED = r"are pickles.*python -m medllava\.model\.to_safetensors"


def pickled(folder: Path) -> Path:
    """Turn a folder's safetensors into two pickles with an index, as older checkpoints have."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for file, keys in files.items():
        torch.save({name: tensors[name] for name in keys}, folder / file)
    index = {"metadata": {}, "weight_map": {k: f for f, keys in files.items() for k in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def old_checkpoint(folder: Path) -> Path:
    projector = nn.Linear(WIDTH, HIDDEN).state_dict()
    tensors = old_layout(tiny_mistral(), tiny_clip(), projector)
    config = {"model_type": "llava_mistral", "mm_vision_tower": "openai/clip-vit-large-patch14"}
    return write_checkpoint(folder, tensors, config)


def test_every_kind_of_source_is_refused_with_the_way_round(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=REFUSED):
        load_model(str(pickled(old_checkpoint(tmp_path / "old"))), device="cpu")
    tiny_mistral().save_pretrained(tmp_path / "text")
    text = LanguageModelConfig(source=str(pickled(tmp_path / "text")))
    with pytest.raises(SetupError, match=REFUSED):
        load_language_model(text, seed=0, dtype=torch.float32)
    tiny_clip().save_pretrained(tmp_path / "clip")
    vision = VisionEncoderConfig(source=str(pickled(tmp_path / "clip")))
    with pytest.raises(SetupError, match=REFUSED):
        load_vision_encoder(vision, seed=0, dtype=torch.float32)


def test_converted_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    expected = load_model(str(old_checkpoint(tmp_path / "a")), device="cpu").model.state_dict()
    source = pickled(old_checkpoint(tmp_path / "b"))
    result = subprocess.run(
        [sys.executable, "-m", "medllava.model.to_safetensors", source, tmp_path / "converted"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(tmp_path / "converted")
    got = load_model(str(tmp_path / "converted"), device="cpu").model.state_dict()
    names = {n for n, t in expected.items() if "projector" not in n and t.shape == got[n].shape}
    assert len(names) > 30
    assert all(torch.equal(got[name], expected[name]) for name in names)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("opened",))


def test_pickle_that_holds_more_than_tensors_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload()}))
    with pytest.raises(SetupError, match=r"weights-only reader refuses"):
        convert_to_safetensors(str(tmp_path), tmp_path / "out")
    assert capsys.readouterr().out == ""
    with pytest.raises(SetupError, match=r"no pytorch_model\.bin"):
        convert_to_safetensors(str(tmp_path / "out"), tmp_path / "out2")
