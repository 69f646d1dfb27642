"""Answers made elsewhere are scored from the command line, on every format, without a model."""

import json
import subprocess
import sys
import time

import benchmark_copies as copies
import numpy as np
import pytest
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.eval.compare import compare_values
from medllava.eval.report.build import build_scores
from medllava.eval.score.intervals import bootstrap, paired_p_values
from medllava.eval.score.scores import METRICS, score_replies
from medllava.records import AnswerType, Question


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_predictions(path, texts, key="id", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({key: name, "text": text} | more) for name, text in texts.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def evaluate(*arguments):
    done = CliRunner().invoke(app, ["eval", *map(str, arguments), "--json", "--draws", "200"])
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr


HAND_MADE = [
    ("1", "Is the heart normal?", "no", "closed", "There is a normal heart"),
    ("2", "Is there a mass?", "yes", "closed", "Yes, there is."),
    ("3", "CT or MRI?", "mri", "closed", "MRI"),
    ("4", "Where is it?", "left lung", "open", "left left left"),
    ("5", "What is it?", "pleural effusion", "open", "a pleural effusion"),
]


def test_hand_made_answers_under_both_protocols(tmp_path):
    folder = tmp_path / "mine"
    copies.write_images(folder, "a.png", "b.png")
    lines = [
        {"id": i, "image": "ab"[n % 2] + ".png", "question": q, "answer": a, "answer_type": kind}
        for n, (i, q, a, kind, _) in enumerate(HAND_MADE)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = write_predictions(
        tmp_path / "answers.jsonl", {i: reply for i, *_, reply in HAND_MADE}
    )
    code, found = evaluate(folder, "--predictions", answers, "--protocol", "llava-med")
    assert code == 0
    real = found["summary"]["conditions"]["real"]
    assert real["closed_accuracy"]["value"] == pytest.approx(2 / 3)  # "normal" is no "no"
    assert real["unparseable"]["value"] == pytest.approx(1 / 3)
    assert real["open_token_recall"]["value"] == pytest.approx(0.75)
    legacy = found["summary"]["llava_med"]["scripts"]
    assert legacy["run_eval_batch"]["closed_accuracy"]["value"] == pytest.approx(100)
    assert legacy["run_eval"]["closed_accuracy"]["value"] == pytest.approx(200 / 3)
    assert legacy["run_eval"]["recall"]["value"] == pytest.approx(87.5)
    report = json.loads((tmp_path / "eval/mine/report.json").read_text())
    assert report["protocol"] == "llava-med"
    assert report["task"]["asked"].startswith("mine test: 5 questions about 2 images, 3 closed")
    lines = (tmp_path / "eval/mine/predictions.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) >= {"id", "condition", "seed", "text"}


@pytest.mark.parametrize(
    ("task", "make", "answers"),
    [
        ("vqarad", copies.own_release, {"1": "No", "2": "left lung", "3": "12"}),
        ("vqarad", copies.mevf, {1: "No", 2: "left lung", 3: "12"}),
        ("vqarad", copies.llava, {0: "no", 1: "right upper lobe", 2: "3"}),
        ("slake", copies.slake, {0: "No", 1: "Lung", 3: "Left"}),
        (
            "pathvqa",
            copies.parquet,
            {"test-00001": "Yes", "test-00002": "granuloma", "test-00003": "no"},
        ),
        ("pmcvqa", copies.pmcvqa, {"test-clean-00001": "B", "test-clean-00002": "IHC"}),
        ("omnimedvqa", copies.omnimedvqa, {"acrima_1": "B", "acrima_2": "A. CT"}),
    ],
)
def test_every_format_is_scored(tmp_path, task, make, answers):
    key = "question_id" if isinstance(next(iter(answers)), int) else "record_id"
    folder = make(tmp_path / "copy")
    file = write_predictions(tmp_path / "p.jsonl", answers, key=key)
    code, found = evaluate(
        task,
        "--data",
        folder,
        "--predictions",
        file,
        "--protocol",
        "llava-med",
        "-o",
        tmp_path / "o",
    )
    assert code == 0, found
    real = found["summary"]["conditions"]["real"]
    assert real["closed_accuracy"]["value"] == 1
    if "open_exact_match" in real:
        assert real["open_exact_match"]["value"] == 1
        assert found["summary"]["llava_med"]["paper"]["open"]["value"] == pytest.approx(100)
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert {row["protocol"] for row in report["published"]} >= {"closed only"}
    page = (tmp_path / "o/report.html").read_text()
    assert "run_eval_before_fix_35" in page
    assert page.index("this report") < page.index("LLaVA-Med v1.5 7B")
    assert "<td>llava-med</td>" in page


def test_what_is_wrong_with_predictions_is_named(tmp_path):
    folder = copies.slake(tmp_path / "copy")
    few = write_predictions(tmp_path / "few.jsonl", {0: "No"})
    code, found = evaluate("slake", "--data", folder, "--predictions", few)
    assert code == 4
    assert "no prediction for 2 of 3" in found["error"]["message"]
    code, found = evaluate("slake", "--data", folder, "--language", "zh", "--predictions", few)
    assert code == 4


def test_seeds_of_a_file_are_averaged(tmp_path):
    folder = copies.slake(tmp_path / "copy")
    file = tmp_path / "p.jsonl"
    texts = {}
    for seed, reply in ((0, "No"), (1, "Yes")):
        write_predictions(file, {0: reply, 1: "Lung", 3: "Left"}, seed=seed)
        texts[seed] = file.read_text()
    file.write_text(texts[0] + texts[1])
    code, found = evaluate("slake", "--data", folder, "--predictions", file)
    assert code == 0
    assert found["summary"]["conditions"]["real"]["closed_accuracy"]["value"] == 0.75


def test_two_systems_are_compared_on_the_same_items(tmp_path):
    folder = copies.slake(tmp_path / "copy")
    a = write_predictions(tmp_path / "a.jsonl", {0: "Yes", 1: "Lung", 3: "Left"})
    b = write_predictions(tmp_path / "b/predictions.jsonl", {0: "No", 1: "Lung", 3: "Left"})
    code, found = evaluate(
        "slake", "--data", folder, "--compare", a, b.parent, "-o", tmp_path / "out"
    )
    assert code == 0, found
    row = found["summary"]["metrics"]["closed_accuracy"]
    assert (row["a"]["value"], row["b"]["value"]) == (0.5, 1)
    assert row["b_minus_a"]["value"] == 0.5
    assert (row["a_higher"], row["b_higher"]) == (0, 1)
    assert (tmp_path / "out/compare.json").is_file()


def test_the_paired_test_is_exact_where_it_can_be_counted():
    # Three images differ by +1: of 8 sign patterns 2 are as extreme, so p is 1/4.
    differences = np.array([[1.0], [1.0], [1.0], [np.nan]])
    p = paired_p_values(differences, np.array([0, 1, 2, 3]), draws=20_000, seed=0)
    assert p[0] == pytest.approx(0.25, abs=0.015)
    # Four questions about one image are one draw: nothing can be said.
    p = paired_p_values(np.ones((4, 1)), np.zeros(4, dtype=np.int64), draws=1_000, seed=0)
    assert p[0] == 1


def test_intervals_draw_images_not_questions():
    values = np.repeat(np.array([[1.0], [0.0]] * 20), 10, axis=0)
    by_image = bootstrap(values, np.repeat(np.arange(40), 10), draws=2_000, seed=0).estimate(0)
    by_question = bootstrap(values, np.arange(400), draws=2_000, seed=0).estimate(0)
    width = by_image.high - by_image.low
    # 40 draws of 0 or 1 spread sqrt(10) times as far as 400.
    assert width / (by_question.high - by_question.low) == pytest.approx(10**0.5, rel=0.15)
    assert width == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.15)


def many(number):
    questions = [
        Question(
            id=str(i),
            image=f"{i // 3}.png",
            question="Is it the left one?" if i % 2 else "Where is it?",
            answer=("left lower lobe", "yes", "right", "no")[i % 4],
            answer_type=AnswerType.CLOSED if i % 2 else AnswerType.OPEN,
        )
        for i in range(number)
    ]
    replies = [f"it is the {q.answer} {i % 97}" if i % 3 else "no" for i, q in enumerate(questions)]
    return questions, replies


def test_ten_thousand_answers_with_ten_thousand_draws_take_seconds():
    questions, replies = many(10_000)
    start = time.process_time()
    scores = build_scores(questions, {("real", 0): replies}, draws=10_000, seed=0)
    # The budget is 5 s of one quiet core; processor time is nearly free of what else runs.
    assert time.process_time() - start < 8
    assert scores.conditions["real"]["token_recall"].num_questions == 10_000


def test_a_comparison_with_itself_finds_nothing():
    questions, replies = many(300)
    values = score_replies(questions, replies)
    found = compare_values(questions, values, values, draws=200, seed=0)
    assert {row["p"] for row in found.values()} == {1}
    assert {metric.name for metric in METRICS} >= set(found)


def test_scoring_loads_no_model_library(tmp_path):
    folder = copies.slake(tmp_path / "copy")
    file = write_predictions(tmp_path / "p.jsonl", {0: "No", 1: "Lung", 3: "Left"})
    code = (
        "import sys, time\nfrom medllava.cli.app import app\n"
        f"try: app(['eval', 'slake', '--data', {str(folder)!r}, '--predictions', {str(file)!r},"
        " '--draws', '100', '-q'])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print('LOADED', time.process_time(), *{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.rsplit("LOADED", 1)[1].split()
    assert {"torch", "transformers", "datasets", "evaluate", "openai"}.isdisjoint(loaded)
    # The budget is 1 s to start; this is the whole run, in processor time.
    assert float(seconds) < 3
