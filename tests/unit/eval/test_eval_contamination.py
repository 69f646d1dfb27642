"""Test items that training saw are flagged by name, and scores are shown without them."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.eval.ask.encode_images import ImageEncoder
from medllava.eval.config import Condition, EvalConfig
from medllava.eval.contamination import Flag, find_contamination
from medllava.eval.encoder_twins import EncoderTwins, look_at
from medllava.eval.run import evaluate_task
from medllava.images.copies import windowed
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


def textured(seed, size=(300, 260)):
    """A picture with fine structure, as real ones have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (18, 20), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert("RGB")


def test_images_of_training_questions_are_found_where_the_task_reader_finds_them(tmp_path):
    """A copy keeps its images in a sub-folder; the check must not report "0 flags" for it."""
    train = tmp_path / "train"
    (train / "images").mkdir(parents=True)
    test_images = {}
    for i in range(3):
        textured(i).save(tmp_path / f"{i}.png")
        textured(i).save(train / "images" / f"t{i}.jpg", quality=90)
        test_images[f"{i}.png"] = tmp_path / f"{i}.png"
    lines = [question(f"t{i}", f"t{i}.jpg").to_json() for i in range(3)]
    (train / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = [question(f"q{i}", f"{i}.png", "Other?", "no") for i in range(3)]
    found = find_contamination(questions, test_images, [train / "train.jsonl"])
    assert [found.flags[f"q{i}"] for i in range(3)] == [
        {Flag.NEAR_IMAGE: f"t{i}"} for i in range(3)
    ]
    assert found.unread == []


def test_fifty_jpegs_are_near_their_lossless_copies_and_near_nothing_else(tmp_path):
    paths, questions = {}, []
    for i in range(50):
        textured(i).save(tmp_path / f"{i}.png")
        textured(i).save(tmp_path / f"{i}.jpg", quality=85)
        paths[f"{i}.png"] = tmp_path / f"{i}.png"
        questions.append(question(f"q{i}", f"{i}.png", f"What is {i}?", "x"))
    write_instructions(tmp_path, [(f"{i}.jpg", "Describe.", "A scan.") for i in range(50)])
    found = find_contamination(questions, paths, [tmp_path])
    assert {key: dict(flags) for key, flags in found.flags.items()} == {
        f"q{i}": {Flag.NEAR_IMAGE: f"r{i}"} for i in range(50)
    }


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_a_turned_framed_and_brighter_copy_is_found(tmp_path, turn):
    textured(7).save(tmp_path / "test.png")
    copy = textured(7).transpose(turn).point([min(255, v + 20) for v in range(256)] * 3)
    framed = Image.new("RGB", (copy.width + 40, copy.height + 40), "white")
    framed.paste(copy, (20, 20))
    framed.save(tmp_path / "train.png")
    write_instructions(tmp_path, [("train.png", "Describe.", "A scan.")])
    paths = {"test.png": tmp_path / "test.png"}
    found = find_contamination([question("q", "test.png", "C?")], paths, [tmp_path])
    assert found.flags == {"q": {Flag.NEAR_IMAGE: "r0"}}


@pytest.mark.parametrize("side", ["train", "test"])
def test_images_that_cannot_be_opened_make_the_run_incomplete_and_are_said(tmp_path, side):
    """Exit 6, on the terminal, never "0 flags"."""
    test, train = tmp_path / "test", tmp_path / "train"
    for folder in (test, train):
        folder.mkdir()
        textured(len(folder.name)).save(folder / "a.png")
    (tmp_path / side / "a.png").write_bytes(b"no image")
    write_instructions(train, [("a.png", "Describe.", "A scan.")])
    file, answers = test / "questions.jsonl", tmp_path / "p.jsonl"
    file.write_text(json.dumps(question("q", "a.png").to_json()) + "\n")
    answers.write_text('{"id": "q", "text": "yes"}\n')
    arguments = ["--predictions", str(answers), "--train-data", str(train), "--draws", "10"]
    result = CliRunner().invoke(app, ["eval", str(file), *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 6, result.output
    assert "NOT COMPLETE" in result.output
    assert "a.png" in result.output
    report = read_json(tmp_path / "out" / "report.json")["contamination"]
    assert report["num_unread"] == 1
    textured(1).save(tmp_path / side / "a.png")
    again = CliRunner().invoke(app, ["eval", str(file), *arguments, "-o", str(tmp_path / "out")])
    assert again.exit_code == 0, again.output


def test_train_image_dir_says_where_training_images_are(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    textured(3).save(tmp_path / "a.png")
    textured(3).save(tmp_path / "elsewhere" / "b.png")
    write_instructions(tmp_path, [("b.png", "Describe.", "A scan.")])
    paths, asked = {"a.png": tmp_path / "a.png"}, [question("q", "a.png", "C?")]
    assert find_contamination(asked, paths, [tmp_path]).unread == [f"{tmp_path}: b.png"]
    found = find_contamination(asked, paths, [tmp_path], image_dir=tmp_path / "elsewhere")
    assert found.flags == {"q": {Flag.SAME_IMAGE: "r0"}}


def test_a_split_of_a_shipped_task_is_training_data_too(tmp_path):
    """`--train-data vqarad:train`, from the local copy that `--data` names."""
    copy = tmp_path / "vqarad"
    copy.mkdir()
    textured(3).save(copy / "a.png")
    row = {"qid": "1", "image_name": "a.png", "question": "Is it?", "answer": "yes"}
    row |= {"answer_type": "CLOSED", "phrase_type": "freeform"}
    (copy / "train.json").write_text(json.dumps([row]))
    textured(3).save(tmp_path / "t.png")
    found = find_contamination(
        [question("q", "t.png", "C?")],
        {"t.png": tmp_path / "t.png"},
        ["vqarad:train"],
        local_copies={"vqarad": copy},
    )
    assert found.flags["q"].keys() == {Flag.SAME_IMAGE}


def drawn_scan(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    picture = 120.0 - 60 * np.hypot(x, y)
    for _ in range(40):
        cx, cy, size = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9), rng.uniform(0.03, 0.2)
        picture += rng.uniform(-60, 60) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("RGB")


def of_parts(pictures):
    """An encoder that works: the mean colour of 4 x 4 parts, in some nonlinear features."""
    small = np.stack(
        [np.asarray(p.convert("L").resize((8, 8)), dtype=np.float32) for p in pictures]
    )
    flat = small.reshape(len(pictures), -1) / 255
    return np.concatenate([flat, flat**2, np.abs(flat - flat.mean(axis=1, keepdims=True))], axis=1)


def test_the_second_look_finds_what_the_first_did_not_and_no_stranger(tmp_path, monkeypatch):
    looks = [look_at(drawn_scan(seed)) for seed in range(24)]
    names = [f"{seed}.png" for seed in range(24)]
    second = EncoderTwins(names, looks, of_parts)
    assert second.planted == 24
    assert second.found >= 0.8 * second.planted
    copy = look_at(windowed(drawn_scan(3)))
    assert second.find([copy]) == [["3.png"]]
    strangers = [look_at(drawn_scan(seed)) for seed in range(100, 130)]
    assert second.find(strangers) == [[]] * 30
    assert second.find([]) == []


def test_the_second_look_is_asked_only_about_what_the_first_left(tmp_path, monkeypatch):
    test, train = tmp_path / "test", tmp_path / "train"
    for folder in (test, train):
        folder.mkdir()
    for seed in range(6):
        drawn_scan(seed).save(test / f"{seed}.png")
    drawn_scan(1).save(train / "found.png")
    windowed(drawn_scan(2)).save(train / "missed.png")
    drawn_scan(50).save(train / "other.png")
    rows = [(name, "Describe it.", "A scan.") for name in ("found.png", "missed.png", "other.png")]
    write_instructions(train, rows)
    monkeypatch.setattr(
        "medllava.eval.contamination.TwinIndex.find",
        lambda self, signature: [],  # the first look finds bytes only
    )
    questions = [question(str(seed), f"{seed}.png") for seed in range(6)]
    paths = {f"{seed}.png": test / f"{seed}.png" for seed in range(6)}
    found = find_contamination(questions, paths, [train], encode=of_parts)
    assert found.flags["2"] == {Flag.NEAR_IMAGE: "r1"}
    assert set(found.flags) == {"1", "2"}
    assert found.encoder["planted"] == 6
    assert find_contamination(questions, paths, [train]).encoder is None


def test_the_encoder_of_a_checkpoint_gives_features_of_parts(tiny_model):
    encode = ImageEncoder(tiny_model)
    pictures = [drawn_scan(seed) for seed in range(3)]
    found = encode(pictures)
    assert found.shape[0] == 3
    assert np.allclose(found[1], encode(pictures[1:2])[0], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-4)
