"""One process, end to end on the debug recipe: exact, resumable, and orderly when it must end."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from at_step import AtStep
from safetensors.torch import load_file

from medllava.data.random_records import write_random_records
from medllava.errors import DataError
from medllava.model.load import load_model
from medllava.train.config import StageRunConfig
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

pytestmark = pytest.mark.timeout(280)
STEPS = 8
GOLDEN = Path(__file__).parents[1] / "fixtures" / "debug_losses.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_records(tmp_path_factory.mktemp("data"), count=32)


def config_of(
    data: Path, output_dir: Path, *overrides: str, stage: str = "2", **changes: object
) -> StageRunConfig:
    config = resolve_config(
        "debug",
        stage=stage,
        data=str(data),
        init="parts",
        output_dir=output_dir,
        max_steps=STEPS,
        overrides=["checkpoint.every_steps=2", *overrides],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_bitwise(first: Path, second: Path) -> None:
    assert losses(first) == losses(second)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train_stage(config_of(data, folder))
    return folder


def test_losses_are_the_recorded_ones(undisturbed: Path) -> None:
    recorded = json.loads(GOLDEN.read_text())
    # Kernels of other machines round differently; a change of the mathematics shows in 1e-3.
    assert losses(undisturbed) == pytest.approx(recorded, abs=1e-4)


def test_the_run_says_where_everything_came_from(undisturbed: Path) -> None:
    run = json.loads((undisturbed / "run.json").read_text())
    assert run["command"] in (undisturbed / "README.md").read_text()
    assert run["weights_sha256"] in (undisturbed / "README.md").read_text()
    assert run["complete"]
    assert run["data"]["by_license"] == {"CC0-1.0": run["data"]["used"]}
    assert run["data"]["sources"] == []
    assert run["tokens"] == sum(
        json.loads(line)["tokens"] for line in (undisturbed / "metrics.jsonl").open()
    )
    assert (
        json.loads((undisturbed / "metrics.jsonl").read_text().splitlines()[0])["tflops_per_device"]
        > 0
    )


def test_eight_steps_are_four_a_kill_and_four_more_bitwise(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise StopError

    config = config_of(data, tmp_path / "out")
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(5, stop))  # one step after the last checkpoint
    assert losses(config.output_dir) != []
    train_stage(config)
    assert_bitwise(config.output_dir, undisturbed)


def test_kills_at_random_moments_change_nothing(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "medllava", "train", "debug", "--stage", "2"]
    command += ["--data", str(data), "--init", "parts", "-o", str(tmp_path / "out")]
    command += ["--max-steps", str(STEPS), "--set", "checkpoint.every_steps=2", "--quiet"]
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        wanted = chance.randrange(1, STEPS)
        metrics = tmp_path / "out" / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_bytes().splitlines()) >= wanted:
                time.sleep(chance.random() * 0.05)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_bitwise(tmp_path / "out", undisturbed)


def test_sigterm_saves_and_the_next_run_goes_on_bitwise(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    config = config_of(data, tmp_path / "out", "checkpoint.every_steps=100")
    stop = AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    summary = train_stage(config, progress=stop)
    assert not summary.complete
    assert summary.counts["steps_done"] == 4  # heard when the next step is done
    assert "asked" in summary.details["stopped_by"]
    load_model(str(summary.artifacts["checkpoint"]))  # whole by itself
    assert train_stage(config_of(data, tmp_path / "out", "checkpoint.every_steps=100")).complete
    assert_bitwise(tmp_path / "out", undisturbed)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    config = config_of(data, tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model_bytes = (undisturbed / "model.safetensors").stat().st_size

    def fill() -> None:  # no file may grow beyond half a model from here on
        resource.setrlimit(resource.RLIMIT_FSIZE, (model_bytes // 2, limits[1]))

    try:
        summary = train_stage(config, progress=AtStep(3, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not summary.complete
    assert summary.counts["steps_done"] == 2
    assert "no space left" in summary.details["stopped_by"]
    assert [p.name for p in (config.output_dir / "checkpoints").iterdir()] == ["step-2"]
    assert train_stage(config).complete
    assert_bitwise(config.output_dir, undisturbed)


def test_the_first_stage_moves_the_projector_only(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    train_stage(config_of(data, start, stage="1", max_steps=1))  # warm-up: the rate is still 0
    end = tmp_path / "end"
    train_stage(config_of(data, end, stage="1", init=str(start)))
    before, after = weights(start), weights(end)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) is ("multi_modal_projector" not in name), name


def test_packed_padded_and_split_batches_learn_the_same(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    def run(name: str, *overrides: str) -> Path:
        train_stage(config_of(data, tmp_path / name, *overrides))
        return tmp_path / name

    packed = undisturbed
    at_once = run("4x1", "data.packing=false", "stage.instruct.micro_batch_size=4")
    in_turn = run("1x4", "data.packing=false", "stage.instruct.micro_batch_size=1")
    # A mean per batch instead of per supervised token would differ in the second digit.
    assert losses(at_once) == pytest.approx(losses(in_turn), abs=3e-6)
    assert losses(packed) == pytest.approx(losses(in_turn), abs=3e-6)
    for name, tensor in weights(in_turn).items():
        torch.testing.assert_close(weights(at_once)[name], tensor, atol=3e-5, rtol=0)
        torch.testing.assert_close(weights(packed)[name], tensor, atol=3e-5, rtol=0)


def test_gradient_checkpointing_changes_memory_only(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    train_stage(config_of(data, tmp_path / "out", "train.gradient_checkpointing=true"))
    assert losses(tmp_path / "out") == pytest.approx(losses(undisturbed), abs=1e-6)


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_an_adapter_resumes_bitwise_and_is_merged(data: Path, tmp_path: Path, adapter: str) -> None:
    for package in ("peft", "bitsandbytes"):
        pytest.importorskip(package, reason="adapters are extras: medllava[lora,quantize]")
    overrides = (f"stage.instruct.adapter={adapter}", "stage.instruct.lora_rank=4")

    def stop() -> None:
        raise StopError

    train_stage(config_of(data, tmp_path / "whole", *overrides))
    config = config_of(data, tmp_path / "parts", *overrides)
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(5, stop))
    checkpoint = config.output_dir / "checkpoints" / "step-4"
    assert any("multi_modal_projector.linear_1" in name for name in weights(checkpoint))
    load_model(str(checkpoint))
    train_stage(config)
    assert_bitwise(config.output_dir, tmp_path / "whole")
    assert not any("lora" in name for name in weights(config.output_dir))


@pytest.mark.parametrize("setting", ["train.precision=fp32", "train.precision=bf16", "lora"])
def test_steps_by_standardized_features_resume_bitwise(
    undisturbed: Path, data: Path, tmp_path: Path, setting: str
) -> None:
    overrides = ["model.projector.standardize_features=true"]
    if setting == "lora":
        pytest.importorskip("peft", reason="adapters are an extra: medllava[lora]")
        overrides += ["stage.instruct.adapter=lora", "stage.instruct.lora_rank=4"]
    else:
        overrides.append(setting)

    def stop() -> None:
        raise StopError

    train_stage(config_of(data, tmp_path / "whole", *overrides))
    config = config_of(data, tmp_path / "parts", *overrides)
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(5, stop))
    train_stage(config)
    assert_bitwise(config.output_dir, tmp_path / "whole")
    assert losses(config.output_dir) != losses(undisturbed)


def test_held_out_loss_is_measured_and_changes_nothing(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    config = config_of(data, tmp_path / "out", validation_data=data)
    train_stage(config)
    records = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").open()]
    held_out = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
    assert list(held_out) == [2, 4, 6, 8]
    # The training records themselves: their mean loss falls as the losses of the steps do.
    assert held_out[2] > held_out[4] > held_out[6] > held_out[8]
    assert held_out[8] == pytest.approx(losses(undisturbed)[-1], abs=0.15)
    assert weights(config.output_dir).keys() == weights(undisturbed).keys()
    assert (config.output_dir / "model.safetensors").read_bytes() == (
        undisturbed / "model.safetensors"
    ).read_bytes()
    assert json.loads((config.output_dir / "run.json").read_text())["validation_loss"] > 0


def test_another_request_in_the_same_folder_is_refused(undisturbed: Path, data: Path) -> None:
    changed = config_of(data, undisturbed, "stage.instruct.learning_rate=0.5")
    with pytest.raises(DataError, match=r"settings\.learning_rate was 0\.001, now 0\.5"):
        train_stage(changed)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    folder = Path(sys.argv[1])
    train_stage(config_of(write_random_records(folder / "data", count=32), folder / "out"))
    GOLDEN.write_text(json.dumps(losses(folder / "out")) + "\n")
