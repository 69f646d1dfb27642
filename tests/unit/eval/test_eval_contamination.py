"""Test items that training saw are flagged by name, and scores are shown without them."""

import json

import numpy as np
import pytest
from PIL import Image

from medllava.eval.config import Condition, EvalConfig
from medllava.eval.contamination import Flag, find_contamination
from medllava.eval.run import evaluate_task
from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl, read_json


def photo(seed, size=(96, 80)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def question(key, image, text="Is there a nodule?", answer="yes"):
    return Question(
        id=key, image=image, question=text, answer=answer, answer_type=AnswerType.CLOSED
    )


@pytest.fixture
def folders(tmp_path):
    """Test and training images: 0 the same bytes, 1 recompressed and smaller, 2 another."""
    test, train = tmp_path / "test", tmp_path / "train"
    for folder in (test, train):
        folder.mkdir()
    for i in range(4):
        photo(i).save(test / f"{i}.png")
    (train / "a.png").write_bytes((test / "0.png").read_bytes())
    photo(1).resize((72, 60)).save(train / "b.jpg", quality=80)
    photo(99).save(train / "c.png")
    return test, train


def write_instructions(train, records):
    lines = [
        {
            "record_id": f"r{i}",
            "images": [image] if image else [],
            "turns": [
                {"role": "user", "content": f"<image>\n{asked}" if image else asked},
                {"role": "assistant", "content": answered},
            ],
            "stage": "instruct",
        }
        for i, (image, asked, answered) in enumerate(records)
    ]
    file = train / "instructions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_each_flag_is_raised_by_what_it_names(folders):
    test, train = folders
    long = "What does the arrow in the upper left corner of panel B point at?"
    questions = [
        question("same", "0.png", "Which side?", "left"),
        question("near", "1.png", "Is there a nodule?", "no"),
        question("pair", "2.png", "Is the heart enlarged?", "Yes"),
        question("ngram", "3.png", long, "a vessel"),
        question("clean", "3.png", "Is contrast given?", "no"),
    ]
    write_instructions(
        train,
        [
            ("a.png", "Which side?", "right"),
            ("b.jpg", "Describe it.", "A scan."),
            ("c.png", "is the heart enlarged", "yes."),
            (None, f"Tell me: {long.lower()} Be brief.", "The aorta."),
            ("gone.png", "Is contrast given?", "yes"),
        ],
    )
    paths = {f"{i}.png": test / f"{i}.png" for i in range(4)}
    found = find_contamination(questions, paths, [train])
    assert found.flags == {
        "same": {Flag.SAME_IMAGE: "r0", Flag.SAME_ITEM: "r0"},
        "near": {Flag.NEAR_IMAGE: "r1"},
        "pair": {Flag.SAME_PAIR: "r2"},
        "ngram": {Flag.NGRAM: "r3"},
    }
    (source,) = found.sources
    assert (source["records"], source["images"], source["images_not_readable"]) == (5, 3, 1)


@pytest.mark.parametrize("form", ["llava", "questions"])
def test_other_forms_of_training_data_are_read(folders, form):
    test, train = folders
    if form == "llava":
        file = train / "train.json"
        turns = [{"from": "human", "value": "<image>\nA?"}, {"from": "gpt", "value": "B"}]
        file.write_text(json.dumps([{"id": "x", "image": "a.png", "conversations": turns}]))
    else:
        file = train / "train.jsonl"
        file.write_text(json.dumps(question("x", "a.png").to_json()) + "\n")
    found = find_contamination([question("q", "0.png", "C?")], {"0.png": test / "0.png"}, [file])
    assert found.flags == {"q": {Flag.SAME_IMAGE: "x"}}


def test_the_report_has_scores_with_and_without_flagged_items(folders, tmp_path):
    test, train = folders
    write_instructions(train, [("a.png", "Which side?", "left")])
    lines = [question(f"q{i}", f"{i}.png", f"Is it {i}?").to_json() for i in range(4)]
    file = test / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = tmp_path / "p.jsonl"
    texts = ["yes", "no", "no", "yes"]
    answers.write_text(
        "".join(json.dumps({"id": f"q{i}", "text": t}) + "\n" for i, t in enumerate(texts))
    )
    config = EvalConfig(
        task=str(file),
        predictions=answers,
        output_dir=tmp_path / "out",
        conditions=(Condition.REAL,),
        train_data=(train,),
        draws=100,
    )
    artifacts = evaluate_task(config).artifacts
    found = read_json(artifacts["report"])["contamination"]
    assert found["flags"]["same_image"] == 1
    values = {
        name: (subset["num_questions"], subset["scores"]["closed_accuracy"]["value"])
        for name, subset in found["scores"].items()
    }
    assert values == {
        "all": (4, 0.5),
        "without flagged images": (3, pytest.approx(1 / 3)),
        "without any flag": (3, pytest.approx(1 / 3)),
        "flagged": (1, 1.0),
    }
    (line,) = (line for _, line in iter_jsonl(artifacts["contamination"]))
    assert line == {"id": "q0", "image": "0.png", "flags": {"same_image": "r0"}}
    assert "Shared with the training data" in artifacts["page"].read_text()
