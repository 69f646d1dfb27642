import json
import logging

import pytest

from medllava.data.layouts import items as items_module
from medllava.data.layouts import released
from medllava.data.layouts.conversation import parse_llava_item
from medllava.data.layouts.released import RELEASED_FILES, inspect_llava_json
from medllava.data.layouts.stream import iter_llava_json
from medllava.data.layouts.turns import place_image_token
from medllava.data.layouts.write import to_llava_item, write_llava_json
from medllava.errors import DataError, RecordError
from medllava.records import AnswerType, InstructionRecord, Modality, Stage, Turn


def item(**changes):
    base = {
        "id": "32432162_F1",
        "image": "32432162_F1.jpg",
        "domain": {
            "chest_xray": False,
            "ct_scan": True,
            "gross": False,
            "histology": False,
            "mri": True,
        },
        "conversations": [
            {"from": "human", "value": "What is shown?\n<image>"},
            {"from": "gpt", "value": "A slice."},
        ],
    }
    return {**base, **changes}


def test_array_reads_with_image_domain_and_turns(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([item(), item(id=7)]))
    first, second = iter_llava_json(path)
    assert first.turns[0] == Turn(role="user", content="What is shown?\n<image>")
    assert first.images == ("32432162_F1.jpg",)
    assert first.modality is Modality.MRI  # the first true one in LLaVA-Med's own order
    assert second.record_id == "7"


def test_misspelt_key_and_integer_values_are_read(tmp_path):
    raw = item(answer_type="CLOSED")
    raw["conversatons"] = [
        {"from": "human", "value": "<image>\nHow many?"},
        {"from": "gpt", "value": 3},
    ]
    del raw["conversations"]
    record, repaired = parse_llava_item(raw, where="x")
    assert record.turns[1] == Turn(role="assistant", content="3", answer_type=AnswerType.CLOSED)
    assert not repaired


def test_lost_image_token_is_put_back_before_the_first_question(tmp_path, caplog):
    path = tmp_path / "a.json"
    lost = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "CT."}]
    path.write_text(json.dumps([item(conversations=lost)]))
    with caplog.at_level(logging.WARNING):
        (record,) = iter_llava_json(path)
    assert record.turns[0].content == "<image>\nWhat is it?"
    assert "1 records" in caplog.text


@pytest.mark.parametrize(
    ("contents", "num_images", "expected"),
    [
        (["a <image>", "b", "c", "d"], 1, ["a <image>", "b", "c", "d"]),
        (["a", "b", "<image> c", "d"], 1, ["a", "b", "<image> c", "d"]),
        (["<image>\na", "b", "c\n<image>", "d"], 1, ["<image>\na", "b", "c", "d"]),
        (["<image>\na", "b"], 0, ["a", "b"]),
        (["a", "b <image>"], 1, ["<image>\na", "b"]),
        (["<image>", "b"], 2, ["<image>\n<image>", "b"]),
    ],
)
def test_image_tokens_equal_images(contents, num_images, expected):
    roles = ["user", "assistant"] * 2
    turns = [Turn(role=r, content=c) for r, c in zip(roles, contents, strict=False)]
    assert [t.content for t in place_image_token(turns, num_images=num_images)] == expected


@pytest.mark.parametrize("size", [7, 64, 1 << 20])
def test_array_streams_across_block_borders(tmp_path, monkeypatch, size):
    monkeypatch.setattr(items_module, "_BLOCK_CHARACTERS", size)
    path = tmp_path / "a.json"
    items = [item(id=f'id {i} \\ " ], }} {i}') for i in range(20)]
    path.write_text("\ufeff " + json.dumps(items, indent=1), encoding="utf-8")
    assert [r.record_id for r in iter_llava_json(path)] == [i["id"] for i in items]


def test_jsonl_of_llava_items_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(item()) + "\n" + json.dumps(item(id="b")) + "\n")
    assert [r.record_id for r in iter_llava_json(path)] == ["32432162_F1", "b"]


@pytest.mark.parametrize("text", ['[{"id": 1, "conv', '[{"id": 1},', "[1]", "[nonsense]"])
def test_broken_array_names_the_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        list(iter_llava_json(path))


@pytest.mark.parametrize(
    "conversations",
    [None, [], "text", [{"from": "human"}], [{"from": "dog", "value": "wau"}], [3]],
)
def test_item_without_conversation_is_an_error_with_its_number(tmp_path, conversations):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([item(), item(conversations=conversations)]))
    with pytest.raises(RecordError, match="item 2"):
        list(iter_llava_json(path))


def test_records_survive_the_round_trip(tmp_path):
    record = InstructionRecord(
        record_id="a",
        images=("x.jpg", "y.jpg"),
        turns=(
            Turn(role="user", content="<image>\n<image>\nIs it T2?"),
            Turn(role="assistant", content="yes", answer_type=AnswerType.CLOSED),
        ),
        stage=Stage.INSTRUCT,
        modality=Modality.HISTOPATHOLOGY,
    )
    path = tmp_path / "a.json"
    assert write_llava_json(path, [record, record]) == 2
    assert list(iter_llava_json(path)) == [record, record]
    assert to_llava_item(record)["conversations"][0]["from"] == "human"


def test_inspection_counts_pairs_and_missing_images(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([item(), item(id="b", image="b.jpg"), item(id="c", image="../c")]))
    (tmp_path / "b.jpg").write_bytes(b"x")
    report = inspect_llava_json(path, image_root=tmp_path)
    assert (report.num_records, report.num_pairs, report.num_images) == (3, 3, 3)
    assert report.missing_images == ("32432162_F1.jpg", "../c")
    assert report.released_as is None
    assert report.differences == ()


def test_released_name_with_other_content_is_reported(tmp_path):
    path = tmp_path / "llava_med_instruct_10k.json"
    path.write_text(json.dumps([item()]))
    report = inspect_llava_json(path)
    assert report.released_as == path.name
    assert any("num_records is 1, published 10712" in line for line in report.differences)
    assert len(report.differences) == 3


def test_released_digest_is_recognised_under_any_name(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([item()]))
    digest = inspect_llava_json(path).sha256
    facts = released.ReleasedFile(sha256=digest, num_records=1, num_pairs=1)
    monkeypatch.setattr(released, "RELEASED_FILES", {**RELEASED_FILES, "x.json": facts})
    report = inspect_llava_json(path)
    assert (report.released_as, report.differences) == ("x.json", ())
