"""`run.json` and `report.json`: what this version writes, and what earlier versions wrote."""

import json
from pathlib import Path

import pytest

from medllava.errors import DataError, RecordError
from medllava.records import (
    DataRecord,
    Estimate,
    EvalReport,
    InitRecord,
    PartRecord,
    RunRecord,
    Source,
    Stage,
)
from medllava.store import read_json, read_record

FIXTURES = Path(__file__).parents[1] / "fixtures" / "records"
"""Made by version 0.1.0 before the files had a version: two stages and an evaluation."""


def leaves(value: object, prefix: str = "") -> dict[str, object]:
    """Return every value of nested JSON by its dotted path."""
    if isinstance(value, dict):
        return {k: v for n, x in value.items() for k, v in leaves(x, f"{prefix}.{n}").items()}
    if isinstance(value, list):
        return {k: v for n, x in enumerate(value) for k, v in leaves(x, f"{prefix}.{n}").items()}
    return {prefix: value}


@pytest.mark.parametrize(("name", "kind"), [("run", RunRecord), ("report", EvalReport)])
def test_a_file_of_an_earlier_version_reads_and_loses_no_value(name, kind):
    file = FIXTURES / f"{name}-v1.json"
    written = leaves(read_record(file, kind).to_json())
    for path, value in leaves(read_json(file)).items():
        if path != ".schema_version":
            assert written[path] == value, path


def test_an_earlier_run_says_what_it_did_in_all_its_stages():
    run = read_record(FIXTURES / "run-v1.json", RunRecord)
    assert [record.stage for record in run.history()] == [Stage.INSTRUCT, Stage.ALIGN]
    assert run.parts["language_model"] == PartRecord(source="random", license="Apache-2.0")
    assert run.data.used == 24
    assert run.data.by_license == {"CC0-1.0": 24}
    assert run.init.source == "runs/one"
    assert run.init.run is not None
    assert run.init.run.init == InitRecord(source="parts")
    assert run.schema_version == RunRecord.VERSION


def test_an_earlier_report_gives_its_estimates():
    report = read_record(FIXTURES / "report-v1.json", EvalReport)
    real = report.conditions["real"]["exact_match"]
    assert isinstance(real, Estimate)
    assert real.num_questions == 8
    assert report.visual_gain is None
    assert report.decoding is not None
    assert report.decoding.seeds == (0,)
    assert report.model.weights_sha256 == (
        read_record(FIXTURES / "run-v1.json", RunRecord).weights_sha256
    )


@pytest.mark.parametrize(("name", "kind"), [("run", RunRecord), ("report", EvalReport)])
def test_what_is_written_reads_back_equal(name, kind):
    record = read_record(FIXTURES / f"{name}-v1.json", kind)
    values = json.loads(json.dumps(record.to_json()))
    assert values["schema_version"] == kind.VERSION
    assert kind.from_json(values, where="x") == record


def test_nested_sources_and_records_in_a_table_are_typed_both_ways():
    part = PartRecord(source="org/lm", sources=(Source(name="wheel", version="1"),))
    run = RunRecord(parts={"language_model": part}, data=DataRecord(used=3))
    values = run.to_json()
    assert values["parts"]["language_model"]["sources"][0]["name"] == "wheel"
    assert RunRecord.from_json(values, where="x") == run


def test_a_later_version_is_refused_by_name_and_not_misread():
    with pytest.raises(RecordError, match=r"version 99 .*: run\.json\. Upgrade medllava"):
        RunRecord.from_json({"schema_version": 99}, where="run.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"used": "many"}}, r"expected int, got str 'many': f: data: used"),
        ({"parts": {"eye": 3}}, r"expected PartRecord, got int 3: f: parts\.eye"),
        ({"data": {"by_license": {"CC0": "x"}}}, r"got str 'x': f: data: by_license\.CC0"),
        ({"init": {"run": {"steps": "2"}}}, r"got str '2': f: init: run: steps"),
        ({"stage": "pretrain"}, r"'pretrain' is not one of align"),
    ],
)
def test_a_wrong_value_is_named_down_to_its_place(values, message):
    with pytest.raises(RecordError, match=message):
        RunRecord.from_json(values, where="f")


def test_a_start_that_early_runs_wrote_as_a_bare_name_is_kept():
    assert RunRecord.from_json({"init": "org/llava"}, where="f").init.source == "org/llava"
    assert RunRecord.from_json({"init": None}, where="f").init.source == ""


@pytest.mark.parametrize(("text", "error"), [("[1]", "expected a JSON object"), ("{", "not valid")])
def test_a_file_that_is_no_record_is_an_error_and_not_an_empty_record(tmp_path, text, error):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=error):
        read_record(tmp_path / "run.json", RunRecord)
