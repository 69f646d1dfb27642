"""Whole reports: words shared with the reference, floors of the same length, clinical scorers."""

import json
import random
import sys
import types

import pytest

from medllava.data.benchmarks.questions import load_questions
from medllava.errors import SetupError
from medllava.eval.config import ClinicalMetric, Condition, EvalConfig
from medllava.eval.run import evaluate_task, score_lines
from medllava.eval.score import clinical
from medllava.score.reports import length_matched, report_bleu, report_tokens, rouge_l
from medllava.store import read_json

NORMAL = "The heart is normal in size. The lungs are clear."
EFFUSION = "There is a small left pleural effusion. No pneumothorax."


def slow_longest(first, second):
    """The textbook's table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            same = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = same
    return table[-1][-1]


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    rng = random.Random(0)
    for _ in range(60):
        first, second = ([rng.choice("abcd") for _ in range(rng.randint(1, 80))] for _ in "xy")
        common = slow_longest(first, second)
        expected = 2 * common / (len(first) + len(second))
        assert rouge_l(" ".join(first), " ".join(second)) == pytest.approx(expected)
    assert rouge_l("", NORMAL) == 0
    assert rouge_l(NORMAL, NORMAL) == 1


def test_words_of_a_report_are_its_letters_and_numbers():
    found = report_tokens("ET-tube 2.5 cm above; No. 3!")
    assert found == ["et", "tube", "2.5", "cm", "above", "no", "3"]
    assert report_bleu(NORMAL, NORMAL) == pytest.approx(1)
    assert 0 < report_bleu("The heart is normal.", NORMAL) < 0.5
    assert report_bleu("", NORMAL) == 0


def test_a_floor_has_the_length_of_the_reply_and_never_its_own_image():
    references = ["one", "one two", "one two three", "other four words here"]
    images = ["a", "b", "c", "c"]
    replies = ["x y z", "x", "x y", "x y z w"]
    found = length_matched(replies, references, images)
    assert found == ["one two three", "one", "one two", "one two"]
    assert length_matched(["x"], ["one"], ["a"]) == [""]


def annotation(folder):
    """IU X-Ray as R2Gen lays it out: lists by split, two views of one study."""
    rows = {
        "train": [{"id": "CXR1", "report": NORMAL, "image_path": ["CXR1/0.png"], "split": "train"}],
        "val": [],
        "test": [
            {"id": "CXR2", "report": EFFUSION, "image_path": ["CXR2/0.png", "CXR2/1.png"]},
            {"id": "CXR3", "report": NORMAL, "image_path": ["CXR3/0.png"], "split": "test"},
        ],
    }
    (folder / "images" / "CXR2").mkdir(parents=True)
    (folder / "annotation.json").write_text(json.dumps(rows))
    return folder


def test_reports_are_read_in_r2gens_layout(tmp_path):
    found = load_questions("iuxray", data=annotation(tmp_path))
    assert [q.id for q in found.questions] == ["CXR2", "CXR3"]
    assert found.questions[0].images == ("CXR2/0.png", "CXR2/1.png")
    assert {q.answer_type.value for q in found.questions} == {"report"}
    assert found.questions[0].question == "Write the findings of this chest X-ray."
    assert "2 reports" in found.describe()
    assert "closed" not in found.describe()
    train = load_questions("iuxray", data=tmp_path, split="train")
    assert [q.answer for q in train.questions] == [NORMAL]


def scored(tmp_path, **changes):
    annotation(tmp_path)
    answers = tmp_path / "p.jsonl"
    lines = [("CXR2", "<think>hm</think>There is a left effusion."), ("CXR3", NORMAL)]
    answers.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in lines))
    config = EvalConfig(
        task="iuxray",
        data=tmp_path,
        predictions=answers,
        output_dir=tmp_path / "out",
        conditions=(Condition.REAL, Condition.MAJORITY),
        draws=20,
        **changes,
    )
    return evaluate_task(config)


def test_reports_have_scores_of_their_own_beside_a_floor_of_their_length(tmp_path):
    summary = scored(tmp_path)
    report = read_json(summary.artifacts["report"])
    assert report["counts"]["report"] == 2
    real, floor = (report["conditions"][name] for name in ("real", "length_matched"))
    assert set(real) == {"report_bleu", "report_rouge_l", "num_words", "repetition"}
    expected = rouge_l("There is a left effusion.", EFFUSION)
    assert real["report_rouge_l"]["value"] == pytest.approx((expected + 1) / 2)
    assert floor["report_rouge_l"]["value"] == pytest.approx(rouge_l(NORMAL, EFFUSION))
    assert any("report rouge l" in line for line in score_lines(summary))
    assert "report rouge l" in summary.artifacts["page"].read_text()


@pytest.fixture
def radgraph(monkeypatch):
    """The package's interface, of which the score of a pair is told by their words."""

    class F1RadGraph:
        def __init__(self, *, reward_level, model_type, cuda):
            print("Using device")  # as the package does
            assert (reward_level, model_type, cuda) == ("partial", "radgraph-xl", -1)

        def __call__(self, *, hyps, refs):
            rewards = [float(a == b) for a, b in zip(hyps, refs, strict=True)]
            return sum(rewards) / len(rewards), rewards, [], []

    package = types.ModuleType("radgraph")
    package.F1RadGraph = F1RadGraph
    monkeypatch.setitem(sys.modules, "radgraph", package)
    return package


def test_clinical_scores_stand_in_every_condition(tmp_path, radgraph, capsys):
    summary = scored(tmp_path, clinical=(ClinicalMetric.RADGRAPH,))
    report = read_json(summary.artifacts["report"])
    assert report["conditions"]["real"]["clinical_radgraph"]["value"] == 0.5
    assert report["conditions"]["length_matched"]["clinical_radgraph"]["value"] == 0
    assert any("clinical radgraph" in line for line in score_lines(summary))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("metric", list(ClinicalMetric))
def test_a_missing_package_is_an_error_with_its_command(metric, monkeypatch):
    for name in ("radgraph", "f1chexbert", "RaTEScore"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=r"pip install 'medllava\[reports\]'"):
        clinical.load_scorer(metric, device="cpu")


def test_a_missing_package_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(SetupError, match="radgraph"):
        scored(tmp_path, clinical=(ClinicalMetric.RADGRAPH,))
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_loaded_are_an_error_and_no_zero(monkeypatch):
    def fail(**_):
        raise OSError("Cannot download the file")

    package = types.ModuleType("radgraph")
    package.F1RadGraph = fail
    monkeypatch.setitem(sys.modules, "radgraph", package)
    with pytest.raises(
        SetupError, match=r"could not load its weights.*Cannot download.*RRG_scorers"
    ):
        clinical.load_scorer(ClinicalMetric.RADGRAPH, device="cpu")


def test_findings_of_two_reports_agree_by_f1():
    assert clinical.label_f1([0] * 14, [0] * 14) == 1
    assert clinical.label_f1([1, 1, 0], [1, 0, 0]) == pytest.approx(2 / 3)
    assert clinical.label_f1([1, 0, 0], [0, 0, 0]) == 0
