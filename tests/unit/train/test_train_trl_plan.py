"""The plan of stages 4 and 5 counts what they do beside learning."""

import pytest

from medllava.model.shapes import read_shape
from medllava.recipe import load_recipe
from medllava.records import Stage
from medllava.train.planning.costs import GPUS
from medllava.train.planning.plan import Plan
from medllava.train.planning.trl_plan import plan_trl


def plan_of(stage: Stage, *overrides: str) -> Plan:
    recipe = load_recipe("llava-med-v1.5", overrides=overrides)
    return plan_trl(
        recipe,
        stage,
        read_shape(recipe.model),
        data=None,
        gpu=GPUS["H100"],
        max_steps=None,
        cpu=None,
    )


def test_the_reference_reads_every_pair_once() -> None:
    once, thrice = plan_of(Stage.PREFER), plan_of(Stage.PREFER, "stage.prefer.epochs=3")
    assert "reads all 17,000 pairs once" in once.notes[-1]
    assert once.batches.num_steps == pytest.approx(17_000 / 32, abs=1)
    assert once.parts[2].learns == "lora"
    learning = (thrice.flops - once.flops) / 2
    assert 0.3 < (once.flops - learning) / learning < 0.55  # forward of forward and backward


def test_answers_are_counted_and_a_kept_model_takes_memory() -> None:
    plain, near = plan_of(Stage.REINFORCE), plan_of(Stage.REINFORCE, "stage.reinforce.kl=0.1")
    assert "8 to a question" in plain.notes[-1]
    assert plain.batches.num_steps == pytest.approx(4_919 / 16, abs=1)
    assert "reference" not in plain.chosen.memory_bytes
    assert near.chosen.memory_bytes["reference"] > 14 * 10**9  # 7B in bf16
    assert near.flops > plain.flops
