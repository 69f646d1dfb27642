"""Predictions of other tools, as their files look, score what the same answers of ours score."""

import csv
import json

import pytest
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.data.benchmarks.questions import load_questions
from medllava.errors import DataError, RecordError
from medllava.eval.ask.others import is_own, read_others
from medllava.store import read_json


@pytest.fixture
def questions(task_file):
    return load_questions(str(task_file)).questions


def said(question):
    return f"answer to {question.id}"


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def lmms_eval(questions, file):
    rows = [
        {"doc_id": i, "doc": {"question": q.question, "answer": q.answer}, "target": q.answer,
         "resps": [[said(q)]], "filtered_resps": [said(q)], "exact_match": 0}
        for i, q in enumerate(questions)
    ]  # fmt: skip
    file.write_text(jsonl(reversed(rows)))  # samples finish in any order


def vlmevalkit_tsv(questions, file):
    with file.open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t")
        table.writerow(["index", "question", "answer", "prediction"])
        table.writerows([q.id, q.question, q.answer, said(q)] for q in questions)


def vlmevalkit_xlsx(questions, file):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["index", "question", "answer", "prediction"])
    for q in questions:
        book.active.append([q.id, q.question, q.answer, said(q)])
    book.save(file)


def medevalkit(questions, file):
    file.write_text(
        json.dumps([{"prompt": q.question, "answer": q.answer, "response": said(q),
                     "correct": False} for q in questions])
    )  # fmt: skip


def ms_swift(questions, file):
    file.write_text(
        jsonl({"response": said(q), "labels": q.answer, "images": [{"path": q.image}],
               "messages": [{"role": "user", "content": q.question}]} for q in questions)
    )  # fmt: skip


def llama_factory(questions, file):
    file.write_text(
        jsonl({"prompt": f"user\n{q.question}\nassistant\n", "predict": said(q), "label": q.answer}
              for q in questions)
    )  # fmt: skip


def openai_batch(questions, file):
    file.write_text(
        jsonl({"id": f"batch_req_{i}", "custom_id": q.id, "error": None,
               "response": {"status_code": 200,
                            "body": {"choices": [{"message": {"content": said(q)}}]}}}
              for i, q in enumerate(questions))
    )  # fmt: skip


def plain_csv(questions, file):
    with file.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["id", "text"])
        table.writerows([q.id, said(q)] for q in questions)


TOOLS = {
    "samples_vqarad.jsonl": lmms_eval,
    "model_VQARAD.tsv": vlmevalkit_tsv,
    "model_VQARAD.xlsx": vlmevalkit_xlsx,
    "results.json": medevalkit,
    "infer_result.jsonl": ms_swift,
    "generated_predictions.jsonl": llama_factory,
    "batch_output.jsonl": openai_batch,
    "mine.csv": plain_csv,
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_file_of_another_tool_is_read_by_its_own_names(questions, tmp_path, name):
    file = tmp_path / name
    TOOLS[name](questions, file)
    assert not is_own(file)
    assert read_others(file, questions) == {q.id: said(q) for q in questions}


def test_it_scores_what_our_own_file_scores(task_file, questions, tmp_path):
    lmms_eval(questions, tmp_path / "theirs.jsonl")
    (tmp_path / "ours.jsonl").write_text(jsonl({"id": q.id, "text": said(q)} for q in questions))
    scores = []
    for name in ("theirs", "ours"):
        out = tmp_path / name
        result = CliRunner().invoke(
            app,
            ["eval", str(task_file), "--predictions", f"{out}.jsonl", "--draws", "20",
             "-o", str(out)],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        scores.append(read_json(out / "report.json")["conditions"])
    assert scores[0] == scores[1]


def test_lines_without_ids_must_be_all_and_the_very_questions(questions, tmp_path):
    file = tmp_path / "generated_predictions.jsonl"
    llama_factory(questions[:-1], file)
    with pytest.raises(DataError, match="11 lines without an id of the task, 12 questions"):
        read_others(file, questions)
    llama_factory([questions[1], questions[0], *questions[2:]], file)
    with pytest.raises(DataError, match="prompt is not question 'yn0'"):
        read_others(file, questions)


def test_a_failed_request_of_a_batch_is_named_and_never_an_empty_answer(questions, tmp_path):
    file = tmp_path / "batch.jsonl"
    openai_batch(questions, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["response"] = {"status_code": 500, "body": {"error": {"message": "overloaded"}}}
    file.write_text(jsonl(rows))
    with pytest.raises(RecordError, match=r"status 500.*line 3"):
        read_others(file, questions)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"scores": {"accuracy": 1}}', "not a list of predictions"),
        ("x.txt", "a", "JSONL, JSON, CSV, TSV or XLSX"),
        ("x.csv", "id,answer\nyn0,yes\n", "no text of the model"),
        ("x.xlsx", "no archive", "not a readable Excel file|needs openpyxl"),
    ],
)
def test_what_holds_no_predictions_says_so(questions, tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(Exception, match=message):
        read_others(file, questions)
