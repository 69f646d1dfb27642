"""Stage 5 on the debug model: advantages by hand, other pictures, rewards, exact resume."""

import json
import random
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from at_step import AtStep
from safetensors.torch import load_file

from medllava.data.benchmarks.questions import load_asked
from medllava.data.other_pictures import OtherPictures
from medllava.data.random_records import write_random_questions
from medllava.errors import DataError, RecipeError
from medllava.progress import SilentProgress
from medllava.recipe import RewardConfig
from medllava.records import AnswerType, Question
from medllava.train import rewards, trl_run
from medllava.train.arguments import argument_values
from medllava.train.config import StageRunConfig
from medllava.train.ranks import Ranks
from medllava.train.reinforce import ReinforceJob
from medllava.train.resolve import resolve_config
from medllava.train.rewards import Showing
from medllava.train.run import train_stage
from medllava.train.settings import machine_settings
from medllava.train.showings import lay_out
from tests.unit.train.test_train_prefer import Killed, kill, records

pytestmark = pytest.mark.timeout(200)
SILENT = SilentProgress()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_questions(tmp_path_factory.mktemp("questions"), count=12)


def config_of(data: Path, output_dir: Path, *overrides: str, **changes: object) -> StageRunConfig:
    config = resolve_config(
        "debug",
        stage="5",
        data=str(data),
        init="parts",
        output_dir=output_dir,
        max_steps=4,
        overrides=[
            "stage.reinforce.global_batch_size=4",
            "stage.reinforce.micro_batch_size=8",
            "stage.reinforce.generations=4",
            "stage.reinforce.max_new_tokens=5",
            "stage.reinforce.learning_rate=3e-3",
            "stage.reinforce.rewards.format=0.5",
            "stage.reinforce.rewards.looking=0.5",
            "checkpoint.every_steps=2",
            *overrides,
        ],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def question(number: int, answer: str, **changes: object) -> Question:
    values = {
        "id": str(number),
        "image": f"{number}.png",
        "question": "Which part is this?",
        "answer": answer,
        "answer_type": AnswerType.OPEN,
        "modality": "mri",
        **changes,
    }
    return Question(**values)  # type: ignore[arg-type]


def test_advantages_are_those_computed_by_hand(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards are made to differ by what is said, so that every group has something to learn."""
    worth = lambda _, reply: (len(reply.encode()) % 5) / 4  # noqa: E731
    monkeypatch.setattr(rewards, "score_reply", worth)
    config = config_of(data, tmp_path, "stage.reinforce.rewards.format=0.0")
    settings = machine_settings(
        config.recipe, config.recipe.stage.reinforce, world_size=1, has_cuda=False, is_half=False
    )
    loaded = trl_run._load(config, settings, None)
    job = ReinforceJob.of(config, settings, SILENT)
    with ExitStack() as stack:
        plan = trl_run._plan(config, Ranks(), settings, job, stack, done=0, progress=SILENT)
        arguments = argument_values(
            config.recipe,
            config.stage,
            settings,
            output_dir=tmp_path,
            num_steps=job.num_steps,
            accumulation=1,
        )
        trainer = job.make_trainer(loaded, arguments, plan)
        rows = [trainer.train_dataset[row] for row in range(4) for _ in range(4)]
        assert trainer.scale_rewards == "batch"
        given = {}
        for scale in ("batch", "group", "none"):
            trainer.scale_rewards = scale
            given[scale] = trainer._generate_and_score_completions(rows)
    signs = [-0.5 if job.showings[row["row"]].is_other else 1.0 for row in rows]
    assert any(sign < 0 for sign in signs)
    for scale, batch in given.items():
        said = loaded.processor.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        reward = np.array([s * worth(None, reply) for s, reply in zip(signs, said, strict=True)])
        groups = reward.reshape(4, 4)
        by_hand = groups - groups.mean(1, keepdims=True)
        if scale == "group":
            by_hand = by_hand / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
        elif scale == "batch":
            by_hand = by_hand / (reward.std(ddof=1) + 1e-4)
        assert np.abs(by_hand).max() > 0.1
        np.testing.assert_allclose(batch["advantages"].numpy(), by_hand.reshape(-1), atol=1e-5)


def test_killed_and_gone_on_is_never_killed(data: Path, tmp_path: Path) -> None:
    whole = config_of(data, tmp_path / "whole")
    train_stage(whole)
    parts = config_of(data, tmp_path / "parts")
    with pytest.raises(Killed):
        train_stage(parts, progress=AtStep(3, kill))
    train_stage(parts)
    assert records(whole.output_dir) == records(parts.output_dir)
    answers = [(c.output_dir / "answers.jsonl").read_text() for c in (whole, parts)]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == 4 * 4 * 4
    first, second = (load_file(c.output_dir / "model.safetensors") for c in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    run = json.loads((whole.output_dir / "run.json").read_text())
    assert run["stage"] == "reinforce"
    assert run["measures"]["other_pictures_shown"] > 0
    assert "score, another picture" in (whole.output_dir / "report.html").read_text()


def test_a_distance_from_the_start_is_kept_and_measured(data: Path, tmp_path: Path) -> None:
    first = config_of(data, tmp_path / "first", "stage.reinforce.adapter=none", max_steps=1)
    train_stage(first)
    near = config_of(
        data,
        tmp_path / "near",
        "stage.reinforce.kl=0.1",
        "stage.reinforce.adapter=none",
        "stage.reinforce.warmup_ratio=0.0",
        init=str(first.output_dir),
    )
    train_stage(near)
    kl = [record["kl"] for record in records(near.output_dir) if "kl" in record]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-5  # type: ignore[operator]


def test_batches_that_cannot_be_divided_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="micro_batch_size=7 does not divide the 16 answers"):
        config_of(data, tmp_path, "stage.reinforce.micro_batch_size=7")
    with pytest.raises(RecipeError, match="generations must be 2 or more"):
        config_of(data, tmp_path, "stage.reinforce.generations=1")


def test_rewards_by_step_want_key_steps(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question has key_steps"):
        train_stage(config_of(data, tmp_path, "stage.reinforce.rewards.steps=0.1"))
    lines = [json.loads(line) for line in data.open()]
    lines[0]["key_steps"] = [["white", "opaque"], ["fluid"]]
    file = tmp_path / "with.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = load_asked(str(file), image_dir=data.parent)
    assert asked.questions[0].key_steps == (("white", "opaque"), ("fluid",))


def test_another_picture_is_one_with_another_answer() -> None:
    questions = [
        question(0, "knee"),
        question(1, "knee"),
        question(2, "brain"),
        question(3, "brain", modality="ct"),
        question(4, "brain", question="Where is the lesion?"),
    ]
    others = OtherPictures(questions)
    rng = random.Random(0)
    drawn = {others.of(questions[0], rng) for _ in range(20)}
    assert drawn == {"2.png"}  # known to differ; 1 says the same, 3 is of another modality
    assert {others.of(questions[2], rng) for _ in range(40)} == {"0.png", "1.png"}
    assert others.of(questions[3], rng) is None
    assert {others.of(questions[4], rng) for _ in range(60)} == {"0.png", "1.png", "2.png"}


def test_topics_of_open_questions_tell_answers_too() -> None:
    asked = question(0, "MRI", question="What is the modality?", category="modality")
    same = question(1, "MRI", question="How was it made?", category="modality")
    assert OtherPictures([asked, same]).of(asked, random.Random(0)) is None


def test_looking_costs_no_more_showings() -> None:
    questions = [question(n, ["knee", "brain"][n % 2]) for n in range(8)]
    images = {f"{n}.png": Path(f"{n}.png") for n in range(8)}
    options = {"per_step": 4, "epochs": 1.0, "max_steps": 6, "seed": 1}
    plain, steps = lay_out(questions, images, looking=False, **options)  # type: ignore[arg-type]
    looking, same = lay_out(questions, images, looking=True, **options)  # type: ignore[arg-type]
    assert (len(plain), steps) == (len(looking), same) == (24, 6)
    assert not any(showing.is_other for showing in plain)
    pairs = list(zip(looking[::2], looking[1::2], strict=True))
    assert all(own.question == other.question for own, other in pairs)
    assert all(not own.is_other and other.is_other for own, other in pairs)
    assert all(own.image != other.image for own, other in pairs)


@pytest.mark.parametrize(
    ("asked", "reply", "score"),
    [
        (question(0, "left lung"), "The left lung.", 1.0),
        (question(0, "left lung"), "the lung", 0.5),
        (question(0, "left lung"), "<think>left lung</think> the heart", 0.0),
        (question(0, "yes", answer_type=AnswerType.CLOSED), "<think>no?</think>Yes, it is.", 1.0),
        (question(0, "yes", answer_type=AnswerType.CLOSED), "yes or no", 0.0),
        (question(0, "CT", choices=("MRI", "CT"), answer_type=AnswerType.CLOSED), "B", 1.0),
    ],
)
def test_the_score_is_that_of_the_strict_protocol(
    asked: Question, reply: str, score: float
) -> None:
    assert rewards.score_reply(asked, reply) == score


def test_parts_of_a_reward() -> None:
    closed = question(0, "yes", answer_type=AnswerType.CLOSED)
    assert rewards.has_format(closed, "yes", think=False) == 1
    assert rewards.has_format(closed, "perhaps", think=False) == 0
    assert rewards.has_format(closed, "yes", think=True) == 0
    assert rewards.has_format(closed, "<think>a shadow</think> yes", think=True) == 1
    assert rewards.has_format(closed, "<think></think> yes", think=True) == 0
    assert rewards.excess_length("one two", max_words=2) == 0
    assert rewards.excess_length("one two three", max_words=2) == 0.5
    assert rewards.excess_length("word " * 90, max_words=2) == 1
    stepped = replace(closed, key_steps=(("pleural effusion", "fluid"), ("shift",)))
    assert rewards.passed_steps(stepped, "There is fluid, so yes") == 0.5
    assert rewards.passed_steps(closed, "yes") is None
    assert rewards.is_reasoned("Description: white. Step 1: fluid. Answer: yes") == 1
    assert rewards.is_reasoned("Answer: yes. Step 1: fluid. Description: white") == 0


def test_parts_are_weighed_and_other_pictures_only_charged() -> None:
    closed = question(0, "yes", answer_type=AnswerType.CLOSED)
    showings = [
        Showing(question=closed, image=Path("0.png")),
        Showing(question=closed, image=Path("1.png"), is_other=True),
    ]
    functions, weights = rewards.build_rewards(
        showings, RewardConfig(looking=0.5, format=0.2, length=0.0)
    )
    assert weights == [1.0, 0.2]
    logged: list[tuple[str, float]] = []
    options = {
        "completions": [[{"role": "assistant", "content": "yes"}]] * 2,
        "row": [0, 1],
        "log_metric": lambda name, value: logged.append((name, value)),
    }
    assert functions[0](**options) == [1.0, -0.5]
    assert functions[1](**options) == [1.0, None]
    assert logged == [("score", 1.0), ("score_other_picture", 1.0)]
