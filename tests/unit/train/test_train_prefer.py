"""Stage 4 on the debug model: loss against one written by hand, exact resume, what is recorded."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from at_step import AtStep
from safetensors.torch import load_file
from torch.nn.functional import log_softmax, logsigmoid

from medllava.data.random_records import write_random_preferences
from medllava.errors import DataError, RecipeError, SetupError
from medllava.progress import SilentProgress
from medllava.train import trl_run
from medllava.train.arguments import argument_values
from medllava.train.config import StageRunConfig
from medllava.train.prefer import PreferJob, PreferTrainer
from medllava.train.preference_pairs import lay_out_pairs
from medllava.train.ranks import Ranks
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage
from medllava.train.settings import machine_settings

pytestmark = pytest.mark.timeout(200)
SILENT = SilentProgress()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_preferences(tmp_path_factory.mktemp("pairs"), count=12)


def config_of(data: Path, output_dir: Path, *overrides: str, **changes: object) -> StageRunConfig:
    config = resolve_config(
        "debug",
        stage="4",
        data=str(data),
        init="parts",
        output_dir=output_dir,
        max_steps=6,
        overrides=[
            "stage.prefer.global_batch_size=4",
            "stage.prefer.micro_batch_size=2",
            "stage.prefer.learning_rate=3e-3",
            "stage.prefer.lora_rank=4",
            "checkpoint.every_steps=2",
            *overrides,
        ],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def make_trainer(config: StageRunConfig, stack: ExitStack) -> tuple[PreferTrainer, PreferJob]:
    settings = machine_settings(
        config.recipe,
        config.recipe.stage[config.stage],
        world_size=1,
        has_cuda=False,
        is_half=False,
    )
    loaded = trl_run._load(config, settings, None)
    job = PreferJob.of(config, loaded, SILENT)
    plan = trl_run._plan(config, Ranks(), settings, job, stack, done=0, progress=SILENT)
    arguments = argument_values(
        config.recipe,
        config.stage,
        settings,
        output_dir=config.output_dir,
        num_steps=job.num_steps,
        accumulation=1,
    )
    trainer = job.make_trainer(loaded, arguments, plan)
    assert isinstance(trainer, PreferTrainer)
    return trainer, job


@torch.no_grad()
def likelihood(model: torch.nn.Module, side: object, pixels: torch.Tensor) -> torch.Tensor:
    """One reply, alone and without padding, through the plain forward pass."""
    ids = torch.from_numpy(side.input_ids)[None]  # type: ignore[attr-defined]
    logits = model(input_ids=ids, pixel_values=pixels).logits
    said = log_softmax(logits[0, :-1].double(), dim=-1)
    each = said.gather(1, ids[0, 1:, None])[:, 0]
    return each[torch.from_numpy(side.is_reply)[1:]].sum()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("adapter", "loss"), [("none", "sigmoid"), ("lora", "hinge")])
def test_loss_is_that_of_a_hand_written_dpo(
    data: Path, tmp_path: Path, adapter: str, loss: str
) -> None:
    config = config_of(
        data,
        tmp_path,
        f"stage.prefer.adapter={adapter}",
        f"stage.prefer.loss={loss}",
        "stage.prefer.micro_batch_size=4",
        "stage.prefer.beta=0.3",
    )
    with ExitStack() as stack:
        trainer, job = make_trainer(config, stack)
        model, batches = trainer._module.eval(), trainer._batches
        numbers = batches.numbers(0)
        pairs = [job.pairs.pairs[number] for number in numbers]
        pixels = [batches._pixels.read(pair.images) for pair in pairs]
        sides = [(pair.chosen, pair.rejected) for pair in pairs]
        before = [
            [likelihood(model, side, shown) for side in both]
            for both, shown in zip(sides, pixels, strict=True)
        ]
        torch.manual_seed(1)
        with torch.no_grad():  # a policy that has moved away from its reference
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        after = [
            [likelihood(model, side, shown) for side in both]
            for both, shown in zip(sides, pixels, strict=True)
        ]
        margins = torch.stack(
            [0.3 * ((a[0] - b[0]) - (a[1] - b[1])) for a, b in zip(after, before, strict=True)]
        )
        assert len(set(margins.tolist())) == 4
        assert margins.abs().min() > 1e-3
        by_hand = {"sigmoid": -logsigmoid(margins), "hinge": torch.relu(1 - margins)}[loss]
        found = trainer.compute_loss(model, trainer._prepare_inputs(batches[0]))
        torch.testing.assert_close(found.double(), by_hand.mean(), rtol=1e-4, atol=1e-4)


def test_both_replies_share_prompt_and_pictures(data: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        trainer, job = make_trainer(config_of(data, tmp_path), stack)
        tokenizer = trainer._loaded.processor.tokenizer
        for pair in job.pairs.pairs:
            prompts = [
                s.input_ids[: int(s.is_reply.argmax())] for s in (pair.chosen, pair.rejected)
            ]
            assert prompts[0].tolist() == prompts[1].tolist()
            said = tokenizer.decode(pair.chosen.input_ids[pair.chosen.is_reply])
            assert said.startswith("normal ")
            assert said.endswith(tokenizer.eos_token)
        batch = trainer._batches[0]
        assert batch["input_ids"].shape[0] == 2 * len(batch["pair"]) == len(batch["pixel_values"])
        half = len(batch["pair"])
        assert torch.equal(batch["pixel_values"][:half], batch["pixel_values"][half:])


class Killed(BaseException):
    pass


def kill() -> None:
    """End the run in the middle of a step, as a kill does."""
    raise Killed


def records(folder: Path) -> list[dict[str, object]]:
    timed = {"seconds", "tokens_per_second", "loader_wait_share", "memory_gib", "tflops_per_device"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_killed_and_gone_on_is_never_killed(data: Path, tmp_path: Path, adapter: str) -> None:
    options = (f"stage.prefer.adapter={adapter}",)
    held_out = write_random_preferences(tmp_path / "held-out", count=4, seed=5)
    whole = config_of(data, tmp_path / "whole", *options, validation_data=held_out)
    train_stage(whole)
    parts = config_of(data, tmp_path / "parts", *options, validation_data=held_out)
    with pytest.raises(Killed):
        train_stage(parts, progress=AtStep(5, kill))
    assert not (parts.output_dir / "run.json").exists()
    train_stage(parts)
    assert records(whole.output_dir) == records(parts.output_dir)
    first, second = (load_file(f.output_dir / "model.safetensors") for f in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_run_leaves(data: Path, tmp_path: Path) -> None:
    held_out = write_random_preferences(tmp_path / "held-out", count=6, seed=5)
    config = config_of(data, tmp_path / "run", validation_data=held_out, max_steps=12)
    summary = train_stage(config)
    assert summary.complete
    run = json.loads((config.output_dir / "run.json").read_text())
    assert run["stage"] == "prefer"
    assert run["data"]["by_rejection"] == {"rule:random": 12}
    assert run["measures"]["preferred_first"] == 0.5
    assert run["measures"]["preferred_last"] > 0.75
    assert "Held-out pairs preferred" in (config.output_dir / "report.html").read_text()
    assert "| preferred first | 0.5 |" in (config.output_dir / "README.md").read_text()
    assert not (config.output_dir / "checkpoints").exists()


def test_a_lost_reference_ends_the_run(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path)
    with pytest.raises(Killed):
        train_stage(config, progress=AtStep(3, kill))
    (tmp_path / "reference.safetensors").unlink()
    with pytest.raises(DataError, match="--no-resume"):
        train_stage(config)


def test_a_batch_that_cannot_be_divided_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"micro_batch_size=3 .*global_batch_size=4"):
        config_of(data, tmp_path, "stage.prefer.micro_batch_size=3")
    assert not any(tmp_path.iterdir())


def test_a_missing_extra_says_how_to_install_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_run.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"pip install 'medllava\[rl\]'"):
        train_stage(config_of(data, tmp_path))


def test_every_pass_goes_over_all_pairs() -> None:
    order = lay_out_pairs(10, per_step=5, epochs=2, max_steps=None, seed=3)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert order == lay_out_pairs(10, per_step=5, epochs=2, max_steps=None, seed=3)
