"""A judge of open answers: replies read, intervals, agreement, labelled answers, faults."""

import json

import pytest
from llm_server import LoopbackModel
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.errors import RecordError
from medllava.eval.config import EvalConfig
from medllava.eval.judged.ask_judge import JudgeConfig
from medllava.eval.judged.open_judge import cohen_kappa, read_labels
from medllava.eval.judged.verdicts import Grading, Verdict, build_request, parse_verdict
from medllava.eval.run import evaluate_task, score_lines
from medllava.store import iter_jsonl, read_json


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("CORRECT", "correct"),
        ("The two mean the same.\nCORRECT", "correct"),
        ("**INCORRECT**", "incorrect"),
        ("The answer is not correct.", "incorrect"),
        ("Verdict: PARTIAL", "partial"),
        ("partially correct", "partial"),
        ("It names the correct organ.\nSo it is\nPARTIAL.", "partial"),
        ("<think>CORRECT? No, the side is wrong.</think>\nINCORRECT", "incorrect"),
        ("<think>This seems CORRECT", None),
        ('```json\n{"verdict": "partial", "why": "the correct organ"}\n```', "partial"),
        ('{"correct": false}', "incorrect"),
        ("CORRECT or INCORRECT, hard to say", None),
        ("I cannot grade this.", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_however_it_is_written(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_the_two_answers_change_places_from_one_repeat_to_the_next():
    texts = [
        build_request(
            Grading(name="a", question="Q", reference="liver", answer="spleen", repeat=repeat),
            0,
            temperature=0.7,
        )
        .messages[1]
        .content
        for repeat in (0, 1)
    ]
    places = [text.index("Reference answer") < text.index("Given answer") for text in texts]
    assert places == [True, False]


def grade(text):
    """A judge that takes "left lung" and "lung, left" for the same, and "lung" for a part."""
    given = text.split("[Given answer]\n")[1].split("\n")[0]
    return {"lung, left": "Same.\nCORRECT", "lung": "PARTIAL"}.get(given, "INCORRECT")


@pytest.fixture
def answers(task_file):
    said = ["left lung", "lung, left", "lung", "heart"]
    lines = [
        {"id": line["id"], "text": said[int(line["id"][2])] if line["id"][:2] == "op" else "yes"}
        for _, line in iter_jsonl(task_file)
    ]
    file = task_file.parent / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with LoopbackModel(grade).running() as model:
        yield model


def make_config(task_file, answers, output_dir):
    return EvalConfig(task=str(task_file), predictions=answers, output_dir=output_dir, draws=100)


def test_open_answers_are_graded_and_closed_ones_keep_their_rule(
    task_file, answers, judge, tmp_path
):
    labels = tmp_path / "labels.jsonl"
    rows = [("lung, left", "correct"), ("lung", "incorrect"), ("heart", "incorrect")]
    labels.write_text(
        "".join(
            json.dumps({"question": "Q", "reference": "left lung", "answer": a, "verdict": v})
            + "\n"
            for a, v in rows
        )
    )
    by = JudgeConfig(model="m-2026-01-01", base_url=judge.url, repeats=2, labels=labels)
    summary = evaluate_task(make_config(task_file, answers, tmp_path / "out"), judge=by)
    assert summary.complete is True
    real = read_json(summary.artifacts["report"])["conditions"]["real"]
    # The strict rule takes "left lung" alone, this judge "lung, left" alone.
    assert real["judged_open"]["value"] == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    assert real["judged_open_correct"]["value"] == pytest.approx(1 / 4)
    closed = real["closed_accuracy"]["value"]
    assert real["judged_accuracy"]["value"] == pytest.approx((8 * closed + 1.5) / 12)
    assert real["judged_accuracy"]["low"] < real["judged_accuracy"]["value"]
    facts = read_json(summary.artifacts["report"])["judge"]
    assert facts["verdicts"] == {"correct": 2, "partial": 2, "incorrect": 4}
    agreement = facts["agreement_with_strict"]
    assert (agreement["judge_only"], agreement["strict_only"], agreement["share"]) == (1, 1, 0.5)
    assert facts["labels"]["answers"] == 3
    assert facts["labels"]["share"] == pytest.approx(2 / 3)
    assert facts["labels"]["table"]["incorrect"]["partial"] == 1
    assert facts["order"] == {"reference_first": 0.375, "answer_first": 0.375}
    text = "\n".join(score_lines(summary))
    assert "judged accuracy" in text
    assert "graded by people: agrees on 66.7 %" in text
    assert "Judged answers" in summary.artifacts["page"].read_text()
    assert len(list(iter_jsonl(summary.artifacts["judgements"]))) == 4 * 2 + 3
    paid = sum(judge.paid.values())
    evaluate_task(make_config(task_file, answers, tmp_path / "out"), judge=by)
    assert sum(judge.paid.values()) == paid  # nothing is asked again


def test_what_cannot_be_read_is_asked_again_and_counts_in_no_score(
    task_file, answers, judge, tmp_path
):
    judge.answer = lambda text: "No idea." if "\nheart" in text else grade(text)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app,
        ["eval", str(task_file), "--predictions", str(answers), "--draws", "50", "-o", str(out),
         "--judge", "m", "--judge-base-url", judge.url],
    )  # fmt: skip
    assert result.exit_code == 6, result.output
    assert "1 not readable; they count in no score" in result.output
    report = read_json(out / "report.json")
    assert report["judge"]["unreadable"] == 1
    assert report["conditions"]["real"]["judged_open"]["num_questions"] == 3
    asked = [b for b in judge.bodies if "\nheart" in b["messages"][1]["content"]]
    assert len(asked) == 3
    assert "must be one word" in asked[-1]["messages"][1]["content"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "reference": "r", "answer": "a"}, "needs verdict"),
        ({"question": "Q", "reference": "r", "answer": "a", "verdict": "fine"}, "'fine' is not"),
    ],
)
def test_a_labelled_answer_that_lacks_something_is_named(tmp_path, row, message):
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=rf"{message}.*line 1"):
        read_labels(file)


def test_kappa_is_agreement_beyond_chance():
    assert cohen_kappa(["a", "a", "b", "b"], ["a", "a", "b", "b"]) == 1
    assert cohen_kappa(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == 0
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert Verdict.PARTIAL.credit == 0.5
