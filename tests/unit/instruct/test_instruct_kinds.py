"""Questions with short answers and with choices: asked for, gated, dealt, and balanced as a set."""

import json
from collections import Counter
from pathlib import Path

import pytest
from llm_server import LoopbackModel

from medllava.data.benchmarks.questions import load_questions
from medllava.data.sources import iter_instruction_records
from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig, Kind
from medllava.instruct.context import read_context
from medllava.instruct.generate import generate_instructions
from medllava.instruct.option_gates import failed_option_gate
from medllava.instruct.parse import parse_conversation
from medllava.instruct.shortcuts import (
    CONSTANT_ANSWER,
    CONSTANT_OPTION,
    find_shortcuts,
    text_only_accuracy,
)
from medllava.records import AnswerType, Question, Stage
from medllava.store import iter_jsonl

PLANES = ("axial", "sagittal", "coronal")


def plane_in(text: str) -> str:
    return next(plane for plane in PLANES if plane in text.rsplit("Caption:", 1)[1])


def choose(text: str) -> str:
    """A teacher of choices; each reply has two questions with one flaw each beside a good one."""
    plane = plane_in(text)
    others = [p for p in PLANES if p != plane] + ["oblique"]
    turns = [
        {"question": "In which plane is this slice?", "answer": plane, "wrong_options": others},
        {
            "question": "Which method made it?",
            "answer": "MRI",
            "wrong_options": ["CT", "magnetic resonance imaging", "X-ray"],
        },
        {
            "question": "What is seen in the middle?",
            "answer": "an enlarged ventricle that pushes the midline far to one side of the head",
            "wrong_options": ["a cyst", "a tumor", "a clot"],
        },
    ]
    return json.dumps({"turns": turns})


def answer_shortly(text: str) -> str:
    """A teacher of short answers who says yes nearly always."""
    plane = plane_in(text)
    number = int(text.rsplit("Number ", 1)[1].split()[0])
    turns = [
        {"question": "In which plane is this slice?", "answer": plane},
        {"question": f"Is spot {number} bright?", "answer": "No" if number % 10 == 0 else "Yes."},
        {"question": "What is the method?", "answer": "MRI"},
        {"question": "Describe it all.", "answer": " ".join(["dark spots"] * 8)},
    ]
    return json.dumps({"turns": turns})


@pytest.fixture
def corpus(make_figure, figures_dir):
    return figures_dir(
        *(
            make_figure(
                i,
                caption=f"Number {i} : {PLANES[i % 3]} MRI of the brain, a spot.",
                modality="mri",
                label="",
            )
            for i in range(30)
        ),
        rows_per_group=500,
    )


def run(figures: Path, out: Path, reply, kind: Kind, **more: object):
    with LoopbackModel(reply).running() as server:
        config = GenerateConfig(
            figures=figures,
            output_dir=out,
            stage=Stage.INSTRUCT,
            teacher="m",
            base_url=server.url,
            kind=kind,
            **more,
        )
        return generate_instructions(config)


def dropped(out: Path) -> Counter:
    return Counter(row["reason"] for _, row in iter_jsonl(out / "rejected.jsonl"))


def test_choices_are_dealt_evenly_and_gated(corpus, tmp_path):
    out = tmp_path / "out"
    summary = run(corpus, out, choose, Kind.CHOICE)
    assert dropped(out) == {"two_right_options": 30, "odd_option": 30}
    records = list(iter_instruction_records(out))
    assert len(records) == summary.counts["questions"] == 30
    letters = Counter(record.turns[1].content for record in records)
    assert set(letters) == set("ABCD")
    assert max(letters.values()) - min(letters.values()) <= 1
    for record in records:
        lines = record.turns[0].content.splitlines()
        assert lines[:2] == ["<image>", "In which plane is this slice?"]
        chosen = next(line for line in lines if line.startswith(f"{record.turns[1].content}. "))
        number = int(record.figure_id.removeprefix("PMC").split(".")[0])
        assert chosen.endswith(PLANES[number % 3])
        assert record.provenance["version"] == "choice-1"
    task = load_questions(str(out / "questions.jsonl"))
    assert [q.answer_type for q in task.questions] == [AnswerType.CLOSED] * 30
    assert all(len(q.choices) == 4 and q.answer in q.choices for q in task.questions)
    assert summary.details["usage"]["chance"] == 0.25
    again = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    run(corpus, out, choose, Kind.CHOICE)
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == again


