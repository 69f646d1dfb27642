"""Judged answers: replies read tolerantly, both orders, faults and kills change nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from llm_server import LoopbackModel
from PIL import Image
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.errors import DataError, RecordError
from medllava.eval.config import EvalConfig
from medllava.eval.judged.chat_questions import compare_with_released, read_chat_questions
from medllava.eval.judged.chat_run import JudgeConfig, judge_chat
from medllava.eval.judged.chat_scores import Judgement, score_as_llava_med, score_judgements
from medllava.eval.judged.judge import Trial, build_request, parse_scores, plan_trials
from medllava.records import EvalReport
from medllava.store import iter_jsonl, read_json, read_record

DOMAINS = ("chest_xray", "mri", "histology", "gross", "ct_scan")


@pytest.mark.parametrize(
    ("reply", "grades"),
    [
        ("8 9\nBoth are fine.", (8, 9)),
        ("8, 9", (8, 9)),
        ("8  7.5 \n", (8, 7.5)),
        ("\n**8** **6**\nwords", (8, 6)),
        ("8/10 and 9/10", (8, 9)),
        ("Assistant 1: 8\nAssistant 2: 9", (8, 9)),
        ("Answer 1: 8, Answer 2: 9", (8, 9)),
        ("Score of Assistant 1: 7, score of Assistant 2: 10", (7, 10)),
        ("Here are my grades.\n\nAnswer 1: 3 out of 10\nAnswer 2: 6 out of 10", (3, 6)),
        ('```json\n{"answer_1": 4, "answer_2": 5.5}\n```', (4, 5.5)),
        ("Answer 2: 9, answer 1: 4", (4, 9)),
        ("0 4", (0, 4)),
        ("I cannot grade these.", None),
        ("8", None),
        ("", None),
        ("8 9 10", None),
        ("80 90", None),
        ("-3 5", None),
        ("Answer 1: 3, later Answer 1: 4\nmore\nAnswer 2: 5", None),
    ],
)
def test_grades_are_read_however_they_are_written(reply, grades):
    assert parse_scores(reply) == grades


def test_the_reference_summary_is_reproduced():
    conversation = [(10, 5), (8, 8), (5, 10), (10, 7)]
    description = [(9, 3), (8, 2)]
    assert score_as_llava_med(conversation) == {
        "reference": 8.25,
        "candidate": 7.5,
        "mean_of_ratios": pytest.approx(105.0),
        "num_questions": 4,
        "reference_graded_0": 0,
    }
    overall = score_as_llava_med(conversation + description)
    assert overall["reference"] == pytest.approx(8.3333, abs=1e-4)
    assert overall["candidate"] == pytest.approx(5.8333, abs=1e-4)
    assert overall["mean_of_ratios"] == pytest.approx(79.7222, abs=1e-4)
    assert score_as_llava_med([(0, 5), (10, 5)])["mean_of_ratios"] == 50.0


@pytest.fixture
def chat_file(tmp_path):
    """Twenty questions about five figures, in the released form."""
    lines = []
    for i in range(20):
        image = f"{i % 5}.jpg"
        Image.new("RGB", (40, 30), (40 * (i % 5), 90, 90)).save(tmp_path / image)
        lines.append(
            {
                "question_id": i,
                "image": image,
                "pair_id": f"p{i % 5}",
                "text": f"What is finding {i}?\n<image>",
                "gpt4_answer": "word " * (5 + i % 4),
                "type": "conversation" if i % 4 else "detailed_description",
                "domain": {name: name == DOMAINS[i % 5] for name in DOMAINS},
                "fig_label": "Fig. 1",
                "fig_caption": "A caption.",
                "in_text_mention": [{"sent_id": 0, "text": "It is mentioned here."}, "And here."],
            }
        )
    file = tmp_path / "qa.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps({"question_id": i, "text": "w " * (2 + i % 7)}) + "\n" for i in range(20)
        )
    )
    return file


def grade(text):
    """Judge by length, with a liking for the first place, in various forms."""
    first, second = (min(10, len(part.split())) for part in re.split(r"\[Answer [12]\]", text)[1:3])
    second = max(1, second - 1)
    if "finding 3?" in text and "must begin" not in text:
        return "I would rather not say."
    if "finding 4?" in text:
        return f"Answer 1: {first}\nAnswer 2: {second}"
    return f"{first} {second}\nBecause."


def make(chat_file, server, output, *, repeats=1):
    config = EvalConfig(
        task="chat",
        data=chat_file,
        predictions=chat_file.parent / "answers.jsonl",
        output_dir=output,
        draws=200,
    )
    judge = JudgeConfig(model="gpt-4.1-2025-04-14", base_url=server.url, repeats=repeats)
    return config, judge


FILES = ("report.json", "report.html", "judgements.jsonl", "predictions.jsonl")


def contents(folder, server):
    port = server.url.split(":")[2].split("/")[0]
    return [(folder / name).read_text().replace(port, "PORT") for name in FILES]


def test_faults_and_cuts_lead_to_the_same_report(chat_file, tmp_path):
    with LoopbackModel(grade).running() as server:
        judge_chat(*make(chat_file, server, tmp_path / "plain"))
        whole = contents(tmp_path / "plain", server)
        count = len(server.bodies)
    report = json.loads(whole[0])
    assert report["judge"]["judgements"] == report["judge"]["readable"] == 40
    assert report["judge"]["answered_as"] == ["gpt-4.1-2025-04-14-2025-01-01"]
    assert report["judge"]["cost_usd"] > 0
    assert count == 42  # two unreadable replies were asked for again
    ledger = (tmp_path / "plain" / "judge" / "ledger.jsonl").read_bytes()
    with LoopbackModel(grade).running() as server:
        server.retry_after = "0.01"
        config, judge = make(chat_file, server, tmp_path / "faulty")
        for trial, fault in zip(
            plan_trials(read_chat_questions(chat_file), repeats=1),
            ["429", "500", "malformed", "no-choices", "reset"] * 8,
            strict=True,
        ):
            question = read_chat_questions(chat_file)[int(trial.question_id)]
            answer = "w " * (2 + int(trial.question_id) % 7)
            request = build_request(trial, question, answer.strip(), temperature=0)
            server.faults[request.messages[-1].content] = [fault]
        judge_chat(config, judge)
        assert contents(tmp_path / "faulty", server) == whole
    for kept in (0, 700, len(ledger) // 2, len(ledger) - 3):
        folder = tmp_path / f"cut-{kept}"
        (folder / "judge").mkdir(parents=True)
        (folder / "judge" / "ledger.jsonl").write_bytes(ledger[:kept])
        with LoopbackModel(grade).running() as server:
            judge_chat(*make(chat_file, server, folder))
            assert contents(folder, server) == whole
            paid = ledger[:kept].rpartition(b"\n")[0].count(b'"reply"')
            assert (len(server.bodies) < count) is (paid > 0)


def test_a_killed_process_goes_on_and_pays_for_no_judgement_twice(chat_file, tmp_path):
    with LoopbackModel(grade).running() as server:
        judge_chat(*make(chat_file, server, tmp_path / "plain"))
        whole = contents(tmp_path / "plain", server)
    with LoopbackModel(grade).running() as server:
        server.latency = 0.15
        command = [sys.executable, "-m", "medllava", "eval", "chat", "--data", str(chat_file)]
        command += ["--predictions", str(chat_file.parent / "answers.jsonl")]
        command += ["--judge", "gpt-4.1-2025-04-14", "--judge-base-url", server.url]
        command += ["-o", str(tmp_path / "killed")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        ledger = tmp_path / "killed" / "judge" / "ledger.jsonl"
        deadline = time.monotonic() + 120
        while not ledger.exists() or ledger.read_bytes().count(b'"reply"') < 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        answered = ledger.read_bytes().count(b'"reply"')
        before = len(server.bodies)
        server.latency = 0
        judge_chat(*make(chat_file, server, tmp_path / "killed"))
        assert contents(tmp_path / "killed", server) == whole
        assert len(server.bodies) - before <= 42 - answered // 2


def test_repeats_and_orders_weigh_the_same_and_the_order_effect_is_shown(chat_file, tmp_path):
    with LoopbackModel(grade).running() as server:
        summary = judge_chat(*make(chat_file, server, tmp_path / "out", repeats=2))
    assert summary.counts["judgements"] == 80
    assert summary.details["judge"]["temperature"] == 0.7
    assert summary.details["order"]["first_place_advantage"] == pytest.approx(1.0, abs=0.3)
    groups = summary.details["groups"]
    assert set(groups) == {
        "overall",
        "type:conversation",
        "type:detailed_description",
        *(f"domain:{name}" for name in DOMAINS),
    }
    score = groups["overall"]["relative_score"]
    assert score["low"] < score["value"] < score["high"]
    assert groups["overall"]["llava_med"]["num_questions"] == 20


def test_relative_score_is_the_ratio_of_mean_grades():
    questions = [q for i in range(2) for q in [_question(f"q{i}", image=f"{i}.png")]]
    judgements = [
        Judgement(trial=Trial(question_id=key, candidate_first=first, repeat=0), **grades)
        for key, first, grades in (
            ("q0", False, {"reference": 10.0, "candidate": 5.0}),
            ("q0", True, {"reference": 8.0, "candidate": 7.0}),
            ("q1", False, {"reference": 5.0, "candidate": 10.0}),
            ("q1", True, {"reference": 5.0, "candidate": 4.0}),
        )
    ]
    scores = score_judgements(questions, judgements, draws=100, seed=0)
    overall = scores["groups"]["overall"]
    assert overall["relative_score"]["value"] == pytest.approx((6 + 7) / (9 + 5))
    assert overall["llava_med"]["mean_of_ratios"] == pytest.approx(125.0)
    assert scores["order"]["winner_changes"] == 0.5


def _question(key, *, image):
    from medllava.eval.judged.chat_questions import ChatQuestion

    return ChatQuestion(
        id=key, text="?", reference="r", image=image, kind="conversation", domain="mri"
    )


def test_unreadable_and_missing_judgements_are_counted(chat_file, tmp_path):
    with LoopbackModel(lambda _: "no idea").running() as server:
        summary = judge_chat(*make(chat_file, server, tmp_path / "vague"))
    assert (summary.complete, summary.counts["unreadable"]) == (True, 40)
    assert len(list(iter_jsonl(tmp_path / "vague" / "judgements.jsonl"))) == 120
    assert summary.details["groups"]["overall"]["relative_score"]["value"] is None
    with LoopbackModel(grade).running() as server:
        config, judge = make(chat_file, server, tmp_path / "poor")
        judge = JudgeConfig(model=judge.model, base_url=server.url, max_cost_usd=0.011)
        summary = judge_chat(config, judge)
        assert not summary.complete
        assert 0 < summary.counts["missing"] < 40
        assert summary.counts["cost_usd"] <= 0.011


def test_the_model_answers_itself_where_no_predictions_are_given(tiny_folder, chat_file, tmp_path):
    with LoopbackModel(lambda _: "9 3").running() as server:
        config, judge = make(chat_file, server, tmp_path / "out")
        from dataclasses import replace

        from medllava.eval.config import DecodingConfig

        config = replace(
            config,
            predictions=None,
            checkpoint=str(tiny_folder),
            device="cpu",
            limit=4,
            decoding=DecodingConfig(max_new_tokens=2),
        )
        judge_chat(config, judge)
    report = read_json(tmp_path / "out" / "report.json")
    typed = read_record(tmp_path / "out" / "report.json", EvalReport)
    assert typed.to_json() == report
    overall = typed.conditions["real"]["relative_score"]
    assert overall.to_json() == report["groups"]["overall"]["relative_score"]
    assert overall.num_images is not None
    assert overall.num_images > 0
    assert report["model"]["weights_sha256"]
    assert report["judge"]["judgements"] == 8
    assert "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()


def test_a_gguf_file_is_answered_by_llama_cpp_here_as_in_every_task(chat_file, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is an extra: medllava[gguf]")
    broken = tmp_path / "model-f16.gguf"
    broken.write_bytes(b"no model")
    told = [
        CliRunner().invoke(app, [*task, "--ckpt", str(broken), "-o", str(tmp_path / name)]).stderr
        for name, task in (
            ("chat", ["eval", "chat", "--data", str(chat_file), "--judge", "anybody"]),
            ("task", ["eval", str(_question_file(tmp_path))]),
        )
    ]
    assert all("llama.cpp" in words for words in told), told


def _question_file(folder):
    file = folder / "questions.jsonl"
    line = {"id": "q", "image": None, "question": "What?", "answer": "no", "answer_type": "open"}
    file.write_text(json.dumps(line) + "\n")
    return file


def test_other_forms_and_bad_files(tmp_path, chat_file):
    (first, *_) = questions = read_chat_questions(chat_file)
    assert (first.text, first.domain, first.kind) == (
        "What is finding 0?",
        "chest_xray",
        "detailed_description",
    )
    assert first.mentions == ("It is mentioned here.", "And here.")
    assert "conversation 15, published 143" in compare_with_released(questions)
    own = tmp_path / "own.json"
    own.write_text(json.dumps([{"id": "a", "question": "Q?", "answer": "A", "domain": "mri"}]))
    assert read_chat_questions(own)[0].domain == "mri"
    own.write_text(json.dumps([{"id": "a", "question": "Q?"}]))
    with pytest.raises(RecordError, match="gpt4_answer or reference or answer"):
        read_chat_questions(own)
    own.write_text("[]")
    with pytest.raises(DataError, match="no question"):
        read_chat_questions(own)
