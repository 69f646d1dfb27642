"""Every kind of file that users bring, by what is right for it."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.data.conversation import image_first
from medllava.data.dataset import build_index
from medllava.data.dropped import Dropped, DropReason
from medllava.data.sources import is_llava_file, read_instructions
from medllava.errors import DataError
from medllava.model.parts import build_model
from medllava.progress import SilentProgress
from medllava.recipe import load_recipe

FIXTURES = Path(__file__).parents[2] / "fixtures"
LAYOUTS = FIXTURES / "layouts"


def read(path):
    return list(read_instructions(path))


def write(path, *items):
    path.write_text(json.dumps(list(items)), encoding="utf-8")
    return path


def talk(question="<image>\nWhat is shown?", answer="A chest X-ray.", **fields):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "a", "image": "a.png", "conversations": turns} | fields


USED = {
    "01_images_key.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "02_images_key_two.json": (("a.png", "b.png"), "<image><image>\nCompare.", "Same."),
    "03_comma_image.json": (
        ("a.png", "b.png"),
        "<image>\n<image>\nWhat is shown?",
        "A chest X-ray.",
    ),
    "04_starts_gpt.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "10_int_id_int_value.json": (("a.png",), "<image>\nWhat is shown?", "3"),
    "11_image_end.json": (("a.png",), "What is shown?\n<image>", "A chest X-ray."),
    "12_image_mid.json": (("a.png",), "<image>\nLook at and tell the kind.", "is a X-ray"),
    "13_messages.json": (("a.png",), "<image>What?", "X-ray."),
    "13b_messages.jsonl": (("a.png",), "<image>What?", "X-ray."),
    "14_bom.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "15_bom.jsonl": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "21_pretty_single.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "25_nested.json": (("sub/dir/a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "27_from_model.json": (("a.png",), "<image>\nWhat?", "X."),
    "28_role_content.json": (("a.png",), "<image>\nWhat?", "X."),
    "30_nan.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "34_image_dict.json": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
    "35_value_list.json": (("a.png",), "<image>\nWhat?", "A chest X-ray."),
    "37_gzip.json.gz": (("a.png",), "<image>\nWhat is shown?", "A chest X-ray."),
}
DROPPED = {
    "06_empty_answer.json": DropReason.EMPTY_REPLY,
    "07_no_answer.json": DropReason.NO_REPLY,
    "08_two_humans.json": DropReason.ROLE_ORDER,
    "09_missing_image_key.json": DropReason.PLACEHOLDERS,
    "36_null_value.json": DropReason.NOT_TEXT,
    "39_im_start.json": DropReason.SPECIAL_TOKEN,
}
REFUSED = {
    "16_trailing_comma.json": r"comma with nothing behind it.*16_trailing_comma\.json, line 1",
    "17_missing_comma.json": r"expected ',' or '\]'.*17_missing_comma\.json, line 1",
    "19_truncated.json": r"ends inside a record.*19_truncated\.json, line 1",
    "20_wrapped.json": r"list under 'data'.*20_wrapped\.json",
    "22_domains.json": r"list under 'chest_xray' \(items with pair_id.*22_domains\.json",
    "23_latin1.json": r"not UTF-8 \(byte 0xe4, perhaps Latin-1\).*23_latin1\.json",
}


@pytest.mark.parametrize("name", USED)
def test_a_file_is_read(name):
    (record,) = read(LAYOUTS / name)
    asked, replied = record.turns[-2:]
    assert (record.images, asked.content, replied.content) == USED[name]
    assert (asked.role, replied.role) == ("user", "assistant")


@pytest.mark.parametrize("name", ["05_system.json", "05b_system_field.json"])
def test_a_system_prompt_is_a_turn(name):
    (record,) = read(LAYOUTS / name)
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant"]
    assert record.turns[0].content == "You are a radiologist."


@pytest.mark.parametrize("name", DROPPED)
def test_a_record_that_cannot_be_used_is_dropped_by_name(name):
    (dropped,) = read(LAYOUTS / name)
    assert (dropped.record_id, dropped.reason) == ("a", DROPPED[name])
    assert dropped.detail.startswith("item 1")


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_named(name):
    with pytest.raises(DataError, match=REFUSED[name]):
        read(LAYOUTS / name)


@pytest.mark.parametrize("name", ["31_empty.json", "32_zero.json"])
def test_an_empty_file_has_no_records(name):
    assert read(LAYOUTS / name) == []


def test_ids_may_be_numbers_or_missing(tmp_path):
    records = read(
        write(tmp_path / "x.json", talk(id=7), talk(id=None), talk(id=[1]), talk(id="\ud800"))
    )
    assert [r.record_id for r in records] == ["7", "x.json#2", "x.json#3", "?"]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (talk(answer=True), DropReason.NOT_TEXT),
        (talk(answer={"text": "x"}), DropReason.NOT_TEXT),
        (talk(answer=[{"type": "tool_use"}]), DropReason.NOT_TEXT),
        (talk(question=None), DropReason.NOT_TEXT),
        (talk(answer=float("nan")), DropReason.NOT_TEXT),
        (talk(answer="half \ud83d"), DropReason.NOT_TEXT),
        (talk(answer=" \n"), DropReason.EMPTY_REPLY),
        (talk(answer="<image>"), DropReason.EMPTY_REPLY),
        (talk(question="", image=None), DropReason.EMPTY_TURN),
        (talk(answer="x<|im_end|>\n<|im_start|>user"), DropReason.SPECIAL_TOKEN),
        (talk(answer="ok [/INST] more"), DropReason.SPECIAL_TOKEN),
        (talk(question="<video>\nWhat?"), DropReason.SPECIAL_TOKEN),
        (talk(image=["a.png", "b.png"], question="<image>" * 3), DropReason.PLACEHOLDERS),
        (talk(image={"bytes": "AAAA", "path": None}), DropReason.IMAGE_FIELD),
        (talk(image=[["a.png"]]), DropReason.IMAGE_FIELD),
        (talk(image=5), DropReason.IMAGE_FIELD),
        (talk(image="https://x.org/a.png"), DropReason.IMAGE_FIELD),
        (talk(images=["b.png"]), DropReason.IMAGE_FIELD),
        (talk(conversations=[]), DropReason.NO_CONVERSATION),
        (talk(conversations="talk"), DropReason.NO_CONVERSATION),
        (talk(conversations=["talk"]), DropReason.NOT_TEXT),
        (talk(conversations=[{"from": "tool", "value": "x"}]), DropReason.UNKNOWN_SPEAKER),
        (talk(conversations=[{"value": "x"}]), DropReason.UNKNOWN_SPEAKER),
        (talk(conversations=[{"from": "gpt", "value": "x"}]), DropReason.NO_REPLY),
        (7, DropReason.NO_CONVERSATION),
        ({"id": "a", "caption": "x"}, DropReason.NO_CONVERSATION),
        ({"record_id": "a", "turns": "x"}, DropReason.SCHEMA),
    ],
)
def test_one_bad_item_does_not_end_a_file(tmp_path, item, reason):
    before, bad, after = read(write(tmp_path / "x.json", talk(id="b"), item, talk(id="c")))
    assert (before.record_id, after.record_id) == ("b", "c")
    assert isinstance(bad, Dropped)
    assert bad.reason is reason
    assert bad.detail.startswith("item 2")


def test_parts_give_words_and_pictures_in_their_order(tmp_path):
    content = [
        {"type": "text", "text": "First:"},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "second:"},
        {"type": "image_url", "image_url": {"url": "b.png"}},
    ]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Same."}]},
    ]
    (record,) = read(write(tmp_path / "x.json", {"id": "a", "messages": messages}))
    assert record.images == ("a.png", "b.png")
    assert record.turns[0].content == "First:\n<image>\nsecond:\n<image>"
    assert record.turns[1].content == "Same."


def test_a_comma_in_a_file_name_is_no_list(tmp_path):
    (record,) = read(write(tmp_path / "x.json", talk(image="left, upper lobe.png")))
    assert record.images == ("left, upper lobe.png",)


def test_a_bad_first_item_does_not_make_it_another_layout(tmp_path):
    items = [{"caption": "x"}] * 99 + [talk(id="b")]
    outcomes = read(write(tmp_path / "x.json", *items))
    assert [o.reason for o in outcomes[:-1]] == [DropReason.NO_CONVERSATION] * 99
    assert outcomes[-1].record_id == "b"


def test_a_table_of_captions_is_named_as_another_layout(tmp_path):
    file = write(tmp_path / "x.json", {"image": "a.png", "caption": "x"})
    with pytest.raises(DataError, match=r"items have image, caption: .*x\.json"):
        read(file)


def test_gzipped_lines_and_broken_lines_say_where(tmp_path):
    file = tmp_path / "x.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as handle:
        handle.write(json.dumps(talk()) + "\n\n" + json.dumps(talk(id="b")) + "\n{broken\n")
    stream = read_instructions(file)
    assert [next(stream).record_id, next(stream).record_id] == ["a", "b"]
    with pytest.raises(DataError, match=r"x\.jsonl\.gz, line 4"):
        next(stream)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged gzip"):
        read(file)


def test_a_broken_item_early_in_a_large_file_ends_at_once(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[" + json.dumps(talk()) + ', {"id": nonsense},' + " " * 5_000_000 + "]")
    with pytest.raises(DataError, match=r"item 2.*x\.json, line 1"):
        read(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("What?\n<image>", "<image>\nWhat?"),
        ("<image>What?", "<image>\nWhat?"),
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("In <image> what?", "<image>\nIn what?"),
        ("<image>", "<image>"),
        ("A: <image> B: <image>", "A: <image> B: <image>"),
        ("No picture", "No picture"),
    ],
)
def test_the_one_image_of_a_turn_goes_first_everywhere(content, expected):
    assert image_first(content) == expected


@pytest.fixture(scope="module")
def processor():
    return build_model(load_recipe("debug").model, seed=0).processor


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "b.png", "rgb.jpg", "sub/dir/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def index_of(records, processor, root, *, progress=None):
    return build_index(
        records,
        processor,
        image_root=root,
        image_tokens=4,
        max_length=512,
        progress=progress or SilentProgress(),
    )


class Notes(SilentProgress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_paths_out_of_the_folder_are_dropped_by_name(processor, images, tmp_path):
    shutil.copy(LAYOUTS / "26_abs.json", tmp_path / "x.json")
    records = [*read(tmp_path / "x.json"), *read(LAYOUTS / "25_nested.json")]
    index = index_of(records, processor, images)
    assert index.record_ids == ("a",)
    assert index.images == (images / "sub/dir/a.png",)
    assert [(d.record_id, d.reason, d.detail) for d in index.dropped] == [
        ("a", DropReason.BAD_PATH, "/etc/passwd"),
        ("b", DropReason.BAD_PATH, "../../a.png"),
    ]


def test_ids_that_occur_twice_are_told_with_their_number(processor, images):
    progress = Notes()
    index = index_of(read(LAYOUTS / "24_dup_ids.json"), processor, images, progress=progress)
    assert index.repeated_ids == 1
    assert any(note.startswith("1 records have an id that another") for note in progress.notes)


def test_a_wrong_image_folder_gives_the_message_that_exists_for_it(processor, tmp_path):
    with pytest.raises(DataError, match=r"no usable record: 5 image file missing.*--image-dir"):
        index_of(read(LAYOUTS / "41_five.json"), processor, tmp_path / "elsewhere")


def test_an_empty_file_is_said_to_have_no_records(processor, tmp_path):
    with pytest.raises(DataError, match="no records, the file is empty"):
        index_of(read(LAYOUTS / "31_empty.json"), processor, tmp_path)


def test_what_a_template_or_tokenizer_cannot_take_is_dropped(processor, images, tmp_path):
    special = next(t for t in processor.tokenizer.all_special_tokens if t != "<image>")
    items = [talk(id="b"), talk(id="s", answer=f"bad {special} token"), talk(id="c")]
    records = read(write(tmp_path / "x.json", *items))
    kept = processor.chat_template
    refusing = "{% for m in messages %}{% if m.content == 'No.' %}{{ raise_exception('no') }}"
    refusing += "{% endif %}{% endfor %}" + kept
    try:
        processor.chat_template = refusing
        refused = read(write(tmp_path / "y.json", talk(id="r", answer="No.")))
        index = index_of([*records, *refused], processor, images)
    finally:
        processor.chat_template = kept
    assert index.record_ids == ("b", "c")
    assert {d.record_id: d.reason for d in index.dropped} == {
        "s": DropReason.SPECIAL_TOKEN,
        "r": DropReason.TEMPLATE,
    }


@pytest.mark.parametrize("name", ["null-reply.json", "gpt-first.json"])
def test_no_record_teaches_none_or_ends_a_run(processor, images, name):
    index = index_of(read(FIXTURES / "records" / name), processor, images)
    said = [processor.tokenizer.decode(index.ids[index.supervised])]
    assert "None" not in said[0]
    assert "Hello" not in said[0]
    assert len(index) >= 6
    dropped = {d.record_id for d in index.dropped}
    assert dropped == ({"nulls"} if name.startswith("null") else set())


@pytest.mark.parametrize("form", ["array", "lines", "gzip", "one object on many lines", "BOM"])
def test_the_command_knows_conversations_by_their_content_in_every_form(tmp_path, form):
    item = {"id": "a", "conversations": [{"from": "human", "value": "Hi?"}]}
    item["conversations"].append({"from": "gpt", "value": "Yes."})
    text = json.dumps([item] if form == "array" else item, indent=2 if "many" in form else None)
    data = b"\xef\xbb\xbf" * (form == "BOM") + text.encode()
    file = tmp_path / ("a.json.gz" if form == "gzip" else "a.json")
    file.write_bytes(gzip.compress(data) if form == "gzip" else data)
    assert is_llava_file(file)
    command = ["train", "debug", "--stage", "2", "--data", str(file), "--dry-run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert "1 records" in " ".join(result.output.split())
