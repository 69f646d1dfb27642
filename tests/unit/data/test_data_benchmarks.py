"""Every circulating copy of a benchmark gives the same kind of questions, with its images."""

import dataclasses
import json

import benchmark_copies as copies
import pytest

from medllava.data.benchmarks import task as benchmark_task
from medllava.data.benchmarks.hub import hub_rows
from medllava.data.benchmarks.questions import (
    finetune_records,
    image_paths,
    load_questions,
)
from medllava.data.benchmarks.task import Hub, compare_counts, load_task, task_names
from medllava.data.conversation import question_text
from medllava.errors import DataError, RecordError, RemoteError
from medllava.records import AnswerType, Question

OPEN, CLOSED = AnswerType.OPEN, AnswerType.CLOSED


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def kinds(found):
    return [(q.question, q.answer, q.answer_type) for q in found.questions]


@pytest.mark.parametrize(
    ("task", "make", "num_questions", "num_images"),
    [
        ("vqarad", copies.own_release, 3, 2),
        ("vqarad", copies.mevf, 3, 2),
        ("vqarad", copies.parquet, 3, 2),
        ("vqarad", copies.llava, 3, 2),
        ("slake", copies.slake, 3, 2),
        ("slake", copies.llava, 3, 2),
        ("pathvqa", copies.parquet, 3, 2),
        ("pathvqa", copies.llava, 3, 2),
        ("pmcvqa", copies.pmcvqa, 2, 2),
        ("omnimedvqa", copies.omnimedvqa, 2, 2),
    ],
)
def test_each_format_is_read_with_its_images(tmp_path, task, make, num_questions, num_images):
    found = load_questions(task, data=make(tmp_path / "copy"))
    assert len(found.questions) == num_questions
    assert len(image_paths(found, found.questions)) == num_images
    assert found.name == task
    assert "published" in " ".join(found.notes)
    assert f"{num_questions} questions about {num_images} images" in found.describe()


@pytest.mark.parametrize("make", [copies.own_release, copies.mevf])
def test_both_vqa_rad_layouts_hold_the_same_questions(tmp_path, make):
    found = load_questions("vqarad", data=make(tmp_path))
    assert kinds(found) == [
        ("Is there a mass?", "No", CLOSED),
        ("Which side?", "left lung", OPEN),
        ("How many ribs?", "12", OPEN),
    ]
    assert found.rule == "the answer_type of each question"
    train = load_questions("vqarad", data=tmp_path, split="train")
    assert [q.id for q in train.questions] == ["4", "4#2", "5"]
    assert "1 rows left out: no 'answer'." in train.notes


def test_without_answer_types_yes_and_no_are_closed(tmp_path):
    found = load_questions("pathvqa", data=copies.parquet(tmp_path))
    assert [q.answer_type for q in found.questions] == [CLOSED, OPEN, CLOSED]
    assert "yes or no" in found.rule
    # Two rows show one picture; it is one image for the intervals.
    assert found.questions[0].image == found.questions[1].image != found.questions[2].image


def test_slake_has_two_languages(tmp_path):
    copies.slake(tmp_path)
    chinese = load_questions("slake", data=tmp_path, language="zh")
    assert [q.answer for q in chinese.questions] == ["不健康"]
    assert chinese.closed_prompt.startswith("请")
    assert len(load_questions("slake", data=tmp_path, split="validation").questions) == 2
    with pytest.raises(DataError, match="VQA-RAD has no questions in 'zh'"):
        load_questions("vqarad", data=tmp_path, language="zh")


def test_conversations_become_questions(tmp_path):
    found = load_questions("slake", data=copies.llava(tmp_path))
    assert [q.id for q in found.questions] == ["0", "1", "2"]
    assert kinds(found)[2] == ("How many?", "3", OPEN)


def test_multiple_choice_by_letter_or_by_text(tmp_path):
    copies.pmcvqa(tmp_path)
    clean = load_questions("pmcvqa", data=tmp_path)
    other = load_questions("pmcvqa", data=tmp_path, split="test-2")
    assert clean.split == "test-clean"
    assert clean.questions[0].choices == ("Diffuse", "Focal", "None", "Unclear")
    assert [q.answer for q in clean.questions] == [q.answer for q in other.questions]
    assert any("none of the choices" in note for note in other.notes)
    text = question_text(clean.questions[0], closed_prompt=clean.closed_prompt)
    assert text.splitlines()[2] == "B. Focal"
    assert [r.turns[1].content for r in finetune_records(clean)] == ["B", "C"]


def test_training_asks_what_evaluation_asks(tmp_path):
    train = load_questions("slake", data=copies.slake(tmp_path), split="train")
    record = next(finetune_records(train))
    asked = question_text(train.questions[0], closed_prompt=train.closed_prompt)
    assert record.turns[0].content == f"<image>\n{asked}"
    assert record.turns[1].content == "No"
    assert record.images == ("xmlab3/source.jpg",)
    assert record.split == "train"


def test_pickles_are_refused_with_the_way_round(tmp_path):
    copies.mevf(tmp_path, with_images=False)
    found = load_questions("vqarad", data=tmp_path)  # questions alone can be scored
    with pytest.raises(DataError, match=r"images84x84\.pkl are never opened.*Image Folder"):
        image_paths(found, found.questions)
    for file in tmp_path.glob("*.json"):
        file.unlink()
    with pytest.raises(DataError, match="can run code"):
        load_questions("vqarad", data=tmp_path)
    with pytest.raises(DataError, match="can run code"):
        load_questions(str(tmp_path / "images84x84.pkl"))
    assert not (tmp_path / "pwned").exists()


