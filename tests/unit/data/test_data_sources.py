import json
from pathlib import Path

import pytest

from medllava.data.sources import image_root, iter_instruction_records
from medllava.errors import DataError, RecordError
from medllava.records import InstructionRecord, Stage, Turn

OURS = InstructionRecord(
    record_id="a",
    images=("images/a.png",),
    turns=(Turn(role="user", content="<image>\nWhat?"), Turn(role="assistant", content="CT")),
    stage=Stage.INSTRUCT,
)
LLAVA = {
    "id": "b",
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
}


def write(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values))
    return path


def test_folder_and_file_of_ours_are_read(tmp_path):
    file = write(tmp_path / "instructions.jsonl", OURS.to_json())
    assert list(iter_instruction_records(tmp_path)) == [OURS]
    assert list(iter_instruction_records(file)) == [OURS]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_llava_files_are_told_by_content(tmp_path, name):
    array = write(tmp_path / name, [LLAVA])
    assert [r.record_id for r in iter_instruction_records(array)] == ["b"]
    lines = write(tmp_path / name, LLAVA, LLAVA)
    assert len(list(iter_instruction_records(lines))) == 2


def test_missing_data_names_the_file_and_the_way(tmp_path):
    with pytest.raises(DataError, match=r"instructions\.jsonl.*generate-instructions"):
        list(iter_instruction_records(tmp_path))


def test_bad_line_is_named(tmp_path):
    file = write(tmp_path / "instructions.jsonl", OURS.to_json(), {"record_id": "c"})
    with pytest.raises(RecordError, match="line 2"):
        list(iter_instruction_records(file))


def test_image_root_prefers_option_then_summary_then_folder(tmp_path):
    file = write(tmp_path / "instructions.jsonl", OURS.to_json())
    assert image_root(file, None) == tmp_path
    (tmp_path / "summary.json").write_text('{"image_dir": "../figures"}')
    assert image_root(file, None) == tmp_path / "../figures"
    assert image_root(tmp_path, None) == tmp_path / "../figures"
    assert image_root(tmp_path, Path("/elsewhere")) == Path("/elsewhere")
