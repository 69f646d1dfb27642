import pytest

from medllava.errors import RecordError
from medllava.records import FigureRecord, InstructionRecord, Modality, Question, Stage, Turn

RECORD = InstructionRecord(
    record_id="PMC1.1/f1#0",
    images=("images/ab/one.png",),
    turns=(Turn(role="user", content="<image>\nWhat?"), Turn(role="assistant", content="MRI")),
    stage=Stage.INSTRUCT,
    modality=Modality.MRI,
    provenance={"cost_usd": 0.25},
)


def test_a_record_survives_the_way_through_json():
    assert InstructionRecord.from_json(RECORD.to_json(), where="x") == RECORD


def test_unknown_keys_are_ignored_so_newer_files_stay_readable():
    values = {**RECORD.to_json(), "added_next_year": 1}
    assert InstructionRecord.from_json(values, where="x") == RECORD


def test_a_missing_field_is_named_with_its_place():
    values = RECORD.to_json()
    del values["stage"]
    with pytest.raises(RecordError, match=r"no 'stage': data\.jsonl, line 3"):
        InstructionRecord.from_json(values, where="data.jsonl, line 3")


def test_a_wrong_type_is_named_down_to_the_nested_field():
    values = RECORD.to_json()
    values["turns"][1]["content"] = 7
    with pytest.raises(RecordError, match=r"expected str, got int 7: here: turns\[1\]: content"):
        InstructionRecord.from_json(values, where="here")


def test_a_word_outside_the_vocabulary_lists_the_vocabulary():
    with pytest.raises(RecordError, match="'xray' is not one of chest_xray, ct, mri"):
        FigureRecord.from_json(
            {"figure_id": "a", "pmcid": "PMC1", "version": 1, "modality": "xray"}, where="here"
        )


def test_capital_letters_in_a_vocabulary_word_are_accepted():
    values = {"id": "1", "image": None, "question": "?", "answer": "no", "answer_type": "CLOSED"}
    assert Question.from_json(values, where="x").answer_type == "closed"


def test_a_boolean_is_not_an_integer():
    with pytest.raises(RecordError, match="expected int, got bool"):
        FigureRecord.from_json({"figure_id": "a", "pmcid": "P", "version": True}, where="x")