def test_the_disjoint_split_shares_no_image(tmp_path):
    copies.own_release(tmp_path)
    test = load_questions("vqarad", data=tmp_path, split="disjoint-test")
    train = load_questions("vqarad", data=tmp_path, split="disjoint-train")
    assert {q.image for q in test.questions}.isdisjoint(q.image for q in train.questions)
    assert len(test.questions) + len(train.questions) == 6
    assert "203 test images also occur in training" in " ".join(test.notes)


def test_counts_are_those_of_a_published_copy_or_say_how_they_differ():
    task = load_task("vqarad")
    found = {"questions": 451, "open": 179, "closed": 272, "images": 203}
    assert "the MEVF split" in compare_counts(task, split="test", language="en", found=found)
    found |= {"open": 200, "closed": 251}
    assert "hub copy" in compare_counts(task, split="test", language="en", found=found)
    found |= {"questions": 450, "closed": 250}
    text = compare_counts(task, split="test", language="en", found=found)
    assert "questions 450, published 451" in text
    assert "no published" in compare_counts(task, split="extra", language="en", found=found)


def test_every_shipped_task_is_whole():
    assert {"vqarad", "slake", "pathvqa", "pmcvqa", "omnimedvqa"} <= set(task_names())
    assert len(task_names()) == 20
    for name in task_names():
        task = load_task(name)
        assert len(task.hub.revision) == 40 if task.hub else task.source
        for language in task.languages:
            # Boxes have a prompt of their own, and reports are asked by `ask`.
            assert task.prompt(language) or task.layout
        for counts in task.counts:
            if counts.open is not None:
                assert counts.open + (counts.closed or 0) == counts.questions
        for table in task.published:
            assert all(len(row) == len(table.columns) + 1 for row in table.rows)
            assert all(0 <= value <= 100 for row in table.rows for value in row[1:])


def test_a_file_of_ones_own(tmp_path):
    rows = [
        {"id": "a", "image": None, "question": "Is it?", "answer": "yes", "answer_type": "closed"},
        {"id": "b", "question": "Which?", "answer": "x", "choices": ["x", "y"]},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_questions(str(file))
    assert (found.name, found.split, found.closed_prompt) == ("mine", "test", "")
    assert "the answer_type of each question (1)" in found.rule
    file.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0] | {"answer": None}) + "\n")
    with pytest.raises(RecordError, match=r"no 'answer'.*line 2"):
        load_questions(str(file))
    file.write_text((json.dumps(rows[0]) + "\n") * 2)
    with pytest.raises(RecordError, match="'a' occurs twice"):
        load_questions(str(file))
    file.write_text(json.dumps(rows[0] | {"answer_type": "maybe"}) + "\n")
    with pytest.raises(RecordError, match="not open or closed"):
        load_questions(str(file))


@pytest.mark.parametrize("content", ["[", "[1]", '{"a": ', "[]", "\xff"])
def test_a_broken_file_is_a_data_error(tmp_path, content):
    (tmp_path / "test.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError):
        load_questions(str(tmp_path))


def test_what_is_not_there_says_what_is(tmp_path):
    with pytest.raises(DataError, match="did you mean 'pathvqa'"):
        load_questions("pathqva")
    with pytest.raises(DataError, match="such as test"):
        load_questions(str(tmp_path))
    copies.own_release(tmp_path)
    with pytest.raises(DataError, match="no question of split 'validation'"):
        load_questions("vqarad", data=tmp_path, split="validation")


def test_without_a_network_the_hub_says_what_to_do():
    with pytest.raises(RemoteError, match=r"VQA-RAD cannot be fetched .*--data.*hf download"):
        load_questions("vqarad")


@pytest.mark.parametrize(
    ("name", "make"), [("pathvqa", copies.parquet), ("slake", copies.slake_hub)]
)
def test_the_hub_route_reads_what_a_folder_holds(tmp_path, monkeypatch, name, make):
    folder = make(tmp_path / "hub")
    for place in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(f"datasets.config.{place}", tmp_path / "datasets")
    task = load_task(name)
    local = dataclasses.replace(task, hub=dataclasses.replace(task.hub, id=str(folder)))
    monkeypatch.setattr("medllava.data.benchmarks.questions.load_task", lambda _: local)
    found = load_questions(name)
    assert [kind for *_, kind in kinds(found)] == ([CLOSED, OPEN, CLOSED])
    assert len(image_paths(found, found.questions)) == 2
    assert len(list(hub_rows(local, "test"))) == (4 if name == "slake" else 3)
    assert load_questions(name).file_sha256 == found.file_sha256


def test_choices_and_prompt_are_written_below_the_question():
    question = Question(
        id="q", image=None, question=" Which? ", answer="b", answer_type=CLOSED, choices=("a", "b")
    )
    text = question_text(question, closed_prompt="Letter only.")
    assert text == "Which?\nA. a\nB. b\nLetter only."
    assert Hub(id="x", revision="y").files == {}
    assert benchmark_task.task_names()
