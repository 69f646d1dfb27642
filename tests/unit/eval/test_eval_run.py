"""One evaluation from questions to report: floors, probes, flags, resuming, other backends."""

import json
import shutil

import pytest
from llm_server import LoopbackModel

from medllava.errors import DataError, SetupError
from medllava.eval.ask.workers import share_asks
from medllava.eval.config import (
    FOLLOWING_CONDITIONS,
    Backend,
    Condition,
    DecodingConfig,
    EvalConfig,
    parse_backend,
)
from medllava.eval.probes import Probe
from medllava.eval.run import evaluate_task
from medllava.records import EvalReport
from medllava.store import iter_jsonl, read_json, read_record

FIELDS = {"value", "low", "high", "num_questions", "num_images"}


def make_config(task_file, output_dir, **changes):
    return EvalConfig(
        task=str(task_file),
        output_dir=output_dir,
        decoding=DecodingConfig(max_new_tokens=3, batch_size=8),
        draws=200,
        device="cpu",
        **changes,
    )


def without_versions(folder):
    report = read_json(folder / "report.json")
    report.pop("commit")
    return report


def lines_of(file):
    return [line for _, line in iter_jsonl(file)]


def answers_file(folder):
    (file,) = [f for f in (folder / "answers").glob("*.jsonl") if f.name != "server.jsonl"]
    return file


def test_all_conditions_and_probes_land_in_one_report_and_page(tiny_folder, task_file, tmp_path):
    config = make_config(
        task_file,
        tmp_path / "out",
        checkpoint=str(tiny_folder),
        conditions=tuple(Condition),
        probes=tuple(Probe),
    )
    summary = evaluate_task(config)
    report = read_json(summary.artifacts["report"])
    typed = read_record(summary.artifacts["report"], EvalReport)
    assert typed.to_json() == report
    assert report["schema_version"] == EvalReport.VERSION
    assert report["conditions"]["real"]["accuracy"].keys() == FIELDS
    assert list(report["conditions"]) == [
        c.value for c in Condition if c not in FOLLOWING_CONDITIONS
    ]
    assert report["visual_gain"]["token_recall"]["num_questions"] == 12
    lines = lines_of(summary.artifacts["predictions"])
    assert [list(line) for line in lines] == [
        ["id", "condition", "seed", "text"]
        + ["question"] * (line["condition"] not in list(Condition))
        for line in lines
    ]
    assert any("question" in line for line in lines)
    assert report["probes"]["negated"]["num_questions"] == 4
    assert report["probes"]["negated"]["left_out"] == 4
    assert report["probes"]["shuffled"]["num_questions"] == 4
    assert report["probes"]["corrupted (all)"]["num_questions"] == 8
    assert report["probes"]["reworded (all)"]["consistent"]["value"] <= min(
        report["probes"][f"reworded-{i}"]["consistent"]["value"] for i in (1, 2, 3)
    )
    page = summary.artifacts["page"].read_text()
    assert "real minus permuted" in page
    assert "corrupted-noise" in page
    assert "data:image/jpeg" in page
    lines = lines_of(summary.artifacts["predictions"])
    assert len(lines) == 12 * len(report["conditions"]) + 4 + 3 * 8 + 4 + 4 * 8 + 4
    assert {tuple(line)[:4] for line in lines} == {("id", "condition", "seed", "text")}

    again = make_config(
        task_file,
        tmp_path / "scored",
        predictions=summary.artifacts["predictions"],
        conditions=tuple(Condition),
        probes=tuple(Probe),
    )
    rescored = read_json(evaluate_task(again).artifacts["report"])
    for key in ("conditions", "visual_gain", "probes", "by_category"):
        assert rescored[key] == report[key]


