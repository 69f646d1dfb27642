from pathlib import Path

import pytest
import torch

from medllava.chat import memory
from medllava.chat.config import ChatConfig
from medllava.chat.memory import Placement, count_weights, needed_bytes, place_model
from medllava.errors import DataError, SetupError
from medllava.model import devices
from medllava.model.loaded import LoadedModel

pytest_plugins = ["chat_colours"]


def test_weights_are_counted_from_the_headers(colour_checkpoint: Path, colour_model: LoadedModel):
    assert count_weights(str(colour_checkpoint)) == sum(
        tensor.numel() for tensor in colour_model.model.state_dict().values()
    )


def test_a_model_that_fits_is_placed(colour_checkpoint: Path):
    config = ChatConfig(checkpoint=str(colour_checkpoint), device="cpu")
    assert place_model(config) == Placement(device="cpu")


def test_too_little_memory_is_said_with_what_would_fit(
    colour_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "count_weights", lambda _: 7_000_000_000)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 17 * 2**30)
    config = ChatConfig(checkpoint=str(colour_checkpoint), device="cpu")
    with pytest.raises(SetupError, match=r"28.9 GiB in float32, and 17.0 GiB") as caught:
        place_model(config)
    assert "--dtype bf16 (14.6 GiB)" in str(caught.value)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2**30)
    with pytest.raises(SetupError, match="--base-url"):
        place_model(config)


def test_a_small_gpu_is_offered_quantized_weights_and_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "count_weights", lambda _: 7_000_000_000)
    monkeypatch.setattr(memory, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(memory, "choose_dtype", lambda *_, **__: torch.bfloat16)
    free = {"cuda": 10 * 2**30, "cpu": 64 * 2**30}
    monkeypatch.setattr(memory, "free_bytes", free.get)
    monkeypatch.setattr(memory, "_all_gpus_free", lambda: free["cuda"])
    with pytest.raises(SetupError) as caught:
        place_model(ChatConfig(checkpoint="x"))
    assert "--load 8bit (8.5 GiB); --load 4bit" in str(caught.value)
    assert "--device cpu --dtype bf16" in str(caught.value)


def test_several_gpus_share_what_one_cannot_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "count_weights", lambda _: 7_000_000_000)
    monkeypatch.setattr(memory, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(memory, "choose_dtype", lambda *_, **__: torch.bfloat16)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10 * 2**30)
    monkeypatch.setattr(memory, "_all_gpus_free", lambda: 20 * 2**30)
    assert place_model(ChatConfig(checkpoint="x")) == Placement(device="cuda", is_spread=True)


def test_fewer_bits_need_less():
    sizes = [
        needed_bytes(10**9, dtype=torch.float32, load=None),
        needed_bytes(10**9, dtype=torch.bfloat16, load=None),
        needed_bytes(10**9, dtype=torch.bfloat16, load="8bit"),
        needed_bytes(10**9, dtype=torch.bfloat16, load="4bit"),
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_an_unknown_hub_id_is_not_checked():
    assert count_weights("nobody/nothing") is None


def test_a_broken_weights_file_is_named(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        count_weights(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(DataError, match="not a safetensors file"):
        count_weights(str(tmp_path))


def test_a_containers_limit_counts(tmp_path: Path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert devices._cgroup_free(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._cgroup_free(tmp_path) is None
    assert devices._cgroup_free(tmp_path / "absent") is None
