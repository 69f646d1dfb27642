"""The recipes that reproduce papers of stages 4 and 5 train: their own settings, a small model."""

import json
from pathlib import Path

import pytest

from medllava.data.random_records import write_random_preferences, write_random_questions
from medllava.errors import SetupError
from medllava.progress import SilentProgress
from medllava.train.ranks import Ranks
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage
from medllava.train.trl_run import train_by_trl

SMALL = {
    "prefer": {"global_batch_size": 2, "micro_batch_size": 2},
    "reinforce": {"global_batch_size": 2, "micro_batch_size": 8, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start")
    train_stage(
        resolve_config("debug", stage="1", data="random", init="parts", output_dir=out, max_steps=1)
    )
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    questions = write_random_questions(folder / "questions", count=8)
    lines = [json.loads(line) for line in questions.open()]
    for line in lines[::2]:
        line["key_steps"] = [["white", "opaque"], ["fluid"]]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = write_random_preferences(folder / "pairs", count=4)
    return {"prefer": pairs, "reinforce": questions}


@pytest.mark.parametrize(
    ("recipe", "stage", "told"),
    [
        ("povid", "prefer", {"margin"}),
        ("looking-grpo", "reinforce", {"score", "reward_format"}),
        ("r1-vl-steps", "reinforce", {"score", "reward_steps", "reward_reasoning"}),
    ],
)
def test_a_recipe_takes_a_step(
    recipe: str,
    stage: str,
    told: set[str],
    checkpoint: Path,
    data: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = resolve_config(
        recipe,
        stage=stage,
        data=str(data[stage]),
        init=str(checkpoint),
        output_dir=tmp_path,
        max_steps=2,
        overrides=[
            "data.num_workers=0",
            *(f"stage.{stage}.{name}={value}" for name, value in SMALL[stage].items()),
        ],
    )
    assert train_stage(config).complete
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    steps = [record for record in records if "loss" in record]
    assert len(steps) == 2
    assert told <= {name for record in steps for name in record}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["recipe"] == recipe


@pytest.mark.parametrize("stage", ["4", "5"])
def test_several_ranks_are_refused_in_words(stage: str, tmp_path: Path) -> None:
    config = resolve_config(
        "debug", stage=stage, data="random", init="parts", output_dir=tmp_path, max_steps=1
    )
    first_of_two = Ranks(rank=0, world_size=2, is_launched=True)
    with pytest.raises(SetupError, match=r"in one process so far\. Leave out --gpus"):
        train_by_trl(config, first_of_two, SilentProgress())