@pytest.mark.parametrize("kept_bytes", [0, 150, 1000])
def test_a_killed_run_goes_on_to_the_same_files(tiny_folder, task_file, tmp_path, kept_bytes):
    changes = {
        "checkpoint": str(tiny_folder),
        "conditions": (Condition.REAL, Condition.PERMUTED, Condition.TEXT),
    }
    evaluate_task(make_config(task_file, tmp_path / "whole", **changes))
    whole = answers_file(tmp_path / "whole")
    (tmp_path / "cut" / "answers").mkdir(parents=True)
    (tmp_path / "cut" / "answers" / whole.name).write_bytes(whole.read_bytes()[:kept_bytes])
    evaluate_task(make_config(task_file, tmp_path / "cut", **changes))
    for name in ("report.json", "predictions.jsonl", "report.html"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_equal_asks_are_answered_once(tiny_folder, task_file, tmp_path):
    config = make_config(
        task_file,
        tmp_path / "out",
        checkpoint=str(tiny_folder),
        conditions=(Condition.REAL, Condition.BLANK, Condition.TEXT),
    )
    evaluate_task(config)
    asked = lines_of(answers_file(tmp_path / "out"))
    # Text only and blank, "Which modality?" and "Where is it?" are the same for all images.
    assert len(asked) == 12 + 6 + 6


def test_other_permuted_images_are_asked_again(tiny_folder, task_file, tmp_path):
    """Fewer questions make another permutation, whose replies must not be taken."""
    changes = {
        "checkpoint": str(tiny_folder),
        "conditions": (Condition.REAL, Condition.PERMUTED),
    }
    evaluate_task(make_config(task_file, tmp_path / "out", limit=6, **changes))
    evaluate_task(make_config(task_file, tmp_path / "out", **changes))
    evaluate_task(make_config(task_file, tmp_path / "fresh", **changes))
    assert without_versions(tmp_path / "out") == without_versions(tmp_path / "fresh")


def test_two_processes_give_what_one_gives(tiny_folder, task_file, tmp_path):
    for gpus in (1, 2):
        config = make_config(
            task_file, tmp_path / str(gpus), checkpoint=str(tiny_folder), gpus=gpus
        )
        evaluate_task(config)
    one, two = (lines_of(tmp_path / name / "predictions.jsonl") for name in ("1", "2"))
    assert one == two


def test_an_error_in_a_process_keeps_its_class_and_words(tiny_folder, task_file, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(SetupError, match="broken"):
        evaluate_task(make_config(task_file, tmp_path / "out", checkpoint=str(broken), gpus=2))


def test_shares_are_even_and_keep_images_together():
    from medllava.eval.ask.predict import BLANK, Ask

    def ask(i, image):
        return Ask(id=str(i), condition="real", seed=0, image=image, text="?")

    asks = [ask(i, f"{i // 5}.png") for i in range(20)]
    asks += [ask(20 + i, BLANK) for i in range(6)] + [ask(26 + i, None) for i in range(4)]
    shares = share_asks(asks, 3)
    assert sorted(map(len, shares)) == [10, 10, 10]
    for i in range(4):
        assert sum(any(a.image == f"{i}.png" for a in share) for share in shares) == 1


def test_a_server_is_asked_with_the_image_and_only_for_what_is_missing(task_file, tmp_path):
    with LoopbackModel(lambda text: "Yes." if "lesion" in text else "B").running() as server:
        server.faults["Where is it?"] = ["500"]
        config = make_config(
            task_file,
            tmp_path / "out",
            checkpoint="some/model",
            backend=Backend.OPENAI,
            base_url=server.url,
            conditions=(Condition.REAL, Condition.TEXT),
        )
        report = read_json(evaluate_task(config).artifacts["report"])
        assert report["conditions"]["real"]["closed_accuracy"]["value"] == 0.75
        assert report["model"]["server"] == server.url
        shown = [isinstance(b["messages"][0]["content"], list) for b in server.bodies]
        assert sum(shown) >= 12
        count = len(server.bodies)
        evaluate_task(config)
        assert len(server.bodies) == count


def test_what_a_server_refuses_counts_as_wrong_and_is_told(task_file, tmp_path):
    def answer(text):
        return "" if "region 1" in text else "Yes." if "lesion" in text else "B"

    def rejects(body):
        if "region 3" not in json.dumps(body):
            return None
        return 400, {"message": "filtered", "code": "content_filter"}

    with LoopbackModel(answer).running() as server:
        server.rejects = rejects
        config = make_config(
            task_file,
            tmp_path / "out",
            checkpoint="some/model",
            backend=Backend.OPENAI,
            base_url=server.url,
        )
        summary = evaluate_task(config)
        report = read_json(summary.artifacts["report"])
        # Regions 1 and 3 would have been right: six of eight closed questions fall to four.
        assert report["conditions"]["real"]["closed_accuracy"]["value"] == 0.5
        assert report["refused"] == {"real": {"empty_reply": 1, "content_filter": 1}}
        assert summary.details["refused"] == report["refused"]
        assert "2 questions were asked under real and not answered" in report["task"]["notes"][-1]
        count = len(server.bodies)
        again = evaluate_task(config)
        assert len(server.bodies) == count
        assert again.details["refused"] == report["refused"]


def test_backend_is_a_name_or_an_address():
    assert parse_backend("transformers") == (Backend.TRANSFORMERS, None)
    assert parse_backend("http://host:1/v1") == (Backend.OPENAI, "http://host:1/v1")
    assert parse_backend("vllm") == (Backend.VLLM, "http://localhost:8000/v1")
    with pytest.raises(DataError, match="'tgi'"):
        parse_backend("tgi")


def test_predictions_without_a_probe_are_refused_by_name(task_file, tmp_path):
    file = tmp_path / "p.jsonl"
    ids = [line["id"] for line in lines_of(task_file)]
    file.write_text("".join(json.dumps({"id": key, "text": "yes"}) + "\n" for key in ids))
    config = make_config(task_file, tmp_path / "o", predictions=file, probes=(Probe.NEGATED,))
    with pytest.raises(DataError, match="no answers under negated"):
        evaluate_task(config)


def test_a_model_that_always_says_yes_is_caught_by_negation(task_file, tmp_path):
    file = tmp_path / "p.jsonl"
    ids = [line["id"] for line in lines_of(task_file)]
    lines = [{"id": key, "text": "yes"} for key in ids]
    lines += [{"id": f"yn{i}", "condition": "negated", "text": "yes"} for i in range(4)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = make_config(task_file, tmp_path / "o", predictions=file, probes=(Probe.NEGATED,))
    negated = evaluate_task(config).details["probes"]["negated"]
    values = {name: negated[name]["value"] for name in ("accuracy", "all_right", "consistent")}
    assert values == {"accuracy": 0.5, "all_right": 0.0, "consistent": 0.0}


def test_a_page_without_images_holds_none(task_file, tmp_path):
    answers = tmp_path / "answers.jsonl"
    ids = [line["id"] for line in lines_of(task_file)]
    answers.write_text("".join(json.dumps({"id": i, "text": "MRI"}) + "\n" for i in ids))
    for shown in (True, False):
        config = make_config(
            task_file, tmp_path / str(shown), predictions=answers, images_on_page=shown
        )
        page = evaluate_task(config).artifacts["page"].read_text()
        assert ("data:image/jpeg" in page) is shown
        # Four metrics have the same numbers; they are one row.
        assert "accuracy, exact match" in page