def test_short_answers_lose_what_words_alone_answer(corpus, tmp_path):
    out = tmp_path / "out"
    summary = run(corpus, out, answer_shortly, Kind.VQA)
    left_out = dropped(out)
    # "What is the method?" is always MRI; of 27 yes and 3 no, four yes are kept.
    assert left_out[CONSTANT_ANSWER] == 30 + 23
    assert left_out["repetition"] + left_out["too_long"] == 30
    records = list(iter_instruction_records(out))
    answers = Counter(record.turns[1].content for record in records)
    assert answers == {"axial": 10, "sagittal": 10, "coronal": 10, "yes": 4, "no": 3}
    assert len({record.record_id for record in records}) == len(records)
    assert summary.details["usage"]["text_only_accuracy"] < 0.4


def test_kind_needs_a_model(corpus, tmp_path):
    config = GenerateConfig(
        figures=corpus, output_dir=tmp_path / "out", stage=Stage.INSTRUCT, kind=Kind.CHOICE
    )
    with pytest.raises(DataError, match="--kind choice needs a model"):
        generate_instructions(config)


@pytest.mark.parametrize(
    ("item", "right", "wrong"),
    [
        (
            {"answer": "liver", "wrong_options": ["B. spleen", "kidney"]},
            "liver",
            {"spleen", "kidney"},
        ),
        ({"answer": "B", "options": ["spleen", "liver", "kidney"]}, "liver", {"spleen", "kidney"}),
        (
            {"answer": "B. liver", "options": {"A": "spleen", "B": "liver", "C": "kidney"}},
            "liver",
            {"spleen", "kidney"},
        ),
        ({"answer": "liver", "choices": ["A) spleen", "B) liver"]}, "liver", {"spleen"}),
        ({"answer": "heart", "options": ["spleen", "liver"]}, "heart", set()),
        ({"answer": "liver", "wrong_options": "spleen"}, "liver", set()),
    ],
)
def test_options_are_read_however_a_teacher_writes_them(item, right, wrong):
    reply = json.dumps({"turns": [{"question": "Which organ?", **item}]})
    (pair,) = parse_conversation(reply).pairs
    assert pair.answer == right
    assert set(pair.wrong_options) == wrong


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("liver", "spleen", "kidney"), None),
        (("between L4 and L5", "between L1 and L2", "between L2 and L3"), None),
        (("a brain tumor", "an abscess", "a cyst"), None),
        (("liver", "spleen"), "too_few_options"),
        (("liver", "spleen", "none of these"), "two_right_options"),
        (("axial", "liver", "spleen"), "odd_option"),
        (("3", "many", "few"), "odd_option"),
        (("liver", "kidney", "hepatic"), "two_right_options"),
    ],
)
def test_options_are_of_one_kind_and_one_is_right(make_figure, options, rule):
    context = read_context(make_figure(caption="A picture of something."))
    assert failed_option_gate(options, context) == rule


def question(number: int, text: str, answer: str, choices: tuple[str, ...] = ()) -> Question:
    return Question(
        id=str(number),
        image="a.png",
        question=text,
        answer=answer,
        answer_type=AnswerType.CLOSED if choices or answer in ("yes", "no") else AnswerType.OPEN,
        choices=choices,
    )


def test_an_option_that_is_always_right_is_thinned_out():
    wrong = [("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i")]
    asked = [question(i, f"Q {i}?", "CT", ("CT", *wrong[i % 3])) for i in range(20)]
    other = ("MRI", "PET")
    asked += [question(100 + i, f"Q {i}!", other[i % 2], ("MRI", "CT", "PET")) for i in range(6)]
    found = find_shortcuts(asked, seed=0)
    kept = [q for q in asked if q.id not in found]
    assert set(found.values()) == {CONSTANT_OPTION}
    right = sum(q.answer == "CT" for q in kept)
    shown = sum("CT" in q.choices for q in kept)
    assert right <= 0.6 * shown
    assert 5 <= right <= 9
    assert find_shortcuts(asked, seed=0) == found
    assert (
        text_only_accuracy(kept)["text_only_accuracy"]
        < (text_only_accuracy(asked)["text_only_accuracy"])
    )


def test_balanced_questions_are_left_alone_and_few_say_nothing():
    asked = [question(i, "Which plane?", PLANES[i % 3]) for i in range(60)]
    asked += [question(100 + i, f"Is {i} bright?", ("yes", "no")[i % 2]) for i in range(60)]
    asked += [question(200 + i, "Which organ?", "liver") for i in range(7)]
    assert find_shortcuts(asked, seed=0) == {}


def test_blind_guessing_is_measured_without_the_question_itself():
    asked = [question(i, f"Unique {i}?", f"answer {i}") for i in range(10)]
    assert text_only_accuracy(asked) == {"text_only_accuracy": 0.0, "chance": None}
    asked = [question(i, "Which?", "liver") for i in range(10)]
    assert text_only_accuracy(asked)["text_only_accuracy"] == 1.0
